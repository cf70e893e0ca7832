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
        scale: above 0.
        margin: at least 0.
        check_inputs: refuse labels outside 0..K - 1 by name, which waits for a GPU.

    Raises:
        TypeError, ValueError: sizes that are not ints of at least 1, numbers outside their range.
    """

    def __init__(
        self, feature_dim: int, num_classes: int, *, scale: float, margin: float, check_inputs: bool = True
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.feature_dim = check.count(name, "feature_dim", feature_dim)
        self.num_classes = check.count(name, "num_classes", num_classes)
        self.scale = check.number(name, "scale", scale, above=0)
        self.margin = check.number(name, "margin", margin, at_least=0)
        self.check_inputs = check_inputs

    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """Features (B, D) floating, labels (B,) int64 in 0..K - 1 or none -> logits (B, K), at least float32.

        Raises:
            TypeError: features not floating, labels not int64.
            ValueError: shapes that do not fit, or a label out of range.
        """
        name = type(self).__name__
        if labels is None:
            check.rows(name, "features", features)
        else:
            check.rows_and_labels(name, "features", features, labels)
        if features.shape[1] != self.feature_dim:
            raise ValueError(f"{name}: features: got width {features.shape[1]}, expected {self.feature_dim}")
        if labels is not None and self.check_inputs:
            check.class_range(name, "labels", labels, self.num_classes)
        cosine = cosine_logits(features, self.class_rows())
        return cosine * self.scale if labels is None else self.with_margin(cosine, labels)

    def class_rows(self) -> Tensor:
        """The class matrix (K, D), not normalised."""
        return self.weight

    def with_margin(self, cosine: Tensor, labels: Tensor) -> Tensor:
        raise NotImplementedError  # each head has its own

    def extra_repr(self) -> str:
        return f"{self.feature_dim}, {self.num_classes}, scale={self.scale}, margin={self.margin}"


class ArcFaceHead(MarginHead):
    """`margin.arcface` with scale 30 and margin 0.3, the class defaults of NAIC_ReID (its configurations use margin
    0.4).

    Args:
        easy_margin: true classes at more than 90 degrees get no margin.
        ls_eps: smoothing of the margin over the classes, in [0, 1); the source's option, 0 there. Any use of it needs
            the margin on all B x K entries.

    State: ``weight`` (K, D), Xavier uniform.
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
        self.easy_margin = easy_margin
        self.ls_eps = check.number("ArcFaceHead", "ls_eps", ls_eps, at_least=0, below=1)
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(num_classes, feature_dim)))

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
    """`margin.cosface` with scale 30 and margin 0.3, the class defaults of NAIC_ReID.

    State: ``weight`` (K, D), Xavier uniform.
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
        super().__init__(feature_dim, num_classes, scale=scale, margin=margin, check_inputs=check_inputs)
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(num_classes, feature_dim)))

    def with_margin(self, cosine: Tensor, labels: Tensor) -> Tensor:
        return form.cosface(cosine, labels, scale=self.scale, margin=self.margin)


class AMSoftmaxHead(MarginHead):
    """The formula of `CosFaceHead` over a transposed class matrix, as in NAIC_ReID.

    State: ``W`` (D, K), Xavier normal.
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
        super().__init__(feature_dim, num_classes, scale=scale, margin=margin, check_inputs=check_inputs)
        self.W = nn.Parameter(nn.init.xavier_normal_(torch.empty(feature_dim, num_classes)))

    def class_rows(self) -> Tensor:
        return self.W.T

    def with_margin(self, cosine: Tensor, labels: Tensor) -> Tensor:
        return form.cosface(cosine, labels, scale=self.scale, margin=self.margin)


class CircleHead(MarginHead):
    """`margin.circle` with scale 256 and margin 0.25, the class defaults of NAIC_ReID.

    State: ``weight`` (K, D), Kaiming uniform with a = sqrt(5).
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
        weight = torch.empty(num_classes, feature_dim)
        self.weight = nn.Parameter(nn.init.kaiming_uniform_(weight, a=math.sqrt(5)))

    def with_margin(self, cosine: Tensor, labels: Tensor) -> Tensor:
        return form.circle(cosine, labels, scale=self.scale, margin=self.margin)
