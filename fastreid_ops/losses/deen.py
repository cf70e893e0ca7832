# SPDX-License-Identifier: Apache-2.0
"""Losses of DEEN's generated embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastreid_ops.losses import _checks as check
from fastreid_ops.losses._numeric import full, row_distance, unit_rows
from fastreid_ops.ops.distance import pairwise_distance

CPM_FORMS = ("code", "paper")
ORTHOGONALITY_FORMS = ("code", "paper", "cosine")


class CPMLoss(nn.Module):
    """Centre-guided pair mining of DEEN, between original embeddings and one branch of generated ones.

    Zhang and Wang, "Diverse embedding expansion network and low-light cross-modality benchmark for visible-infrared
    person re-identification", CVPR 2023, equations 3 to 5. On class centres (means per identity and modality): v
    visible, n infrared, v+ and n+ generated from them, D Euclidean, h(a, p) the mean over the identities of
    max(0, p - a + margin), near(c) the distance of a centre to the nearest other centre of its set:

    ``form="code"`` (published code), half the sum of L_v and L_n, where
        L_v = h(D(v, v+) without gradient, D(n, v+)) + 1/2 [h(near(v+), D(n, v+)) + h(near(v), D(n, v+))]
    ``form="paper"``, the sum of both, where
        L_v = mean of max(0, D(n, v+) - D(v, v+) - near(v) + margin)

    and L_n has v and n, v+ and n+ exchanged. The paper does not say which other centre k is compared; here it is the
    nearest, as in the code. The published code ignores the margin it is given and uses 0.2.

    Shapes: original and generated (2N, D), labels (2N,) -> 0-d.
    Memory: four P x D matrices of centres and four P x P of their distances, for P identities; for N places without
        ``check_inputs`` and under torch.compile, where P is not known.

    Args:
        margin: at least 0.
        form: ``"code"`` or ``"paper"``.
        check_inputs: refuse embeddings that are not finite, identities of one half only and a single identity; waits
            for a GPU. Without it the second are left out and of the third the first hinge remains.

    Raises:
        TypeError: margin no number.
        ValueError: margin negative or not finite, an unknown form.
    """

    def __init__(self, margin: float = 0.2, *, form: str = "code", check_inputs: bool = True) -> None:
        super().__init__()
        self.margin = check.number("CPMLoss", "margin", margin, at_least=0)
        self.form = check.choice("CPMLoss", "form", form, CPM_FORMS)
        self.check_inputs = check.flag("CPMLoss", "check_inputs", check_inputs)

    def forward(self, original: Tensor, generated: Tensor, labels: Tensor) -> Tensor:
        """Embeddings (2N, D), the visible half first, labels (2N,) int64 -> 0-d tensor, at least float32.

        Rows of a half may stand in any order and identities may have different numbers of rows.

        Raises:
            TypeError: embeddings not floating, labels not int64.
            ValueError: shapes that do not fit, an odd number of rows, halves with different identities, or a single
                identity.
        """
        check.rows_and_labels("CPMLoss", "original", original, labels)
        check.like("CPMLoss", "generated", generated, original, "original")
        if len(labels) % 2:
            raise ValueError(
                f"CPMLoss: original: got {len(labels)} rows, expected an even number, the visible half first"
            )
        half = len(labels) // 2
        visible, infrared = labels[:half], labels[half:]
        among, across = visible.unsqueeze(1) == visible, infrared.unsqueeze(1) == visible
        if self.check_inputs:
            check.two_identities("CPMLoss", labels)
            check.every_row("CPMLoss", "labels", across.any(1), "a visible row of their identity")
            check.every_row("CPMLoss", "labels", across.any(0), "an infrared row of their identity")
        # An identity stands in the place of its first visible row.
        place = among.int().argmax(dim=1)
        chosen = (place == torch.arange(half, device=place.device)) & across.any(0)
        if self.check_inputs and check.has_values(labels):  # otherwise the other places stay, empty
            among, across, chosen = among[:, chosen], across[:, chosen], chosen[chosen]
        v, n, v_new, n_new = (
            _centres(rows, mask)
            for x in (full(original), full(generated))
            for rows, mask in ((x[:half], among), (x[half:], across))
        )
        term = self._paper if self.form == "paper" else self._code
        total = (term(v, n, v_new, chosen) + term(n, v, n_new, chosen)).masked_fill(~chosen, 0).sum()
        return total / chosen.sum().clamp_min(1)

    def _code(self, own: Tensor, other: Tensor, new: Tensor, chosen: Tensor) -> Tensor:
        across = row_distance(other, new)
        return 0.5 * self._hinge(across - row_distance(own, new).detach()) + 0.25 * (
            self._hinge(across - self._nearest(new, chosen))
            + self._hinge(across - self._nearest(own, chosen))
        )

    def _paper(self, own: Tensor, other: Tensor, new: Tensor, chosen: Tensor) -> Tensor:
        return self._hinge(row_distance(other, new) - row_distance(own, new) - self._nearest(own, chosen))

    def _hinge(self, gap: Tensor) -> Tensor:
        return (gap + self.margin).clamp_min(0)

    def _nearest(self, centres: Tensor, chosen: Tensor) -> Tensor:
        distance = pairwise_distance(centres, centres, metric="euclidean", check_finite=self.check_inputs)
        itself = torch.eye(len(centres), dtype=torch.bool, device=centres.device)
        return distance.masked_fill(itself | ~chosen, torch.inf).amin(dim=1)

    def extra_repr(self) -> str:
        return f"margin={self.margin}, form={self.form!r}"


def _centres(rows: Tensor, same: Tensor) -> Tensor:
    """Mean rows (N, D) of the identities, each in the place of the first column of ``same`` (rows, N) that is True in
    its rows; zeros elsewhere. Rows without any are left out.
    """
    places = same.shape[1]
    place = same.int().argmax(dim=1).masked_fill(~same.any(1), places)
    total = rows.new_zeros(places + 1, rows.shape[1]).index_add(0, place, rows)[:places]
    return total / same.sum(0).clamp_min(1).unsqueeze(1)


class OrthogonalityLoss(nn.Module):
    """Keeps the branches b_1..b_K of one batch apart.

    ============  ======================================================================================
    ``form``      value, summed over the pairs k < l
    ============  ======================================================================================
    ``code``      1/((K + 1) T) sum over t of <b_k[t], b_l[t]>: DEEN's published code, where K = 2 generated
                  branches of T rows are averaged over the 3 T rows that include the originals; weight 0.01
    ``paper``     1/T sum over t of <b_k[t], b_l[t]>: DEEN, equation 6, as a mean over the batch (the paper
                  writes no sum over it); weight 0.1
    ``cosine``    2/(K (K - 1)) mean over rows of |cos(b_k, b_l)|, in [0, 1]: the corrected orthogonality of
                  EmbedNet's T-MHEE, CM-ATM and SS-DEC
    ============  ======================================================================================

    The inner products of the first two are signed and of features as they are, so they have no lower bound. The
    original of the third compared tokens of one image with each other and grew with the batch.

    Args:
        form: see above.

    Raises:
        ValueError: an unknown form.
    """

    def __init__(self, form: str = "code") -> None:
        super().__init__()
        self.form = check.choice("OrthogonalityLoss", "form", form, ORTHOGONALITY_FORMS)

    def forward(self, branches: Sequence[Tensor]) -> Tensor:
        """At least two floating tensors (..., D) of one shape -> 0-d tensor, at least float32.

        Raises:
            TypeError: a branch is no floating tensor.
            ValueError: fewer than two branches, shapes that differ, or empty ones.
        """
        branches = self._checked(branches)
        unit = [unit_rows(b) if self.form == "cosine" else full(b) for b in branches]
        products = [(a * b).sum(-1) for position, a in enumerate(unit) for b in unit[position + 1 :]]
        if self.form == "cosine":
            return torch.stack([product.abs().mean() for product in products]).mean()
        total = torch.stack([product.mean() for product in products]).sum()
        return total / (len(branches) + 1) if self.form == "code" else total

    @staticmethod
    def _checked(branches: Sequence[Tensor]) -> list[Tensor]:
        branches = list(branches)
        if len(branches) < 2:
            raise ValueError(f"OrthogonalityLoss: branches: got {len(branches)}, expected at least 2")
        for branch in branches:
            check.floating("OrthogonalityLoss", "branches", branch)
            check.same_device("OrthogonalityLoss", "branches", branch, "the first branch", branches[0])
            if branch.dim() < 2 or 0 in branch.shape or branch.shape != branches[0].shape:
                raise ValueError(
                    f"OrthogonalityLoss: branches: got shape {tuple(branch.shape)}, expected (..., D) without a "
                    f"length of 0, as the first branch {tuple(branches[0].shape)}"
                )
        return branches

    def extra_repr(self) -> str:
        return f"form={self.form!r}"
