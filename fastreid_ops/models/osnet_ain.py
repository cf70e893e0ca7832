# SPDX-License-Identifier: Apache-2.0
"""OSNet-AIN: omni-scale network with instance normalisation where an architecture search put it (Zhou et al., "Learning
generalisable omni-scale representations for person re-identification", TPAMI 2021).

Layer and parameter names are those of deep-person-reid (torchreid, MIT), so its weight files load as they are; they are
not those of its OSNet. Its published results are with the cosine distance.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastreid_ops.layers.conv import ConvNorm
from fastreid_ops.layers.fully_connected import fully_connected
from fastreid_ops.layers.ibn import instance_norm
from fastreid_ops.layers.osnet_gate import ChannelGate
from fastreid_ops.models.classifier import FeatureClassifier
from fastreid_ops.models.initialise import initialise
from fastreid_ops.models.osnet import LightConv3x3

STREAMS = 4


class LightConvStream(nn.Module):
    """``depth`` light convolutions after each other. (B, C, H, W) -> the same."""

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(LightConv3x3(channels, channels) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class OSBlock(nn.Module):
    """Omni-scale block, with ``instance`` an instance normalisation at the end of the branch in place of the batch
    normalisation there. (B, in_channels, H, W) -> (B, out_channels, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, *, instance: bool) -> None:
        super().__init__()
        middle = out_channels // 4
        self.conv1 = ConvNorm(in_channels, middle)
        self.conv2 = nn.ModuleList(LightConvStream(middle, depth) for depth in range(1, STREAMS + 1))
        self.gate = ChannelGate(middle)
        norm = nn.Identity if instance else nn.BatchNorm2d
        self.conv3 = ConvNorm(middle, out_channels, norm=norm, activation=False)
        self.IN = instance_norm(out_channels) if instance else None
        self.downsample = (
            ConvNorm(in_channels, out_channels, activation=False) if in_channels != out_channels else None
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.conv1(x)
        branch = self.conv3(self.gate([stream(x) for stream in self.conv2]))
        if self.IN is not None:
            branch = self.IN(branch)
        return torch.relu(branch + shortcut)


def _stage(in_channels: int, out_channels: int, instance: tuple[bool, bool]) -> nn.Sequential:
    return nn.Sequential(
        OSBlock(in_channels, out_channels, instance=instance[0]),
        OSBlock(out_channels, out_channels, instance=instance[1]),
    )


def _halve(channels: int) -> nn.Sequential:
    return nn.Sequential(ConvNorm(channels, channels), nn.AvgPool2d(2, 2))


class OSNetAIN(FeatureClassifier):
    """Omni-scale network with five instance normalisations: stem, both blocks of the first stage, the second block of
    the second stage, the first block of the third.

    Evaluation: (B, 3, H, W) -> (B, 512), not normalised and non-negative. Training: one head of logits (B, num_classes)
    and the same feature. H and W from 16 up; 256 x 128 is usual.

    Args:
        channels: widths of the stem and the three stages.
        num_classes: number of training identities.
        feature_dim: width of the fully connected layer before the classifier.
    """

    def __init__(
        self, channels: tuple[int, int, int, int], num_classes: int, *, feature_dim: int = 512
    ) -> None:
        super().__init__()
        stem, first, second, third = channels
        self.feature_dim = feature_dim
        self.conv1 = ConvNorm(3, stem, 7, stride=2, padding=3, norm=instance_norm)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.conv2 = _stage(stem, first, (True, True))
        self.pool2 = _halve(first)
        self.conv3 = _stage(first, second, (False, True))
        self.pool3 = _halve(second)
        self.conv4 = _stage(second, third, (True, False))
        self.conv5 = ConvNorm(third, third)
        self.global_avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = fully_connected(third, (feature_dim,))
        self.classifier = nn.Linear(feature_dim, num_classes)
        initialise(self)

    def embed(self, images: Tensor) -> Tensor:
        x = self.maxpool(self.conv1(images))
        x = self.pool3(self.conv3(self.pool2(self.conv2(x))))
        x = self.conv5(self.conv4(x))
        return self.fc(self.global_avgpool(x).flatten(1))


def osnet_ain_x1_0(num_classes: int, *, feature_dim: int = 512) -> OSNetAIN:
    """OSNet-AIN at full width: 2.17 M parameters without the classifier, 979 M multiply-adds at 256 x 128."""
    return OSNetAIN((64, 256, 384, 512), num_classes, feature_dim=feature_dim)


def osnet_ain_x0_75(num_classes: int, *, feature_dim: int = 512) -> OSNetAIN:
    """OSNet-AIN at width 0.75: 1.29 M parameters without the classifier, 572 M multiply-adds at 256 x 128."""
    return OSNetAIN((48, 192, 288, 384), num_classes, feature_dim=feature_dim)


def osnet_ain_x0_5(num_classes: int, *, feature_dim: int = 512) -> OSNetAIN:
    """OSNet-AIN at width 0.5: 0.63 M parameters without the classifier, 273 M multiply-adds at 256 x 128."""
    return OSNetAIN((32, 128, 192, 256), num_classes, feature_dim=feature_dim)


def osnet_ain_x0_25(num_classes: int, *, feature_dim: int = 512) -> OSNetAIN:
    """OSNet-AIN at width 0.25: 0.20 M parameters without the classifier, 82 M multiply-adds at 256 x 128."""
    return OSNetAIN((16, 64, 96, 128), num_classes, feature_dim=feature_dim)
