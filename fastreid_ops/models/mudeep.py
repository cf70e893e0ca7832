# SPDX-License-Identifier: Apache-2.0
"""MuDeep (Qian et al., "Multi-scale deep learning architectures for person re-identification", ICCV 2017), in the form
and with the names of deep-person-reid (torchreid, MIT). 134.9 M parameters without the classifier, 134.2 M of them in
one fully connected layer."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from fastreid_ops.layers.conv import ConvNorm
from fastreid_ops.layers.fully_connected import fully_connected
from fastreid_ops.models.classifier import FeatureClassifier

SIZE = (256, 128)

_conv = partial(ConvNorm, bias=True)


class ConvLayers(nn.Module):
    """(B, 3, H, W) -> (B, 96, H / 2, W / 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _conv(3, 48, 3, padding=1)
        self.conv2 = _conv(48, 96, 3, padding=1)
        self.maxpool = nn.MaxPool2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.maxpool(self.conv2(self.conv1(x)))


class MultiScaleA(nn.Module):
    """Four streams of different receptive fields beside each other. (B, 96, H, W) -> the same."""

    def __init__(self) -> None:
        super().__init__()
        self.stream1 = nn.Sequential(_conv(96, 96), _conv(96, 24, 3, padding=1))
        self.stream2 = nn.Sequential(nn.AvgPool2d(3, 1, 1), _conv(96, 24))
        self.stream3 = _conv(96, 24)
        self.stream4 = nn.Sequential(_conv(96, 16), _conv(16, 24, 3, padding=1), _conv(24, 24, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.stream1(x), self.stream2(x), self.stream3(x), self.stream4(x)], 1)


class Reduction(nn.Module):
    """(B, 96, H, W) -> (B, 256, H / 2, W / 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.stream1 = nn.MaxPool2d(3, 2, 1)
        self.stream2 = _conv(96, 96, 3, stride=2, padding=1)
        self.stream3 = nn.Sequential(
            _conv(96, 48), _conv(48, 56, 3, padding=1), _conv(56, 64, 3, stride=2, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.stream1(x), self.stream2(x), self.stream3(x)], 1)


class MultiScaleB(nn.Module):
    """Four streams of different receptive fields, 3x3 convolutions split in two. (B, 256, H, W) -> four of the same."""

    def __init__(self) -> None:
        super().__init__()
        row, column = {"kernel": (1, 3), "padding": (0, 1)}, {"kernel": (3, 1), "padding": (1, 0)}
        self.stream1 = nn.Sequential(nn.AvgPool2d(3, 1, 1), _conv(256, 256))
        self.stream2 = nn.Sequential(_conv(256, 64), _conv(64, 128, **row), _conv(128, 256, **column))
        self.stream3 = _conv(256, 256)
        self.stream4 = nn.Sequential(
            _conv(256, 64),
            _conv(64, 64, **row),
            _conv(64, 128, **column),
            _conv(128, 128, **row),
            _conv(128, 256, **column),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.stream1(x), self.stream2(x), self.stream3(x), self.stream4(x)


class Fusion(nn.Module):
    """Sum of the streams with one learned weight a stream and channel, from U[0, 1), and 4x4 average pooling.

    The pooling is deep-person-reid's, not the paper's.
    """

    def __init__(self) -> None:
        super().__init__()
        self.a1 = nn.Parameter(torch.rand(1, 256, 1, 1))
        self.a2 = nn.Parameter(torch.rand(1, 256, 1, 1))
        self.a3 = nn.Parameter(torch.rand(1, 256, 1, 1))
        self.a4 = nn.Parameter(torch.rand(1, 256, 1, 1))
        self.avgpool = nn.AvgPool2d(4)

    def forward(self, x1: Tensor, x2: Tensor, x3: Tensor, x4: Tensor) -> Tensor:
        return self.avgpool(self.a1 * x1 + self.a2 * x2 + self.a3 * x3 + self.a4 * x4)


class MuDeep(FeatureClassifier):
    """MuDeep for images of 256 x 128, the size its fully connected layer is made for.

    Evaluation: (B, 3, 256, 128) -> (B, 4096), not normalised and non-negative. Training: one head of logits and the
    same feature. The original runs the classifier in evaluation too, without a use; this one does not. All layers start
    from torch's own initial values.

    Raises:
        ValueError: images of another size.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.feature_dim = 4096
        self.block1 = ConvLayers()
        self.block2 = MultiScaleA()
        self.block3 = Reduction()
        self.block4 = MultiScaleB()
        self.block5 = Fusion()
        self.fc = fully_connected(256 * 16 * 8, (self.feature_dim,))
        self.classifier = nn.Linear(self.feature_dim, num_classes)

    def embed(self, images: Tensor) -> Tensor:
        if tuple(images.shape[2:]) != SIZE:
            raise ValueError(
                f"MuDeep: images: got height and width {tuple(images.shape[2:])}, expected {SIZE}"
            )
        x = self.block3(self.block2(self.block1(images)))
        return self.fc(self.block5(*self.block4(x)).flatten(1))


def mudeep(num_classes: int) -> MuDeep:
    """MuDeep, feature of 4096, images of 256 x 128."""
    return MuDeep(num_classes)
