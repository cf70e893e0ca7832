# SPDX-License-Identifier: Apache-2.0
"""Cells of NASNet-A (Zoph et al., "Learning transferable architectures for scalable image recognition", CVPR 2018).

Names are those of Cadene's pretrained models. The weights come from TensorFlow, whose "SAME" padding of a window of
stride 2 on an even size is all at the end; `late` asks for it. On odd sizes (the stem's) it is the usual padding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def norm(channels: int) -> nn.BatchNorm2d:
    """Batch normalisation with TensorFlow's epsilon."""
    return nn.BatchNorm2d(channels, eps=1e-3)


class SeparableConv2d(nn.Module):
    """Depthwise, then 1x1 convolution. (B, C, H, W) -> (B, out_channels, H', W')."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, padding: int) -> None:
        super().__init__()
        self.depthwise_conv2d = nn.Conv2d(
            in_channels, in_channels, kernel, stride, padding, groups=in_channels, bias=False
        )
        self.pointwise_conv2d = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise_conv2d(self.depthwise_conv2d(x))


class SeparableBranch(nn.Module):
    """Twice ReLU, separable convolution, batch normalisation; the first convolution has the stride."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, *, late: bool = False
    ) -> None:
        super().__init__()
        padding = kernel // 2
        self.extra = int(late and stride == 2)
        self.separable_1 = SeparableConv2d(in_channels, out_channels, kernel, stride, padding - self.extra)
        self.bn_sep_1 = norm(out_channels)
        self.separable_2 = SeparableConv2d(out_channels, out_channels, kernel, 1, padding)
        self.bn_sep_2 = norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(x)
        if self.extra:
            x = F.pad(x, (0, 1, 0, 1))
        x = torch.relu(self.bn_sep_1(self.separable_1(x)))
        return self.bn_sep_2(self.separable_2(x))


def _project(in_channels: int, out_channels: int) -> nn.Sequential:
    layers = nn.Sequential()
    layers.add_module("relu", nn.ReLU())
    layers.add_module("conv", nn.Conv2d(in_channels, out_channels, 1, bias=False))
    layers.add_module("bn", norm(out_channels))
    return layers


def _path(in_channels: int, out_channels: int) -> nn.Sequential:
    layers = nn.Sequential()
    layers.add_module("conv", nn.Conv2d(in_channels, out_channels, 1, bias=False))
    return layers


class Cell(nn.Module):
    """What the cells share: they see the outputs of the last two cells, brought to the same size and width.

    Args:
        in_channels: of the last cell's output.
        previous_channels: of the output of the cell before.
        channels: width inside.
        halve: the cell before has a map of twice the height and width. It is halved by two 1x1 convolutions on every
            second position, one of them shifted by one position in both directions.
    """

    def __init__(self, in_channels: int, previous_channels: int, channels: int, *, halve: bool) -> None:
        super().__init__()
        self.halve = halve
        if halve:
            self.path_1 = _path(previous_channels, channels // 2)
            self.path_2 = _path(previous_channels, channels // 2)
            self.final_path_bn = norm(channels)
        else:
            self.conv_prev_1x1 = _project(previous_channels, channels)
        self.conv_1x1 = _project(in_channels, channels)

    def _previous(self, x: Tensor) -> Tensor:
        if not self.halve:
            return self.conv_prev_1x1(x)
        x = torch.relu(x)
        shifted = F.pad(x, (-1, 1, -1, 1))
        halves = [self.path_1(x[:, :, ::2, ::2]), self.path_2(shifted[:, :, ::2, ::2])]
        return self.final_path_bn(torch.cat(halves, 1))

    def forward(self, x: Tensor, previous: Tensor) -> Tensor:
        return self.combine(self.conv_1x1(x), self._previous(previous))

    def combine(self, x: Tensor, previous: Tensor) -> Tensor:
        """The five additions of the cell, of maps of the same size and width."""
        raise NotImplementedError  # each kind of cell has its own


class NormalCell(Cell):
    """(B, in_channels, H, W) and the map before -> (B, 6 * channels, H, W)."""

    def __init__(
        self, in_channels: int, previous_channels: int, channels: int, *, halve: bool = False
    ) -> None:
        super().__init__(in_channels, previous_channels, channels, halve=halve)
        self.comb_iter_0_left = SeparableBranch(channels, channels, 5)
        self.comb_iter_0_right = SeparableBranch(channels, channels, 3)
        self.comb_iter_1_left = SeparableBranch(channels, channels, 5)
        self.comb_iter_1_right = SeparableBranch(channels, channels, 3)
        self.comb_iter_4_left = SeparableBranch(channels, channels, 3)
        self.pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)

    def combine(self, x: Tensor, previous: Tensor) -> Tensor:
        parts = [
            previous,
            self.comb_iter_0_left(x) + self.comb_iter_0_right(previous),
            self.comb_iter_1_left(previous) + self.comb_iter_1_right(previous),
            self.pool(x) + previous,
            2.0 * self.pool(previous),  # the cell adds two poolings of the same map
            self.comb_iter_4_left(x) + x,
        ]
        return torch.cat(parts, 1)


def _add_reduction(cell: nn.Module, channels: int, other_channels: int, *, late: bool) -> None:
    def branch(in_channels: int, kernel: int) -> SeparableBranch:
        return SeparableBranch(in_channels, channels, kernel, 2, late=late)

    cell.comb_iter_0_left = branch(channels, 5)
    cell.comb_iter_0_right = branch(other_channels, 7)
    cell.comb_iter_1_right = branch(other_channels, 7)
    cell.comb_iter_2_right = branch(other_channels, 5)
    cell.comb_iter_4_left = SeparableBranch(channels, channels, 3)
    at_end = {"ceil_mode": True} if late else {"padding": 1}
    cell.maxpool = nn.MaxPool2d(3, 2, **at_end)
    cell.avgpool = nn.AvgPool2d(3, 2, **at_end, count_include_pad=False)
    cell.pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)


def _reduce(cell: nn.Module, x: Tensor, other: Tensor) -> Tensor:
    first = cell.comb_iter_0_left(x) + cell.comb_iter_0_right(other)
    largest = cell.maxpool(x)
    second = largest + cell.comb_iter_1_right(other)
    third = cell.avgpool(x) + cell.comb_iter_2_right(other)
    parts = [second, third, cell.pool(first) + second, cell.comb_iter_4_left(first) + largest]
    return torch.cat(parts, 1)


class ReductionCell(Cell):
    """(B, in_channels, H, W), H and W even, and the map before -> (B, 4 * channels, H / 2, W / 2)."""

    def __init__(
        self, in_channels: int, previous_channels: int, channels: int, *, halve: bool = False
    ) -> None:
        super().__init__(in_channels, previous_channels, channels, halve=halve)
        _add_reduction(self, channels, channels, late=True)

    def combine(self, x: Tensor, previous: Tensor) -> Tensor:
        return _reduce(self, x, previous)


class StemCell(nn.Module):
    """The first reduction, of a single map: (B, in_channels, H, W), odd -> (B, 4 * channels, (H + 1) / 2, ...)."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv_1x1 = _project(in_channels, channels)
        _add_reduction(self, channels, in_channels, late=False)

    def forward(self, x: Tensor) -> Tensor:
        return _reduce(self, self.conv_1x1(x), x)
