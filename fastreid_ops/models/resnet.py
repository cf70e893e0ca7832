# SPDX-License-Identifier: Apache-2.0
"""ResNet as a re-identification classifier, names as in deep-person-reid (Zhou & Xiang, torchreid, MIT)."""

from __future__ import annotations

from torch import Tensor, nn

from fastreid_ops.models.backbones.resnet import RESNET50, ResNet
from fastreid_ops.models.initialise import initialise
from fastreid_ops.models.output import TrainOutput


class ResNetClassifier(ResNet):
    """ResNet, global average pooling and a linear classifier; the pooled vector is the feature.

    Evaluation: (B, 3, H, W) -> (B, 2048), not normalised. Training: one head of logits (B, num_classes) and the
    same feature.
    """

    def __init__(self, blocks: tuple[int, ...], num_classes: int, *, last_stride: int = 2) -> None:
        super().__init__(blocks, last_stride=last_stride)
        self.feature_dim = self.out_channels
        self.global_avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(self.feature_dim, num_classes)
        initialise(self.classifier)

    def forward(self, images: Tensor) -> Tensor | TrainOutput:
        feature = self.global_avgpool(self.feature_map(images)).flatten(1)
        if not self.training:
            return feature
        return TrainOutput((self.classifier(feature),), (feature,))


def resnet50(num_classes: int, *, last_stride: int = 2) -> ResNetClassifier:
    """ResNet-50, feature of 2048; ``last_stride`` 2 is deep-person-reid's ``resnet50``."""
    return ResNetClassifier(RESNET50, num_classes, last_stride=last_stride)
