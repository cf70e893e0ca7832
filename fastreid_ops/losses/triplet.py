# SPDX-License-Identifier: Apache-2.0
"""Batch-hard metric loss."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

from fastreid_ops.losses import _checks as check
from fastreid_ops.losses._numeric import full
from fastreid_ops.ops.distance import pairwise_distance

SMALLEST_DISTANCE = 1e-6  # sqrt(1e-12), the floor of deep-person-reid's sqrt(clamp(d^2, 1e-12))
METRICS = ("euclidean", "cosine")


class BatchHardTripletLoss(nn.Module):
    """Batch-hard triplet loss.

    For every row i: the farthest row of the same label (i itself included) against the nearest row of another label,
    mean over i of max(0, d_ap - d_an + margin), or of log(1 + exp(d_ap - d_an)) for the soft margin.
    Hermans et al., "In defense of the triplet loss for person re-identification", 2017, equation 5. Euclidean on
    features as they are in deep-person-reid, NAIC_ReID (soft margin) and DEEN; ``metric="cosine"`` (1 - cos, margin
    0.3) in Simple-CCReID. The numbers of images per identity may differ.

    Euclidean distances are at least 1e-6, and rows that close to each other get no gradient from their pair: this is
    the floor sqrt(max(d^2, 1e-12)) of deep-person-reid. A row without a second row of its label has d_ap = 1e-6, so it
    only pushes its nearest negative away.

    Shapes: features (B, D), labels (B,) -> 0-d.
    NaN: refused by the distance op, by count and row.
    Ties: several hardest rows at exactly the same distance share the gradient evenly.
    Determinism: as `pairwise_distance`.
    Memory: a few B x B matrices.

    Args:
        margin: at least 0 and finite, or ``"soft"``.
        metric: ``"euclidean"`` or ``"cosine"``.
        check_inputs: refuse a batch of one identity and features that are not finite. Costs a wait for the device
            per call on a GPU; without it the former gives 0 and the latter NaN.

    Raises:
        ValueError: margin negative, not finite or another word; an unknown metric.
        TypeError: margin neither a number nor a word.
    """

    def __init__(
        self, margin: float | str = 0.3, *, metric: str = "euclidean", check_inputs: bool = True
    ) -> None:
        super().__init__()
        self.margin = check.margin_or_soft("BatchHardTripletLoss", margin)
        self.metric = check.choice("BatchHardTripletLoss", "metric", metric, METRICS)
        self.check_inputs = check.flag("BatchHardTripletLoss", "check_inputs", check_inputs)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Features (B, D) floating, labels (B,) int64 -> 0-d tensor, float32 for half-precision features.

        Raises:
            TypeError: features not floating, labels not int64.
            ValueError: shapes that do not fit, or a batch with a single identity (no negative exists).
        """
        distance, same = batch_distances(
            "BatchHardTripletLoss", features, labels, metric=self.metric, check_inputs=self.check_inputs
        )
        # amax and amin, unlike max and min with a dim, split the gradient evenly among equal entries.
        farthest_positive = distance.masked_fill(~same, -math.inf).amax(dim=1)
        nearest_negative = distance.masked_fill(same, math.inf).amin(dim=1)
        return hinge(farthest_positive - nearest_negative, self.margin)

    def extra_repr(self) -> str:
        return f"margin={self.margin!r}, metric={self.metric!r}"


def batch_distances(
    loss: str, features: Tensor, labels: Tensor, *, check_inputs: bool, metric: str = "euclidean"
) -> tuple[Tensor, Tensor]:
    """Distances (B, B) of a checked batch, Euclidean ones of at least 1e-6, and which pairs share a label."""
    check.rows_and_labels(loss, "features", features, labels)
    if check_inputs:
        check.two_identities(loss, labels)
    features = full(features)
    distance = pairwise_distance(features, features, metric=metric, check_finite=check_inputs)
    if metric == "euclidean":
        distance = distance.clamp_min(SMALLEST_DISTANCE)
    return distance, labels.unsqueeze(0) == labels.unsqueeze(1)


def hinge(gap: Tensor, margin: float | str) -> Tensor:
    """Mean of max(0, gap + margin), or of log(1 + exp(gap)) for the soft margin."""
    return F.softplus(gap).mean() if margin == "soft" else (gap + margin).clamp_min(0).mean()
