# SPDX-License-Identifier: Apache-2.0
"""Metric losses over softly weighted positives and negatives."""

from __future__ import annotations

from torch import Tensor, nn

from fastreid_ops.losses import _checks as check
from fastreid_ops.losses._numeric import unit_rows
from fastreid_ops.losses.triplet import batch_distances, hinge


class WeightedTripletLoss(nn.Module):
    """Weighted triplet loss of NAIC_ReID on Euclidean distances of features as they are.

    For every row i, p_i = sum over the rows of its label (i included) of softmax(d) d, and n_i = sum over the others of
    softmax(-d) d; mean over i of log(1 + exp(p_i - n_i)), or of max(0, p_i - n_i + margin). The weights are trained
    through, as in the source. Weighting of Ristani and Tomasi, "Features for multi-target multi-camera tracking and
    re-identification", CVPR 2018 (adaptive weights).

    The source takes exp(d) as it is, which is infinite above d = 88, and its margin form stops with a size error; here
    the softmax is shifted by its largest entry, and the margin form is the one meant.

    Shapes: features (B, D), labels (B,) -> 0-d.
    Memory: a few B x B matrices.

    Args:
        margin: ``"soft"`` (the source's), or a finite number of at least 0.
        check_inputs: as for `BatchHardTripletLoss`.

    Raises:
        ValueError: margin negative, not finite or another word.
        TypeError: margin neither a number nor a word.
    """

    def __init__(self, margin: float | str = "soft", *, check_inputs: bool = True) -> None:
        super().__init__()
        self.margin = check.margin_or_soft("WeightedTripletLoss", margin)
        self.check_inputs = check.flag("WeightedTripletLoss", "check_inputs", check_inputs)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Features (B, D) floating, labels (B,) int64 -> 0-d tensor, float32 for half-precision features.

        Raises:
            TypeError: features not floating, labels not int64.
            ValueError: shapes that do not fit, or a batch with a single identity (no negative exists).
        """
        distance, same = batch_distances(
            "WeightedTripletLoss", features, labels, check_inputs=self.check_inputs
        )
        gap = _softmax_mean(distance, distance, same) - _softmax_mean(distance, -distance, ~same)
        return hinge(gap, self.margin)

    def extra_repr(self) -> str:
        return f"margin={self.margin!r}"


class WeightedRegularizedTripletLoss(nn.Module):
    """AGW's weighted regularised triplet loss: log(1 + exp(p_i - n_i)), mean over the rows.

    Ye et al., "Deep learning for person re-identification: a survey and outlook", TPAMI 2021, the AGW baseline. p_i and
    n_i as for `WeightedTripletLoss`, whose value this is unless ``legacy``.

    The published code divides by (sum + 1e-6) and shifts the negatives' exponent by the largest *masked* distance,
    which is 0: their weights vanish where distances are large, and so do the negatives. ``legacy=True`` does just
    that, to compare with published numbers; it still trains, but towards nothing there.

    Shapes: features (B, D), labels (B,) -> 0-d.
    Memory: a few B x B matrices.

    Args:
        legacy: the weights of the published code.
        normalize: divide every feature by its length first (an option of the published code, off there).
        check_inputs: as for `BatchHardTripletLoss`.
    """

    def __init__(self, *, legacy: bool = False, normalize: bool = False, check_inputs: bool = True) -> None:
        super().__init__()
        self.legacy = check.flag("WeightedRegularizedTripletLoss", "legacy", legacy)
        self.normalize = check.flag("WeightedRegularizedTripletLoss", "normalize", normalize)
        self.check_inputs = check.flag("WeightedRegularizedTripletLoss", "check_inputs", check_inputs)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """As `WeightedTripletLoss.forward`."""
        name = "WeightedRegularizedTripletLoss"
        check.rows(name, "features", features)
        features = unit_rows(features) if self.normalize else features
        distance, same = batch_distances(name, features, labels, check_inputs=self.check_inputs)
        mean = _legacy_mean if self.legacy else _softmax_mean
        return hinge(mean(distance, distance, same) - mean(distance, -distance, ~same), "soft")

    def extra_repr(self) -> str:
        return f"legacy={self.legacy}, normalize={self.normalize}"


def _softmax_mean(distance: Tensor, score: Tensor, mask: Tensor) -> Tensor:
    """Mean distance over the masked entries of each row, weighted by the softmax of their scores."""
    # The lowest finite score instead of -inf: a row without entries (unchecked inputs) gives no NaN.
    score = score.masked_fill(~mask, -1e30)
    return (score.softmax(dim=1) * mask * distance).sum(dim=1)


def _legacy_mean(distance: Tensor, score: Tensor, mask: Tensor) -> Tensor:
    score = score * mask
    weight = (score - score.amax(dim=1, keepdim=True)).exp() * mask
    return (weight / (weight.sum(dim=1, keepdim=True) + 1e-6) * distance).sum(dim=1)
