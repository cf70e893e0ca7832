# SPDX-License-Identifier: Apache-2.0
"""ResNet and ResNeXt as re-identification classifiers, names as in deep-person-reid (Zhou & Xiang, torchreid, MIT).

He et al., "Deep residual learning for image recognition", CVPR 2016; Xie et al., "Aggregated residual transformations
for deep neural networks", CVPR 2017. Parameter counts without the classifier: 11.2 M (18 layers), 21.3 M (34), 23.5 M
(50), 42.5 M (101), 58.1 M (152), 23.0 M (ResNeXt-50 32x4d), 86.7 M (ResNeXt-101 32x8d).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from fastreid_ops.layers.fully_connected import fully_connected
from fastreid_ops.models.backbones.resnet import (
    RESNET18,
    RESNET34,
    RESNET50,
    RESNET101,
    RESNET152,
    BasicBlock,
    BlockPlan,
    ResNet,
)
from fastreid_ops.models.classifier import FeatureClassifier
from fastreid_ops.models.initialise import initialise


class ResNetClassifier(FeatureClassifier, ResNet):
    """ResNet, global average pooling, perhaps fully connected layers, a linear classifier.

    Evaluation: (B, 3, H, W) -> (B, ``feature_dim``), not normalised: the pooled vector (512 with `BasicBlock`, else
    2048), or the output of the last fully connected layer. Training: one head of logits and the same feature.

    Args:
        blocks, **parts: see `ResNet`.
        num_classes: number of training identities.
        widths: of the fully connected layers between pooling and classifier; empty for none.
        dropout: probability after each of them, None for no such layers.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        num_classes: int,
        *,
        widths: Sequence[int] = (),
        dropout: float | None = None,
        **parts: object,
    ) -> None:
        super().__init__(blocks, **parts)
        self.global_avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = fully_connected(self.out_channels, widths, dropout=dropout) if widths else None
        self.feature_dim = widths[-1] if widths else self.out_channels
        self.classifier = nn.Linear(self.feature_dim, num_classes)
        for part in (self.fc, self.classifier):
            if part is not None:
                initialise(part)

    def embed(self, images: Tensor) -> Tensor:
        pooled = self.global_avgpool(self.feature_map(images)).flatten(1)
        return pooled if self.fc is None else self.fc(pooled)


def resnet18(num_classes: int, *, last_stride: int = 2) -> ResNetClassifier:
    """ResNet-18, feature of 512."""
    return ResNetClassifier(RESNET18, num_classes, block=BasicBlock, last_stride=last_stride)


def resnet34(num_classes: int, *, last_stride: int = 2) -> ResNetClassifier:
    """ResNet-34, feature of 512."""
    return ResNetClassifier(RESNET34, num_classes, block=BasicBlock, last_stride=last_stride)


def resnet50(num_classes: int, *, last_stride: int = 2) -> ResNetClassifier:
    """ResNet-50, feature of 2048; ``last_stride`` 2 is deep-person-reid's ``resnet50``."""
    return ResNetClassifier(RESNET50, num_classes, last_stride=last_stride)


def resnet101(num_classes: int, *, last_stride: int = 2) -> ResNetClassifier:
    """ResNet-101, feature of 2048."""
    return ResNetClassifier(RESNET101, num_classes, last_stride=last_stride)


def resnet152(num_classes: int, *, last_stride: int = 2) -> ResNetClassifier:
    """ResNet-152, feature of 2048."""
    return ResNetClassifier(RESNET152, num_classes, last_stride=last_stride)


def resnet50_fc512(
    num_classes: int, *, last_stride: int = 1, feature_dim: int = 512, dropout: float | None = None
) -> ResNetClassifier:
    """ResNet-50 with last stride 1 and a fully connected layer of ``feature_dim``; the feature is non-negative."""
    return ResNetClassifier(
        RESNET50, num_classes, last_stride=last_stride, widths=(feature_dim,), dropout=dropout
    )


def _groups(groups: int, base_width: int) -> Callable[[int, int, int], BlockPlan]:
    plan = BlockPlan(groups=groups, base_width=base_width)
    return lambda stage, index, blocks: plan


def resnext50_32x4d(num_classes: int, *, last_stride: int = 2) -> ResNetClassifier:
    """ResNeXt-50 with 32 groups of width 4, feature of 2048."""
    return ResNetClassifier(RESNET50, num_classes, last_stride=last_stride, plan=_groups(32, 4))


def resnext101_32x8d(num_classes: int, *, last_stride: int = 2) -> ResNetClassifier:
    """ResNeXt-101 with 32 groups of width 8, feature of 2048."""
    return ResNetClassifier(RESNET101, num_classes, last_stride=last_stride, plan=_groups(32, 8))
