# SPDX-License-Identifier: Apache-2.0
"""Losses over all pairs of a batch by their cosine."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from fastreid_ops.losses import _checks as check
from fastreid_ops.losses._numeric import full, logsumexp_without
from fastreid_ops.ops.distance import pairwise_distance


class PairwiseCosineLoss(nn.Module):
    """What the pairwise losses share: cosines c_ij of the features, positives P(i) of the same label without i itself,
    negatives N(i) of other labels; mean over the rows.

    Those of Simple-CCReID, whose fourth, the triplet loss, is ``BatchHardTripletLoss(0.3, metric="cosine")``.

    Shapes: features (B, D) of any length, labels (B,) -> 0-d.
    NaN: refused by the distance op, by count and row.
    Memory: a few B x B matrices.

    Args:
        scale: above 0.
        margin: at least 0.
        check_inputs: refuse rows without a positive, a batch of one identity and features that are not finite; waits
            for a GPU. Without it a row that lacks either adds nothing.

    Raises:
        TypeError: scale or margin no numbers.
        ValueError: scale not above 0, margin negative.
    """

    def __init__(self, *, scale: float, margin: float, check_inputs: bool = True) -> None:
        super().__init__()
        self.scale = check.number(type(self).__name__, "scale", scale, above=0)
        self.margin = check.number(type(self).__name__, "margin", margin, at_least=0)
        self.check_inputs = check.flag(type(self).__name__, "check_inputs", check_inputs)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Features (B, D) floating, labels (B,) int64 -> 0-d tensor, at least float32.

        Raises:
            TypeError: features not floating, labels not int64.
            ValueError: shapes that do not fit, one identity in the batch, or a row without a positive.
        """
        name = type(self).__name__
        check.rows_and_labels(name, "features", features, labels)
        same = labels.unsqueeze(0) == labels.unsqueeze(1)
        positive = same.clone().fill_diagonal_(False)
        if self.check_inputs:
            check.two_identities(name, labels)
            check.every_row(name, "labels", positive.any(1), "another row of the same identity")
        features = full(features)
        distance = pairwise_distance(features, features, metric="cosine", check_finite=self.check_inputs)
        return self.over_pairs(1 - distance, positive, same)

    def over_pairs(self, cosine: Tensor, positive: Tensor, same: Tensor) -> Tensor:
        raise NotImplementedError  # each pairwise loss has its own

    def extra_repr(self) -> str:
        return f"scale={self.scale}, margin={self.margin}"


class PairwiseCosFaceLoss(PairwiseCosineLoss):
    """log(1 + sum over N of exp(s (c + m)) * sum over P of exp(-s c)), s = 16, m = 0.

    Sun et al., "Circle loss", CVPR 2020, equation 1 with the margin on the negatives.
    """

    def __init__(self, scale: float = 16.0, margin: float = 0.0, *, check_inputs: bool = True) -> None:
        super().__init__(scale=scale, margin=margin, check_inputs=check_inputs)

    def over_pairs(self, cosine: Tensor, positive: Tensor, same: Tensor) -> Tensor:
        apart = logsumexp_without(self.scale * (cosine + self.margin), same)
        together = logsumexp_without(-self.scale * cosine, ~positive)
        return F.softplus(apart + together).mean()


class PairwiseCircleLoss(PairwiseCosineLoss):
    """log(1 + sum over N of exp(s a_n (c - m)) * sum over P of exp(s a_p (1 - m - c))), s = 48, m = 0.35.

    a_p = relu(1 + m - c) and a_n = relu(c + m), without gradient. Sun et al., "Circle loss", CVPR 2020, equations 5
    and 6.
    """

    def __init__(self, scale: float = 48.0, margin: float = 0.35, *, check_inputs: bool = True) -> None:
        super().__init__(scale=scale, margin=margin, check_inputs=check_inputs)

    def over_pairs(self, cosine: Tensor, positive: Tensor, same: Tensor) -> Tensor:
        fixed, s, m = cosine.detach(), self.scale, self.margin
        apart = logsumexp_without(s * (fixed + m).clamp_min(0) * (cosine - m), same)
        together = logsumexp_without(s * (1 + m - fixed).clamp_min(0) * (1 - m - cosine), ~positive)
        return F.softplus(apart + together).mean()


class ContrastiveLoss(PairwiseCosineLoss):
    """Mean over P of -log(exp(s c_ip) / (exp(s c_ip) + sum over N of exp(s c_in))), s = 16: positives do not compete.

    Oord et al., "Representation learning with contrastive predictive coding", 2018, with labels.
    """

    def __init__(self, scale: float = 16.0, *, check_inputs: bool = True) -> None:
        super().__init__(scale=scale, margin=0.0, check_inputs=check_inputs)

    def over_pairs(self, cosine: Tensor, positive: Tensor, same: Tensor) -> Tensor:
        logits = self.scale * cosine
        term = F.softplus(logsumexp_without(logits, same).unsqueeze(1) - logits)
        return ((term * positive).sum(1) / positive.sum(1).clamp_min(1)).mean()

    def extra_repr(self) -> str:
        return f"scale={self.scale}"
