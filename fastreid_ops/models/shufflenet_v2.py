# SPDX-License-Identifier: Apache-2.0
"""ShuffleNet V2 (Ma et al., ECCV 2018) as a re-identification classifier, names as in deep-person-reid (torchreid, MIT)
and torchvision. Parameters without the classifier: 0.34 M (x0.5), 1.25 M (x1.0), 2.48 M (x1.5), 5.34 M (x2.0)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastreid_ops.layers.channel_shuffle import channel_shuffle
from fastreid_ops.models.backbones.resnet import conv1x1, conv3x3
from fastreid_ops.models.classifier import FeatureClassifier

UNITS = (4, 8, 4)


def _depthwise(channels: int, stride: int) -> list[nn.Module]:
    return [conv3x3(channels, channels, stride, channels), nn.BatchNorm2d(channels)]


def _pointwise(in_channels: int, out_channels: int) -> list[nn.Module]:
    return [conv1x1(in_channels, out_channels), nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]


class ShuffleUnit(nn.Module):
    """Stride 1: half of the channels pass as they are, the other half through a branch. Stride 2: two branches see all
    channels and halve the map. Then the halves are shuffled. (B, C, H, W) -> (B, out_channels, H / stride, W / stride).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.halves = stride == 1
        if not self.halves:
            self.branch1 = nn.Sequential(*_depthwise(in_channels, stride), *_pointwise(in_channels, half))
        self.branch2 = nn.Sequential(
            *_pointwise(half if self.halves else in_channels, half),
            *_depthwise(half, stride),
            *_pointwise(half, half),
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.halves:
            kept, changed = x.chunk(2, 1)
        else:
            kept, changed = self.branch1(x), x
        return channel_shuffle(torch.cat([kept, self.branch2(changed)], 1), 2)


class ShuffleNetV2(FeatureClassifier):
    """ShuffleNet V2, global average pooling, a linear classifier.

    Evaluation: (B, 3, H, W) -> (B, widths[-1]), not normalised and non-negative. Training: one head of logits and the
    same feature. All layers start from torch's own initial values, as in the original.

    Args:
        widths: channels of the three stages and of the last convolution.
        num_classes: number of training identities.
    """

    def __init__(self, widths: tuple[int, int, int, int], num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(conv3x3(3, 24, 2), nn.BatchNorm2d(24), nn.ReLU(inplace=True))
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = 24
        for number, (out, units) in enumerate(zip(widths, UNITS, strict=False), start=2):
            layer = [ShuffleUnit(channels, out, 2), *(ShuffleUnit(out, out, 1) for _ in range(units - 1))]
            self.add_module(f"stage{number}", nn.Sequential(*layer))
            channels = out
        self.feature_dim = widths[-1]
        self.conv5 = nn.Sequential(*_pointwise(channels, self.feature_dim))
        self.global_avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(self.feature_dim, num_classes)

    def embed(self, images: Tensor) -> Tensor:
        x = self.stage4(self.stage3(self.stage2(self.maxpool(self.conv1(images)))))
        return self.global_avgpool(self.conv5(x)).flatten(1)


def shufflenet_v2_x0_5(num_classes: int) -> ShuffleNetV2:
    """ShuffleNet V2 x0.5, feature of 1024."""
    return ShuffleNetV2((48, 96, 192, 1024), num_classes)


def shufflenet_v2_x1_0(num_classes: int) -> ShuffleNetV2:
    """ShuffleNet V2 x1.0, feature of 1024."""
    return ShuffleNetV2((116, 232, 464, 1024), num_classes)


def shufflenet_v2_x1_5(num_classes: int) -> ShuffleNetV2:
    """ShuffleNet V2 x1.5, feature of 1024."""
    return ShuffleNetV2((176, 352, 704, 1024), num_classes)


def shufflenet_v2_x2_0(num_classes: int) -> ShuffleNetV2:
    """ShuffleNet V2 x2.0, feature of 2048."""
    return ShuffleNetV2((244, 488, 976, 2048), num_classes)
