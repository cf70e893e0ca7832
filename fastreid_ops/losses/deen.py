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
    Memory: four P x D matrices of centres and four P x P of their distances, for P identities.

    Args:
        margin: at least 0.
        form: ``"code"`` or ``"paper"``.
        check_inputs: refuse embeddings that are not finite; waits for a GPU. (Finding the identities does so too.)

    Raises:
        TypeError: margin no number.
        ValueError: margin negative or not finite, an unknown form.
    """

    def __init__(self, margin: float = 0.2, *, form: str = "code", check_inputs: bool = True) -> None:
        super().__init__()
        self.margin = check.number("CPMLoss", "margin", margin, at_least=0)
        self.form = check.choice("CPMLoss", "form", form, CPM_FORMS)
        self.check_inputs = check_inputs

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
        check.two_identities("CPMLoss", labels)
        half = len(labels) // 2
        found, index = labels.unique(return_inverse=True)
        identities = len(found)
        for name, part in (("visible", index[:half]), ("infrared", index[half:])):
            missing = identities - len(part.unique())
            if missing:
                raise ValueError(
                    f"CPMLoss: labels: got {missing} of {identities} identities without {name} rows, expected "
                    "every identity in both halves"
                )
        v, n, v_new, n_new = (
            _centres(rows, part, identities)
            for x in (full(original), full(generated))
            for rows, part in ((x[:half], index[:half]), (x[half:], index[half:]))
        )
        if self.form == "paper":
            return self._paper(v, n, v_new) + self._paper(n, v, n_new)
        return (self._code(v, n, v_new) + self._code(n, v, n_new)) / 2

    def _code(self, own: Tensor, other: Tensor, new: Tensor) -> Tensor:
        across = row_distance(other, new)
        return self._hinge(across - row_distance(own, new).detach()) + 0.5 * (
            self._hinge(across - self._nearest(new)) + self._hinge(across - self._nearest(own))
        )

    def _paper(self, own: Tensor, other: Tensor, new: Tensor) -> Tensor:
        return self._hinge(row_distance(other, new) - row_distance(own, new) - self._nearest(own))

    def _hinge(self, gap: Tensor) -> Tensor:
        return (gap + self.margin).clamp_min(0).mean()

    def _nearest(self, centres: Tensor) -> Tensor:
        distance = pairwise_distance(centres, centres, metric="euclidean", check_finite=self.check_inputs)
        itself = torch.eye(len(centres), dtype=torch.bool, device=centres.device)
        return distance.masked_fill(itself, torch.inf).amin(dim=1)

    def extra_repr(self) -> str:
        return f"margin={self.margin}, form={self.form!r}"


def _centres(rows: Tensor, index: Tensor, identities: int) -> Tensor:
    """Mean row of every identity, (identities, D)."""
    total = rows.new_zeros(identities, rows.shape[1]).index_add(0, index, rows)
    return total / index.bincount(minlength=identities).unsqueeze(1)


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

    def _checked(self, branches: Sequence[Tensor]) -> list[Tensor]:
        branches = list(branches)
        if len(branches) < 2:
            raise ValueError(f"OrthogonalityLoss: branches: got {len(branches)}, expected at least 2")
        for branch in branches:
            if not isinstance(branch, Tensor) or not branch.is_floating_point():
                got = branch.dtype if isinstance(branch, Tensor) else type(branch).__name__
                raise TypeError(f"OrthogonalityLoss: branches: got {got}, expected floating tensors")
            if branch.dim() < 2 or 0 in branch.shape or branch.shape != branches[0].shape:
                raise ValueError(
                    f"OrthogonalityLoss: branches: got shape {tuple(branch.shape)}, expected (..., D) without a "
                    f"length of 0, as the first branch {tuple(branches[0].shape)}"
                )
        return branches

    def extra_repr(self) -> str:
        return f"form={self.form!r}"
