# SPDX-License-Identifier: Apache-2.0
"""ResNeXt-101 32x4d under the names of deep-person-reid's first versions (2018; torchreid, MIT), those of Cadene's
pretrained models, which were converted from Lua: nested sequences instead of named parts. 42.13 M parameters without
the classifier."""

from __future__ import annotations

from torch import Tensor, nn

from fastreid_ops.models.backbones.resnet import RESNET101, conv1x1, conv3x3, conv_shortcut
from fastreid_ops.models.classifier import FeatureClassifier

GROUPS = 32


class _Sum(nn.ModuleList):
    """What its two members make of the same map, added."""

    def forward(self, x: Tensor) -> Tensor:
        return self[0](x) + self[1](x)


def _block(in_channels: int, width: int, out_channels: int, stride: int) -> nn.Sequential:
    """Grouped bottleneck: (B, C, H, W) -> (B, out_channels, H / stride, W / stride)."""
    grouped = nn.Sequential(
        conv1x1(in_channels, width),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        conv3x3(width, width, stride, GROUPS),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    )
    branch = nn.Sequential(grouped, conv1x1(width, out_channels), nn.BatchNorm2d(out_channels))
    same = stride == 1 and in_channels == out_channels
    shortcut = nn.Identity() if same else conv_shortcut(in_channels, out_channels, stride)
    return nn.Sequential(_Sum((branch, shortcut)), nn.ReLU())


class ResNeXt101V0(FeatureClassifier):
    """ResNeXt-101 with 32 groups of width 4, global average pooling, a linear classifier.

    Evaluation: (B, 3, H, W) -> (B, 2048), not normalised and non-negative. Training: one head of logits and the same
    feature. All layers start from torch's own initial values, as in the original, which always loads ImageNet's.
    """

    feature_dim = 2048

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        stem = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.features = nn.Sequential(stem, nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        channels = 64
        for number, count in enumerate(RESNET101):
            width, stage = 128 * 2**number, nn.Sequential()
            for index in range(count):
                stride = 2 if index == 0 and number > 0 else 1
                stage.append(_block(channels, width, 2 * width, stride))
                channels = 2 * width
            self.features.append(stage)
        self.classifier = nn.Linear(self.feature_dim, num_classes)

    def embed(self, images: Tensor) -> Tensor:
        return self.features(images).mean((2, 3))
