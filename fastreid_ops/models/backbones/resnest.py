# SPDX-License-Identifier: Apache-2.0
"""ResNeSt: residual networks with split attention (Zhang et al., "ResNeSt: split-attention networks", CVPRW 2022).

Radix 2, one group, deep stem, average pooling in the shortcuts and after the split attention of a stage's first block;
names of parameters as in the published weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from fastreid_ops.layers.ibn import IBN
from fastreid_ops.models.backbones.resnet import BlockPlan, ResNet, conv1x1, conv3x3

RADIX = 2


class SplitAttention(nn.Module):
    """Two maps of a grouped 3x3 convolution, added with weights that are a softmax over the two, channel by channel.

    (B, in_channels, H, W) -> (B, channels, H / stride, W / stride), not negative. With ``pool`` the stride is that of a
    3x3 mean after the attention, and the convolution has stride 1.

    A softmax over two is a sigmoid of the difference. The two maps are halves of one tensor, so their weighted sum is
    plain torch: `ops.attention_gate` would copy each half first, which costs more than its one pass saves.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, groups: int, *, pool: bool) -> None:
        super().__init__()
        if groups != 1:
            raise ValueError(f"SplitAttention: groups: got {groups!r}, expected 1")
        hidden = max(in_channels * RADIX // 4, 32)
        self.conv = conv3x3(in_channels, channels * RADIX, 1 if pool else stride, groups=RADIX)
        self.bn0 = nn.BatchNorm2d(channels * RADIX)
        self.relu = nn.ReLU(inplace=True)
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.fc2 = nn.Conv2d(hidden, channels * RADIX, 1)
        self.avd_layer = nn.AvgPool2d(3, stride, 1) if pool else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn0(self.conv(x)))
        first, second = x.chunk(RADIX, 1)
        mean = sum(x.mean((2, 3), keepdim=True).chunk(RADIX, 1))
        a, b = self.fc2(self.relu(self.bn1(self.fc1(mean)))).chunk(RADIX, 1)
        x = torch.addcmul(first * torch.sigmoid(a - b), second, torch.sigmoid(b - a))
        return x if self.avd_layer is None else self.avd_layer(x)


def resnest_plan(*, ibn: bool) -> Callable[[int, int, int], BlockPlan]:
    """Plan of a ResNeSt; ``ibn``: half of the first normalisation of each block of stages 1 to 3 is an instance one."""

    def plan(stage: int, index: int, blocks: int) -> BlockPlan:
        attention = partial(SplitAttention, pool=index == 0 and stage > 1)
        norm1 = IBN if ibn and stage < 4 else nn.BatchNorm2d
        return BlockPlan(norm1=norm1, conv2=attention, conv2_normalises=True)

    return plan


def _deep_stem(width: int) -> nn.Sequential:
    return nn.Sequential(
        conv3x3(3, width, 2),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        conv3x3(width, width),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        conv3x3(width, 2 * width),
    )


def _mean_shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    return nn.Sequential(
        nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False),
        conv1x1(in_channels, out_channels),
        nn.BatchNorm2d(out_channels),
    )


def resnest(blocks: Sequence[int], *, stem_width: int, ibn: bool = False, last_stride: int = 2) -> ResNet:
    """ResNeSt of the given number of blocks; ``stem_width`` 32 in ResNeSt-50, 64 in ResNeSt-101.

    Raises:
        ValueError: last_stride other than 1 or 2.
    """
    return ResNet(
        blocks,
        last_stride=last_stride,
        plan=resnest_plan(ibn=ibn),
        stem_conv=lambda: _deep_stem(stem_width),
        stem_channels=2 * stem_width,
        shortcut=_mean_shortcut,
    )
