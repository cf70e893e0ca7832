# SPDX-License-Identifier: Apache-2.0
"""The network of CAL (Gu et al., "Clothes-changing person re-identification with RGB modality only", CVPR 2022), in the
form and with the names of Simple-CCReID (github.com/guxinqian/Simple-CCReID)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastreid_ops.models.backbones.resnet import RESNET50, ResNet
from fastreid_ops.models.output import TrainOutput
from fastreid_ops.ops.attention import attention_pool


class CosineClassifier(nn.Module):
    """Cosines of features (B, channels) with one vector a class: (B, num_classes) in [-1, 1]."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(F.normalize(torch.empty(num_classes, channels).uniform_(-1, 1)))

    def forward(self, features: Tensor) -> Tensor:
        return F.linear(F.normalize(features), F.normalize(self.weight))


class CAL(nn.Module):
    """ResNet-50, the maximum and the mean of every channel (4096, maximum first), batch normalisation with a learned
    bias: 23,516,224 parameters without the classifiers.

    Evaluation: (B, 3, H, W) -> (B, 4096), behind the normalisation. Training: ``logits`` of a linear classifier with
    bias on that feature, ``features`` the same feature, which is also what the pairwise losses take (normalised).
    ``auxiliary["clothes_cosine"]`` (B, num_clothes), with a gradient into feature and classifier, for the
    clothes-based adversarial loss (`losses.clothes.ClothesAdversarialLoss`); its step of the clothes classifier itself
    is ``clothes_classifier(features.detach())``.

    Args:
        num_classes: number of training identities.
        num_clothes: number of clothes; 0 for no clothes classifier.
        last_stride: stride of the fourth stage, 1 or 2.

    Raises:
        ValueError: an argument out of its range.
    """

    feature_dim = 4096

    def __init__(self, num_classes: int, *, num_clothes: int = 0, last_stride: int = 1) -> None:
        super().__init__()
        if num_clothes < 0:
            raise ValueError(f"CAL: num_clothes: got {num_clothes}, expected at least 0")
        network = ResNet(RESNET50, last_stride=last_stride)
        self.base = nn.Sequential(*network.children())
        self.bn = nn.BatchNorm1d(self.feature_dim)
        nn.init.normal_(self.bn.weight, 1.0, 0.02)
        self.classifier = nn.Linear(self.feature_dim, num_classes)
        nn.init.normal_(self.classifier.weight, std=0.001)
        nn.init.zeros_(self.classifier.bias)
        self.clothes_classifier = CosineClassifier(self.feature_dim, num_clothes) if num_clothes else None

    def forward(self, images: Tensor) -> Tensor | TrainOutput:
        values = attention_pool(self.base(images))  # both in one read of the map
        feature = self.bn(torch.cat((values.channel_max, values.channel_avg), 1))
        if not self.training:
            return feature
        auxiliary = {}
        if self.clothes_classifier is not None:
            auxiliary["clothes_cosine"] = self.clothes_classifier(feature)
        return TrainOutput((self.classifier(feature),), (feature,), (), auxiliary)


def cal_resnet50(num_classes: int, *, num_clothes: int = 0, last_stride: int = 1) -> CAL:
    """CAL's ResNet-50, feature of 4096."""
    return CAL(num_classes, num_clothes=num_clothes, last_stride=last_stride)
