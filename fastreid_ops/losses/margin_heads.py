# SPDX-License-Identifier: Apache-2.0
"""Classifiers with a margin: ``head(features (B, D), labels (B,)) -> logits (B, K)`` for a cross entropy."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fastreid_ops.losses import _checks as check
from fastreid_ops.losses import margin as form
from fastreid_ops.losses._numeric import cosine_logits


class MarginHead(nn.Module):
    """What the margin heads share: cosines of the features with one row per class, a margin, a scale.

    Logits are float32 or float64, whatever the features are and under autocast too. Rows of zeros have cosine 0 to
    every class and get no gradient; a cosine of exactly +-1 gives finite logits and gradients.

    Without labels the logits are the scaled cosines: what accuracy is to be measured on (on logits with a margin, as
    in NAIC_ReID, it comes out too low).

    Args:
        feature_dim: D.
        num_classes: K.
        scale: above 0; 30 unless the head says otherwise.
        margin: at least 0; 0.3 unless the head says otherwise.
        check_inputs: refuse labels outside 0..K - 1 by name, which waits for a GPU.

    State: ``weight`` (K, D) float32, Xavier uniform, unless the head says otherwise.

    Raises:
        TypeError, ValueError: sizes that are not ints of at least 1, numbers outside their range.
    """

    def __init__(
        self,
        feature_dim: int,
        num_classes: int,
        *,
        scale: float = 30.0,
        margin: float = 0.3,
        check_inputs: bool = True,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.feature_dim = check.count(name, "feature_dim", feature_dim)
        self.num_classes = check.count(name, "num_classes", num_classes)
        self.scale = check.number(name, "scale", scale, above=0)
        self.margin = check.number(name, "margin", margin, at_least=0)
        self.check_inputs = check.flag(name, "check_inputs", check_inputs)
        self.make_weight()

    def make_weight(self) -> None:
        """Register the class matrix."""
        self.weight = nn.Parameter(torch.empty(self.num_classes, self.feature_dim))
        nn.init.xavier_uniform_(self.weight)

    def class_rows(self) -> Tensor:
        """The class matrix as (K, D), not normalised."""
        return self.weight

    def with_margin(self, cosine: Tensor, labels: Tensor) -> Tensor:
        """Logits of cosines (B, K)."""
        raise NotImplementedError  # each head has its own

    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """Features (B, D) floating, labels (B,) int64 in 0..K - 1 or none -> logits (B, K), at least float32.

        Raises:
            TypeError: features not floating, labels not int64.
            ValueError: shapes or devices that do not fit, or a label out of range.
        """
        name = type(self).__name__
        check.rows(name, "features", features)
        rows = self.class_rows()
        check.width(name, "features", features, rows, self.feature_dim, "the class matrix")
        if labels is not None:
            check.rows_and_labels(name, "features", features, labels)
            if self.check_inputs:
                check.class_range(name, "labels", labels, self.num_classes)
        cosine = cosine_logits(features, rows)
        return cosine * self.scale if labels is None else self.with_margin(cosine, labels)

    def extra_repr(self) -> str:
        return f"{self.feature_dim}, {self.num_classes}, scale={self.scale}, margin={self.margin}"


class ArcFaceHead(MarginHead):
    """`margin.arcface` with scale 30 and margin 0.3, the class defaults of NAIC_ReID (its configurations use margin
    0.4).

    Args, beside those of `MarginHead`:
        margin: at most pi.
        easy_margin: true classes at more than 90 degrees get no margin.
        ls_eps: smoothing of the margin over the classes, in [0, 1); the source's option, 0 there. Any use of it needs
            the margin on all B x K entries.
    """

    def __init__(
        self,
        feature_dim: int,
        num_classes: int,
        *,
        scale: float = 30.0,
        margin: float = 0.3,
        easy_margin: bool = False,
        ls_eps: float = 0.0,
        check_inputs: bool = True,
    ) -> None:
        super().__init__(feature_dim, num_classes, scale=scale, margin=margin, check_inputs=check_inputs)
        check.number("ArcFaceHead", "margin", margin, at_least=0, at_most=math.pi)
        self.easy_margin = check.flag("ArcFaceHead", "easy_margin", easy_margin)
        self.ls_eps = check.number("ArcFaceHead", "ls_eps", ls_eps, at_least=0, below=1)

    def with_margin(self, cosine: Tensor, labels: Tensor) -> Tensor:
        return form.arcface(
            cosine,
            labels,
            scale=self.scale,
            margin=self.margin,
            easy_margin=self.easy_margin,
            ls_eps=self.ls_eps,
        )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, easy_margin={self.easy_margin}, ls_eps={self.ls_eps}"


class CosFaceHead(MarginHead):
    """`margin.cosface` with scale 30 and margin 0.3, the class defaults of NAIC_ReID."""

    def with_margin(self, cosine: Tensor, labels: Tensor) -> Tensor:
        return form.cosface(cosine, labels, scale=self.scale, margin=self.margin)


class AMSoftmaxHead(CosFaceHead):
    """The formula of `CosFaceHead` over a transposed class matrix, as in NAIC_ReID.

    State: ``W`` (D, K) float32, Xavier normal.
    """

    def make_weight(self) -> None:
        self.W = nn.Parameter(torch.empty(self.feature_dim, self.num_classes))
        nn.init.xavier_normal_(self.W)

    def class_rows(self) -> Tensor:
        return self.W.T


class CircleHead(MarginHead):
    """`margin.circle` with scale 256 and margin 0.25, the class defaults of NAIC_ReID.

    State: ``weight`` (K, D) float32, Kaiming uniform with a = sqrt(5).
    """

    def __init__(
        self,
        feature_dim: int,
        num_classes: int,
        *,
        scale: float = 256.0,
        margin: float = 0.25,
        check_inputs: bool = True,
    ) -> None:
        super().__init__(feature_dim, num_classes, scale=scale, margin=margin, check_inputs=check_inputs)

    def make_weight(self) -> None:
        self.weight = nn.Parameter(torch.empty(self.num_classes, self.feature_dim))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def with_margin(self, cosine: Tensor, labels: Tensor) -> Tensor:
        return form.circle(cosine, labels, scale=self.scale, margin=self.margin)
