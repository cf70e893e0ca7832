# SPDX-License-Identifier: Apache-2.0
"""Xception as deep-person-reid's first versions had it (2018; torchreid, MIT): another network than its later
`xception`, with other names. 20.85 M parameters without the classifier.

Against Chollet, "Xception", CVPR 2017: a normalisation between the depthwise and the 1x1 convolution too, a ReLU before
every pooling, a stem with ReLU6 and padding, and no shortcuts in the middle flow.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastreid_ops.layers.conv import ConvNorm
from fastreid_ops.models.backbones.resnet import conv1x1, conv3x3, conv_shortcut
from fastreid_ops.models.classifier import FeatureClassifier

ENTRY = (32, 64, 128, 256, 728)
EXIT = (728, 1024, 1536, 2048)
MIDDLE_BLOCKS = 8

_conv = partial(ConvNorm, kernel=3, padding=1, activation=partial(nn.ReLU6, inplace=True))


class SeparableConv(nn.Module):
    """Depthwise 3x3, then 1x1 convolution, each normalised. (B, C, H, W) -> (B, out_channels, H, W)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        depthwise = conv3x3(in_channels, in_channels, groups=in_channels)
        self.conv1 = nn.Sequential(depthwise, nn.BatchNorm2d(in_channels))
        self.conv2 = nn.Sequential(conv1x1(in_channels, out_channels), nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x))


class EntryFlow(nn.Module):
    """Image (B, 3, H, W) -> (B, 728, H / 16, W / 16), sizes rounded up."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _conv(3, ENTRY[0], stride=2)
        self.conv2 = _conv(ENTRY[0], ENTRY[1])
        for number in (3, 4, 5):
            before, after = ENTRY[number - 2], ENTRY[number - 1]
            layers = [SeparableConv(before, after), nn.ReLU(), SeparableConv(after, after), nn.ReLU()]
            first = [] if number == 3 else [nn.ReLU()]
            self.add_module(f"conv{number}", nn.Sequential(*first, *layers, nn.MaxPool2d(3, 2, 1)))
            self.add_module(f"conv{number}s", conv_shortcut(before, after, 2))

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv2(self.conv1(images))
        for number in (3, 4, 5):
            x = getattr(self, f"conv{number}")(x) + getattr(self, f"conv{number}s")(x)
        return x


class MiddleBlock(nn.Module):
    """Three times ReLU and separable convolution. (B, 728, H, W) -> the same."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (SeparableConv(ENTRY[-1], ENTRY[-1]) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.conv1, self.conv2, self.conv3):
            x = layer(torch.relu(x))
        return x


class ExitFlow(nn.Module):
    """(B, 728, H, W) -> (B, 2048), the mean over the positions of a map of half the size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = SeparableConv(ENTRY[-1], EXIT[0])
        self.conv2 = SeparableConv(EXIT[0], EXIT[1])
        self.conv2s = conv_shortcut(ENTRY[-1], EXIT[1], 2)
        self.conv3 = SeparableConv(EXIT[1], EXIT[2])
        self.conv4 = SeparableConv(EXIT[2], EXIT[3])

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(torch.relu(self.conv1(torch.relu(x))))
        y = F.max_pool2d(y, 3, 2, 1) + self.conv2s(x)
        return torch.relu(self.conv4(torch.relu(self.conv3(y)))).mean((2, 3))


class XceptionV0(FeatureClassifier):
    """Entry flow, middle flow of 8 blocks, exit flow, a linear classifier.

    Evaluation: (B, 3, H, W) -> (B, 2048), not normalised and non-negative. Training: one head of logits and the same
    feature. All layers start from torch's own initial values, as in the original.
    """

    feature_dim = EXIT[-1]

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.entryflow = EntryFlow()
        self.midflow = nn.ModuleDict(
            {"blocks": nn.Sequential(*(MiddleBlock() for _ in range(MIDDLE_BLOCKS)))}
        )
        self.exitflow = ExitFlow()
        self.classifier = nn.Linear(self.feature_dim, num_classes)

    def embed(self, images: Tensor) -> Tensor:
        return self.exitflow(self.midflow["blocks"](self.entryflow(images)))
