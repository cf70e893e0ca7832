# SPDX-License-Identifier: Apache-2.0
"""Losses of body parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from fastreid_ops.losses import _checks as check
from fastreid_ops.losses.cross_entropy import LabelSmoothedCrossEntropy
from fastreid_ops.losses.heads import mean_over_heads

# Factors of the logits of the six parts where NAIC_ReID trains its ensemble of parts and global feature.
ENSEMBLE_SCALES = (0.1, 0.2, 0.5, 0.33, 0.8, 0.22)


class PartLoss(nn.Module):
    """part_weight * mean over the parts of loss(part) + merge_weight * loss(merge).

    NAIC_ReID's PCB: six classifiers, one per part, and one on all parts merged; 0.5 and 0.5 with plain cross entropy.
    Parts after Sun et al., "Beyond part models: person retrieval with refined part pooling", ECCV 2018. Without merged
    logits their term is dropped (the original stopped with an IndexError).

    Args:
        loss: ``loss(logits, labels)``; plain cross entropy unless given.
        part_weight, merge_weight: at least 0.
        scales: a factor for the logits of every part, `ENSEMBLE_SCALES` for the ensemble mode (which stopped in the
            original; this is its intended form). None leaves them as they are.

    Raises:
        TypeError: weights or scales no numbers.
        ValueError: weights negative or not finite, no scales.
    """

    def __init__(
        self,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        part_weight: float = 0.5,
        merge_weight: float = 0.5,
        scales: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.loss = LabelSmoothedCrossEntropy(0.0) if loss is None else loss
        self.part_weight = check.number("PartLoss", "part_weight", part_weight, at_least=0)
        self.merge_weight = check.number("PartLoss", "merge_weight", merge_weight, at_least=0)
        self.scales = None if scales is None else tuple(check.number("PartLoss", "scales", s) for s in scales)
        if self.scales == ():
            raise ValueError("PartLoss: scales: got none, expected one number per part")

    def forward(self, parts: Sequence[Tensor], labels: Tensor, merge: Tensor | None = None) -> Tensor:
        """Logits (B, K) of every part, labels (B,) int64, logits (B, K) of the merged parts or none -> 0-d tensor.

        Raises:
            TypeError, ValueError: no parts, another number of them than of scales, or as the loss.
        """
        if len(parts) == 0:
            raise ValueError("PartLoss: parts: got none, expected at least one tensor")
        if self.scales is not None:
            if len(parts) != len(self.scales):
                raise ValueError(
                    f"PartLoss: parts: got {len(parts)}, expected {len(self.scales)}, one per scale"
                )
            parts = [factor * part for factor, part in zip(self.scales, parts, strict=True)]
        total = self.part_weight * mean_over_heads(self.loss, parts, labels)
        return total if merge is None else total + self.merge_weight * self.loss(merge, labels)

    def extra_repr(self) -> str:
        return f"part_weight={self.part_weight}, merge_weight={self.merge_weight}, scales={self.scales}"
