# SPDX-License-Identifier: Apache-2.0
"""Squeeze-and-excitation networks (Hu et al., CVPR 2018) as re-identification classifiers, names as in deep-person-reid
(torchreid, MIT), which took them from Cadene's pretrained models. Parameters without the classifier: 26.0 M
(se_resnet50), 47.3 M (101), 64.8 M (152), 25.5 M (se_resnext50_32x4d), 46.9 M (101), 113.0 M (senet154)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from fastreid_ops.layers.fully_connected import fully_connected
from fastreid_ops.models.backbones.resnet import RESNET50, RESNET101, RESNET152, BlockPlan
from fastreid_ops.models.backbones.senet import SENET154, SENet, se_plan
from fastreid_ops.models.classifier import FeatureClassifier


class SENetClassifier(FeatureClassifier, SENet):
    """SENet, global average pooling, perhaps fully connected layers, a linear classifier.

    Evaluation: (B, 3, H, W) -> (B, ``feature_dim``), not normalised. Training: one head of logits and the same feature.
    All layers start from torch's own initial values, as in the originals.

    Args:
        blocks, plan, **parts: see `SENet`.
        num_classes: number of training identities.
        widths, dropout: of fully connected layers between pooling and classifier; no widths for none.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        plan: Callable[[int, int, int], BlockPlan],
        num_classes: int,
        *,
        widths: Sequence[int] = (),
        dropout: float | None = None,
        **parts: object,
    ) -> None:
        super().__init__(blocks, plan, **parts)
        self.global_avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = fully_connected(self.out_channels, widths, dropout=dropout) if widths else None
        self.feature_dim = widths[-1] if widths else self.out_channels
        self.classifier = nn.Linear(self.feature_dim, num_classes)

    def embed(self, images: Tensor) -> Tensor:
        pooled = self.global_avgpool(self.feature_map(images)).flatten(1)
        return pooled if self.fc is None else self.fc(pooled)


_RESNET = se_plan(stride_first=True)
_RESNEXT = se_plan(32, 4)


def se_resnet50(num_classes: int, *, last_stride: int = 2) -> SENetClassifier:
    """SE-ResNet-50, feature of 2048."""
    return SENetClassifier(RESNET50, _RESNET, num_classes, last_stride=last_stride)


def se_resnet50_fc512(
    num_classes: int, *, last_stride: int = 1, feature_dim: int = 512, dropout: float | None = None
) -> SENetClassifier:
    """SE-ResNet-50 with last stride 1 and a fully connected layer of ``feature_dim``; the feature is non-negative."""
    return SENetClassifier(
        RESNET50, _RESNET, num_classes, last_stride=last_stride, widths=(feature_dim,), dropout=dropout
    )


def se_resnet101(num_classes: int, *, last_stride: int = 2) -> SENetClassifier:
    """SE-ResNet-101, feature of 2048."""
    return SENetClassifier(RESNET101, _RESNET, num_classes, last_stride=last_stride)


def se_resnet152(num_classes: int, *, last_stride: int = 2) -> SENetClassifier:
    """SE-ResNet-152, feature of 2048."""
    return SENetClassifier(RESNET152, _RESNET, num_classes, last_stride=last_stride)


def se_resnext50_32x4d(num_classes: int, *, last_stride: int = 2) -> SENetClassifier:
    """SE-ResNeXt-50 with 32 groups of width 4, feature of 2048."""
    return SENetClassifier(RESNET50, _RESNEXT, num_classes, last_stride=last_stride)


def se_resnext101_32x4d(num_classes: int, *, last_stride: int = 2) -> SENetClassifier:
    """SE-ResNeXt-101 with 32 groups of width 4, feature of 2048."""
    return SENetClassifier(RESNET101, _RESNEXT, num_classes, last_stride=last_stride)


def senet154(num_classes: int, *, last_stride: int = 2) -> SENetClassifier:
    """SENet-154: 64 groups, a deep stem, 3x3 shortcuts; feature of 2048."""
    plan = se_plan(64, 4, narrow_first=2)
    return SENetClassifier(SENET154, plan, num_classes, deep_stem=True, last_stride=last_stride)
