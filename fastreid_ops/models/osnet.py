# SPDX-License-Identifier: Apache-2.0
"""OSNet: omni-scale feature learning (Zhou et al., ICCV 2019), and its variant with instance normalisation.

Layer and parameter names are those of deep-person-reid (torchreid, MIT), so its weight files load as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastreid_ops.layers.conv import ConvNorm
from fastreid_ops.layers.ibn import instance_norm
from fastreid_ops.layers.osnet_gate import ChannelGate
from fastreid_ops.models.initialise import initialise
from fastreid_ops.models.output import TrainOutput


class LightConv3x3(nn.Module):
    """1x1 convolution, then a depthwise 3x3 one, BN and ReLU. (B, C, H, W) -> (B, out_channels, H, W)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, groups=out_channels, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.bn(self.conv2(self.conv1(x))))


def _stream(channels: int, depth: int) -> nn.Sequential:
    return nn.Sequential(*(LightConv3x3(channels, channels) for _ in range(depth)))


class OSBlock(nn.Module):
    """Four streams with receptive fields of 3, 5, 7 and 9 pixels, fused by one gate that they share.

    (B, in_channels, H, W) -> (B, out_channels, H, W). With ``ibn`` the sum with the shortcut is instance-normalised
    before its ReLU.
    """

    def __init__(self, in_channels: int, out_channels: int, *, ibn: bool = False) -> None:
        super().__init__()
        middle = out_channels // 4
        self.conv1 = ConvNorm(in_channels, middle)
        self.conv2a = LightConv3x3(middle, middle)
        self.conv2b = _stream(middle, 2)
        self.conv2c = _stream(middle, 3)
        self.conv2d = _stream(middle, 4)
        self.gate = ChannelGate(middle)
        self.conv3 = ConvNorm(middle, out_channels, activation=False)
        self.downsample = (
            ConvNorm(in_channels, out_channels, activation=False) if in_channels != out_channels else None
        )
        self.IN = instance_norm(out_channels) if ibn else None

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.conv1(x)
        fused = self.gate([stream(x) for stream in (self.conv2a, self.conv2b, self.conv2c, self.conv2d)])
        total = self.conv3(fused) + shortcut
        return torch.relu(total if self.IN is None else self.IN(total))


def _stage(in_channels: int, out_channels: int, *, halve: bool, ibn: bool = False) -> nn.Sequential:
    blocks: list[nn.Module] = [
        OSBlock(in_channels, out_channels, ibn=ibn),
        OSBlock(out_channels, out_channels, ibn=ibn),
    ]
    if halve:
        blocks.append(nn.Sequential(ConvNorm(out_channels, out_channels), nn.AvgPool2d(2, 2)))
    return nn.Sequential(*blocks)


class OSNet(nn.Module):
    """Omni-scale network.

    Evaluation: (B, 3, H, W) -> (B, 512), not normalised and non-negative (it is the output of a ReLU). Training: one
    head of logits (B, num_classes) and the same feature. H and W from 16 up; 256 x 128 is usual.

    Args:
        channels: widths of the stem and the three stages.
        num_classes: number of training identities.
        feature_dim: width of the fully connected layer before the classifier.
        ibn: instance normalisation in the stem, in place of the batch normalisation, and at the end of both blocks of
            the first stage (OSNet-IBN).
    """

    def __init__(
        self,
        channels: tuple[int, int, int, int],
        num_classes: int,
        *,
        feature_dim: int = 512,
        ibn: bool = False,
    ) -> None:
        super().__init__()
        stem, first, second, third = channels
        self.feature_dim = feature_dim
        stem_norm = instance_norm if ibn else nn.BatchNorm2d
        self.conv1 = ConvNorm(3, stem, 7, stride=2, padding=3, norm=stem_norm)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.conv2 = _stage(stem, first, halve=True, ibn=ibn)
        self.conv3 = _stage(first, second, halve=True)
        self.conv4 = _stage(second, third, halve=False)
        self.conv5 = ConvNorm(third, third)
        self.global_avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(
            nn.Linear(third, feature_dim), nn.BatchNorm1d(feature_dim), nn.ReLU(inplace=True)
        )
        self.classifier = nn.Linear(feature_dim, num_classes)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor | TrainOutput:
        x = self.maxpool(self.conv1(images))
        x = self.conv5(self.conv4(self.conv3(self.conv2(x))))
        feature = self.fc(self.global_avgpool(x).flatten(1))
        if not self.training:
            return feature
        return TrainOutput((self.classifier(feature),), (feature,))


def osnet_x1_0(num_classes: int, *, feature_dim: int = 512) -> OSNet:
    """OSNet at full width: 2.17 M parameters without the classifier, 979 M multiply-adds at 256 x 128."""
    return OSNet((64, 256, 384, 512), num_classes, feature_dim=feature_dim)


def osnet_x0_75(num_classes: int, *, feature_dim: int = 512) -> OSNet:
    """OSNet at width 0.75: 1.29 M parameters without the classifier, 572 M multiply-adds at 256 x 128."""
    return OSNet((48, 192, 288, 384), num_classes, feature_dim=feature_dim)


def osnet_x0_5(num_classes: int, *, feature_dim: int = 512) -> OSNet:
    """OSNet at width 0.5: 0.63 M parameters without the classifier, 273 M multiply-adds at 256 x 128."""
    return OSNet((32, 128, 192, 256), num_classes, feature_dim=feature_dim)


def osnet_x0_25(num_classes: int, *, feature_dim: int = 512) -> OSNet:
    """OSNet at width 0.25: 0.20 M parameters without the classifier, 82 M multiply-adds at 256 x 128."""
    return OSNet((16, 64, 96, 128), num_classes, feature_dim=feature_dim)


def osnet_ibn_x1_0(num_classes: int, *, feature_dim: int = 512) -> OSNet:
    """OSNet-IBN at full width: 2.17 M parameters without the classifier, 979 M multiply-adds at 256 x 128."""
    return OSNet((64, 256, 384, 512), num_classes, feature_dim=feature_dim, ibn=True)
