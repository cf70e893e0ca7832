# SPDX-License-Identifier: Apache-2.0
"""Multi-level factorisation network (Chang et al., CVPR 2018), names as in deep-person-reid (torchreid, MIT).
32.5 M parameters without the classifier."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from fastreid_ops.models.backbones.resnet import conv1x1, conv3x3, conv_shortcut
from fastreid_ops.models.classifier import FeatureClassifier
from fastreid_ops.models.initialise import initialise

GROUPS = 32
# Of each stage: channels, blocks, stride of its first block, widths of the factor selection modules.
STAGES = ((256, 3, 1, (128, 64)), (512, 4, 2, (256, 128)), (1024, 6, 2, (512, 128)), (2048, 3, 2, (512, 128)))


class MLFNBlock(nn.Module):
    """Grouped bottleneck whose groups ("factor modules") are switched by a small network on the pooled input.

    (B, C, H, W) -> (B, out_channels, H / stride, W / stride) and the switches (B, 32, 1, 1) in (0, 1). Group g of the
    middle map is multiplied by switch g. The expansion has a ReLU of its own before the addition, which a residual
    block has not.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, selection: tuple[int, int]) -> None:
        super().__init__()
        middle = out_channels // 2
        self.fm_conv1 = conv1x1(in_channels, middle)
        self.fm_bn1 = nn.BatchNorm2d(middle)
        self.fm_conv2 = conv3x3(middle, middle, stride, GROUPS)
        self.fm_bn2 = nn.BatchNorm2d(middle)
        self.fm_conv3 = conv1x1(middle, out_channels)
        self.fm_bn3 = nn.BatchNorm2d(out_channels)
        layers: list[nn.Module] = [nn.AdaptiveAvgPool2d(1)]
        widths = (in_channels, *selection, GROUPS)
        for first, second in pairwise(widths):
            layers += [nn.Conv2d(first, second, 1), nn.BatchNorm2d(second), nn.ReLU(inplace=True)]
        self.fsm = nn.Sequential(*layers[:-1], nn.Sigmoid())
        changes = in_channels != out_channels or stride > 1
        self.downsample = conv_shortcut(in_channels, out_channels, stride) if changes else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        switches = self.fsm(x)
        y = torch.relu(self.fm_bn1(self.fm_conv1(x)))
        y = torch.relu(self.fm_bn2(self.fm_conv2(y)))
        y = (y.unflatten(1, (GROUPS, -1)) * switches.unsqueeze(2)).flatten(1, 2)
        y = torch.relu(self.fm_bn3(self.fm_conv3(y)))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x))), switches


def _projection(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        conv1x1(in_channels, out_channels), nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)
    )


class MLFN(FeatureClassifier):
    """Multi-level factorisation network; the feature is the mean of a projection of the pooled map and a projection of
    all 16 x 32 switches.

    Evaluation: (B, 3, H, W) -> (B, 1024), not normalised and non-negative. Training: one head of logits and the same
    feature; batch normalisation sees one value an image in the small networks, so a batch of one image is impossible.
    """

    def __init__(self, num_classes: int, *, feature_dim: int = 1024) -> None:
        super().__init__()
        self.feature_dim = feature_dim
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.feature = nn.ModuleList()
        channels = 64
        for out, count, stride, selection in STAGES:
            for index in range(count):
                self.feature.append(MLFNBlock(channels, out, stride if index == 0 else 1, selection))
                channels = out
        self.global_avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc_x = _projection(channels, feature_dim)
        self.fc_s = _projection(GROUPS * len(self.feature), feature_dim)
        self.classifier = nn.Linear(feature_dim, num_classes)
        initialise(self)

    def embed(self, images: Tensor) -> Tensor:
        x = self.maxpool(torch.relu(self.bn1(self.conv1(images))))
        switches = []
        for block in self.feature:
            x, s = block(x)
            switches.append(s)
        both = self.fc_x(self.global_avgpool(x)) + self.fc_s(torch.cat(switches, 1))
        return 0.5 * both.flatten(1)


def mlfn(num_classes: int, *, feature_dim: int = 1024) -> MLFN:
    """MLFN, feature of 1024."""
    return MLFN(num_classes, feature_dim=feature_dim)
