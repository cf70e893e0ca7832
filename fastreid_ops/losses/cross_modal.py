# SPDX-License-Identifier: Apache-2.0
"""Contrastive losses between visible and infrared embeddings."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from fastreid_ops.losses import _checks as check
from fastreid_ops.losses._numeric import full, logsumexp_without
from fastreid_ops.ops.distance import pairwise_distance


class CMKICLoss(nn.Module):
    """Cross-modality key-instance contrastive loss of WRIM-Net, L_VI + L_IV.

    With s_ij = cos(v_i, r_j) / temperature between visible row i and infrared row j, Key_k(i) the k rows of the other
    modality with the label of i and the *smallest* s, and Neg(i) the rows of the other modality with other labels:

        L_VI = mean over i, mean over p in Key_k(i) of log(exp s_ip + sum over n in Neg(i) of exp s_in) - s_ip

    and L_IV with the roles swapped. Rows with fewer than k positives use all of them; k = 1 is the hardest positive, a
    large k every positive, and the loss never rises with k for given embeddings.

    Wu et al., "WRIM-Net: wide-ranging information mining network for visible-infrared person re-identification", 2024;
    its name CMKIC_P5_VI gives k = 5 and the sum. What the source does not fix: the temperature, cosine rather than
    inner product, and that other positives are left out of the denominator (``other_positives=True`` keeps them).

    Shapes: visible (V, D), infrared (R, D), labels (V,) and (R,) -> 0-d.
    NaN: refused by the distance op, by count and row.
    Ties: of positives at the same similarity at the edge of the key set, one is taken.
    Memory: one V x R cosine matrix for both directions, and a few temporaries of that size.

    Args:
        k: the number of key instances, at least 1.
        temperature: above 0.
        other_positives: count the positives outside the pair in the denominator as well.
        check_inputs: refuse rows without a positive or a negative in the other modality, and embeddings that are not
            finite; waits for a GPU. Without it the former add nothing.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: k below 1 or temperature not above 0.
    """

    def __init__(
        self,
        k: int = 5,
        *,
        temperature: float = 0.1,
        other_positives: bool = False,
        check_inputs: bool = True,
    ) -> None:
        super().__init__()
        self.k = check.count("CMKICLoss", "k", k)
        self.temperature = check.number("CMKICLoss", "temperature", temperature, above=0)
        self.other_positives = check.flag("CMKICLoss", "other_positives", other_positives)
        self.check_inputs = check.flag("CMKICLoss", "check_inputs", check_inputs)

    def forward(
        self, visible: Tensor, infrared: Tensor, visible_labels: Tensor, infrared_labels: Tensor | None = None
    ) -> Tensor:
        """Embeddings (V, D) and (R, D) of any length, labels (V,) and (R,) int64 -> 0-d tensor, at least float32.

        ``infrared_labels`` are the visible ones unless given.

        Raises:
            TypeError: embeddings not floating, labels not int64.
            ValueError: shapes that do not fit; a row without a positive or without a negative in the other modality.
        """
        similarity, same = _similarity(
            "CMKICLoss", visible, infrared, visible_labels, infrared_labels, check_inputs=self.check_inputs
        )
        similarity = similarity / self.temperature
        return self._one_way(similarity, same) + self._one_way(similarity.T, same.T)

    def _one_way(self, similarity: Tensor, same: Tensor) -> Tensor:
        hardest = similarity.masked_fill(~same, float("inf"))
        key = hardest.topk(min(self.k, same.shape[1]), dim=1, largest=False)
        found = same.gather(1, key.indices)
        if self.other_positives:
            term = similarity.logsumexp(dim=1, keepdim=True) - key.values
        else:
            # log(exp(s) + exp(n)) - s
            term = F.softplus(logsumexp_without(similarity, same).unsqueeze(1) - key.values)
        per_row = term.masked_fill(~found, 0).sum(1) / found.sum(1).clamp_min(1)
        return per_row.mean()

    def extra_repr(self) -> str:
        return f"k={self.k}, temperature={self.temperature}, other_positives={self.other_positives}"


class CrossModalContrastiveLoss(nn.Module):
    """Supervised contrastive loss between two modalities, the mean of both directions.

    With s = cos / temperature, over every row of one modality and the positives p among all rows j of the other:
    1/2 sum over the directions of mean_i mean_p -log(exp s_ip / sum_j exp s_ij). The instance-level form of SS-DEC's
    contrastive term (EmbedNet), whose snippet ignores the labels; the temperature is not fixed by the source.

    Shapes, NaN, Memory and Raises as for `CMKICLoss`.

    Args:
        temperature: above 0.
        check_inputs: as for `CMKICLoss`.
    """

    def __init__(self, temperature: float = 0.1, *, check_inputs: bool = True) -> None:
        super().__init__()
        self.temperature = check.number("CrossModalContrastiveLoss", "temperature", temperature, above=0)
        self.check_inputs = check.flag("CrossModalContrastiveLoss", "check_inputs", check_inputs)

    def forward(
        self, visible: Tensor, infrared: Tensor, visible_labels: Tensor, infrared_labels: Tensor | None = None
    ) -> Tensor:
        """As `CMKICLoss.forward`."""
        similarity, same = _similarity(
            "CrossModalContrastiveLoss",
            visible,
            infrared,
            visible_labels,
            infrared_labels,
            check_inputs=self.check_inputs,
        )
        similarity = similarity / self.temperature

        def one_way(similarity: Tensor, same: Tensor) -> Tensor:
            negative_log = -similarity.log_softmax(dim=1)
            return ((negative_log * same).sum(1) / same.sum(1).clamp_min(1)).mean()

        return (one_way(similarity, same) + one_way(similarity.T, same.T)) / 2

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}"


def _similarity(
    loss: str,
    visible: Tensor,
    infrared: Tensor,
    visible_labels: Tensor,
    infrared_labels: Tensor | None,
    *,
    check_inputs: bool,
) -> tuple[Tensor, Tensor]:
    """Cosines (V, R), and which pairs share a label."""
    if infrared_labels is None:
        infrared_labels = visible_labels
    check.rows_and_labels(loss, "visible", visible, visible_labels, labels_name="visible_labels")
    check.rows_and_labels(loss, "infrared", infrared, infrared_labels, labels_name="infrared_labels")
    check.same_device(loss, "infrared", infrared, "visible", visible)
    if visible.shape[1] != infrared.shape[1]:
        raise ValueError(
            f"{loss}: infrared: got width {infrared.shape[1]}, expected {visible.shape[1]}, that of visible"
        )
    same = visible_labels.unsqueeze(1) == infrared_labels.unsqueeze(0)
    if check_inputs:
        for name, mask in (("visible", same), ("infrared", same.T)):
            check.every_row(loss, f"{name}_labels", mask.any(1), "a positive in the other modality")
            check.every_row(loss, f"{name}_labels", (~mask).any(1), "a negative in the other modality")
    cosine = 1 - pairwise_distance(full(visible), full(infrared), metric="cosine", check_finite=check_inputs)
    return cosine, same
