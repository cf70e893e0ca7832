# SPDX-License-Identifier: Apache-2.0
"""Metric loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastreid_ops.losses._checks import rows_and_labels
from fastreid_ops.ops.distance import pairwise_distance

SMALLEST_DISTANCE = 1e-6  # sqrt(1e-12), the floor of deep-person-reid's sqrt(clamp(d^2, 1e-12))


class BatchHardTripletLoss(nn.Module):
    """Batch-hard triplet loss on Euclidean distances of features as they are (not normalised).

    For every row i: the farthest row of the same label (i itself included) against the nearest row of another label,
    mean over i of max(0, d_ap - d_an + margin), or of log(1 + exp(d_ap - d_an)) for the soft margin.
    Hermans et al., "In defense of the triplet loss for person re-identification", 2017, equation 5.

    Distances are at least 1e-6, and rows that close to each other get no gradient from their pair: this is the floor
    sqrt(max(d^2, 1e-12)) of deep-person-reid. A row without a second row of its label has d_ap = 1e-6, so it only
    pushes its nearest negative away.

    Shapes: features (B, D), labels (B,) -> 0-d.
    NaN: refused by the distance op, by count and row.
    Ties: several hardest rows at exactly the same distance share the gradient evenly.
    Determinism: as `pairwise_distance`.
    Memory: a few B x B matrices.

    Args:
        margin: at least 0 and finite, or ``"soft"``.
        check_inputs: refuse a batch of one identity and features that are not finite. Costs a wait for the device
            per call on a GPU; without it the former gives 0 and the latter NaN.

    Raises:
        ValueError: margin negative, not finite or another word.
        TypeError: margin neither a number nor a word.
    """

    def __init__(self, margin: float | str = 0.3, *, check_inputs: bool = True) -> None:
        super().__init__()
        if isinstance(margin, bool) or not isinstance(margin, (int, float, str)):
            raise TypeError(
                f"BatchHardTripletLoss: margin: got {type(margin).__name__}, expected a number or 'soft'"
            )
        if margin != "soft" and (isinstance(margin, str) or not math.isfinite(margin) or margin < 0):
            raise ValueError(
                f"BatchHardTripletLoss: margin: got {margin!r}, expected a finite number of at least 0 or 'soft'"
            )
        self.margin = margin
        self.check_inputs = check_inputs

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Features (B, D) floating, labels (B,) int64 -> 0-d tensor, float32 for half-precision features.

        Raises:
            TypeError: features not floating, labels not int64.
            ValueError: shapes that do not fit, or a batch with a single identity (no negative exists).
        """
        rows_and_labels("BatchHardTripletLoss", "features", features, labels)
        same = labels.unsqueeze(0) == labels.unsqueeze(1)
        if self.check_inputs and bool(same.all()):
            raise ValueError(
                f"BatchHardTripletLoss: labels: got one identity in a batch of {len(labels)}, expected at least 2; "
                "draw batches of P identities x K images with P of at least 2"
            )
        if features.dtype in (torch.float16, torch.bfloat16):
            features = features.float()
        distance = pairwise_distance(features, features, metric="euclidean", check_finite=self.check_inputs)
        distance = distance.clamp_min(SMALLEST_DISTANCE)
        # amax and amin, unlike max and min with a dim, split the gradient evenly among equal entries.
        farthest_positive = distance.masked_fill(~same, -math.inf).amax(dim=1)
        nearest_negative = distance.masked_fill(same, math.inf).amin(dim=1)
        gap = farthest_positive - nearest_negative
        if self.margin == "soft":
            return F.softplus(gap).mean()
        return (gap + self.margin).clamp_min(0).mean()

    def extra_repr(self) -> str:
        return f"margin={self.margin!r}"
