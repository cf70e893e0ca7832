# SPDX-License-Identifier: Apache-2.0
"""ShuffleNet (Zhang et al., CVPR 2018) as a re-identification classifier, names as in deep-person-reid (torchreid,
MIT). 0.90 M parameters without the classifier."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastreid_ops.layers.channel_shuffle import channel_shuffle
from fastreid_ops.models.backbones.resnet import conv3x3
from fastreid_ops.models.classifier import FeatureClassifier

# Table 1 of the paper: channels of the three stages for a number of groups.
WIDTHS = {
    1: (144, 288, 576),
    2: (200, 400, 800),
    3: (240, 480, 960),
    4: (272, 544, 1088),
    8: (384, 768, 1536),
}
UNITS = (4, 8, 4)


class ShuffleUnit(nn.Module):
    """Grouped 1x1 convolution, shuffle, depthwise 3x3, grouped 1x1, with a shortcut.

    Stride 1 adds the shortcut. Stride 2 halves the map and lays the averaged shortcut beside the new channels, so that
    the output has ``out_channels`` in both cases. In the first unit of the network the first convolution has one group.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, groups: int, first_groups: int
    ) -> None:
        super().__init__()
        middle = out_channels // 4
        new = out_channels - in_channels if stride == 2 else out_channels
        self.groups = groups
        self.conv1 = nn.Conv2d(in_channels, middle, 1, groups=first_groups, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = conv3x3(middle, middle, stride, middle)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, new, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(new)
        self.shortcut = nn.AvgPool2d(3, 2, 1) if stride == 2 else None

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(channel_shuffle(y, self.groups)))
        y = self.bn3(self.conv3(y))
        return torch.relu(x + y if self.shortcut is None else torch.cat([self.shortcut(x), y], 1))


class ShuffleNet(FeatureClassifier):
    """ShuffleNet, global average pooling, a linear classifier.

    Evaluation: (B, 3, H, W) -> (B, 960 with 3 groups), not normalised and non-negative. Training: one head of logits
    and the same feature. All layers start from torch's own initial values, as in the original.

    Args:
        num_classes: number of training identities.
        groups: of the 1x1 convolutions: 1, 2, 3, 4 or 8.

    Raises:
        ValueError: another number of groups.
    """

    def __init__(self, num_classes: int, *, groups: int = 3) -> None:
        super().__init__()
        if groups not in WIDTHS:
            raise ValueError(f"ShuffleNet: groups: got {groups!r}, expected one of {list(WIDTHS)}")
        self.conv1 = nn.Sequential(
            conv3x3(3, 24, 2), nn.BatchNorm2d(24), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        )
        channels = 24
        for number, (out, units) in enumerate(zip(WIDTHS[groups], UNITS, strict=True), start=2):
            layer = []
            for index in range(units):
                first_groups = 1 if number == 2 and index == 0 else groups
                layer.append(ShuffleUnit(channels, out, 2 if index == 0 else 1, groups, first_groups))
                channels = out
            self.add_module(f"stage{number}", nn.Sequential(*layer))
        self.feature_dim = channels
        self.classifier = nn.Linear(channels, num_classes)

    def embed(self, images: Tensor) -> Tensor:
        return self.stage4(self.stage3(self.stage2(self.conv1(images)))).mean((2, 3))


def shufflenet(num_classes: int, *, groups: int = 3) -> ShuffleNet:
    """ShuffleNet with 3 groups, feature of 960."""
    return ShuffleNet(num_classes, groups=groups)
