# SPDX-License-Identifier: Apache-2.0
"""ResNet-50 with mid-level features (Yu et al., "The devil is in the middle", arXiv:1711.08106), names as in
deep-person-reid (torchreid, MIT). 27.7 M parameters without the classifier."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastreid_ops.layers.fully_connected import fully_connected
from fastreid_ops.models.backbones.resnet import RESNET50, ResNet
from fastreid_ops.models.classifier import FeatureClassifier
from fastreid_ops.models.initialise import initialise


class ResNetMid(FeatureClassifier, ResNet):
    """ResNet-50 whose three last blocks all contribute to the feature.

    Evaluation: (B, 3, H, W) -> (B, ``fusion_dim`` + 2048), not normalised: the pooled outputs of the first two blocks
    of stage 4 through one fully connected layer, beside the pooled output of the third. Training: one head of logits
    and the same feature.
    """

    def __init__(self, num_classes: int, *, last_stride: int = 2, fusion_dim: int = 1024) -> None:
        super().__init__(RESNET50, last_stride=last_stride)
        self.global_avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc_fusion = fully_connected(2 * self.out_channels, (fusion_dim,))
        self.feature_dim = fusion_dim + self.out_channels
        self.classifier = nn.Linear(self.feature_dim, num_classes)
        initialise(self.fc_fusion)
        initialise(self.classifier)

    def embed(self, images: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        x = self.layer3(self.layer2(self.layer1(x)))
        pooled = []
        for block in self.layer4:
            x = block(x)
            pooled.append(self.global_avgpool(x).flatten(1))
        return torch.cat([self.fc_fusion(torch.cat(pooled[:2], 1)), pooled[2]], 1)


def resnet50mid(num_classes: int, *, last_stride: int = 2, fusion_dim: int = 1024) -> ResNetMid:
    """ResNet-50 with mid-level features, feature of 1024 + 2048."""
    return ResNetMid(num_classes, last_stride=last_stride, fusion_dim=fusion_dim)
