# SPDX-License-Identifier: Apache-2.0
"""EfficientNet-B0 (Tan and Le, ICML 2019), with the names of EfficientNet-PyTorch (lukemelas, Apache-2.0).

Its padding is that of TensorFlow at 224 x 224 for every image size ("static same"): at stride 2 the extra row and
column lie at the bottom and on the right.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastreid_ops.ops.attention import Gate, Statistics, spatial_channel_attention

EPS, MOMENTUM = 1e-3, 0.01

# blocks, kernel, stride, expansion, channels in, channels out
STAGES = (
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=EPS, momentum=MOMENTUM)


class SamePadConv2d(nn.Conv2d):
    """Convolution without bias, padded by kernel - stride as a whole, the larger half at the bottom and right."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int, groups: int = 1
    ) -> None:
        whole = max(kernel - stride, 0)
        even = whole % 2 == 0
        super().__init__(
            in_channels,
            out_channels,
            kernel,
            stride,
            padding=whole // 2 if even else 0,
            groups=groups,
            bias=False,
        )
        self.uneven = None if even else (whole // 2, whole - whole // 2) * 2

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if self.uneven is None else F.pad(x, self.uneven))


class MBConv(nn.Module):
    """Inverted bottleneck with squeeze and excitation; (B, C, H, W) -> (B, out_channels, H / stride, W / stride).

    ``drop`` is the probability with which training leaves out the branch of one image (stochastic depth, Huang et al.,
    ECCV 2016), drawn from torch's global generator.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int, expansion: int, drop: float
    ) -> None:
        super().__init__()
        middle, squeezed = in_channels * expansion, in_channels // 4
        if expansion != 1:
            self._expand_conv = nn.Conv2d(in_channels, middle, 1, bias=False)
            self._bn0 = _norm(middle)
        self._depthwise_conv = SamePadConv2d(middle, middle, kernel, stride, groups=middle)
        self._bn1 = _norm(middle)
        self._se_reduce = nn.Conv2d(middle, squeezed, 1)
        self._se_expand = nn.Conv2d(squeezed, middle, 1)
        self._project_conv = nn.Conv2d(middle, out_channels, 1, bias=False)
        self._bn2 = _norm(out_channels)
        self.expands = expansion != 1
        self.adds = stride == 1 and in_channels == out_channels
        self.drop = drop

    def _excite(self, values: Statistics) -> Gate:
        squeezed = F.silu(self._se_reduce(values.channel_avg[:, :, None, None]))
        return Gate(channel=self._se_expand(squeezed))

    def forward(self, x: Tensor) -> Tensor:
        branch = F.silu(self._bn0(self._expand_conv(x))) if self.expands else x
        branch = F.silu(self._bn1(self._depthwise_conv(branch)))
        branch = spatial_channel_attention(branch, self._excite, channel=("avg",))
        branch = self._bn2(self._project_conv(branch))
        if not self.adds:
            return branch
        if self.training and self.drop:
            keep = 1.0 - self.drop
            kept = torch.rand(x.shape[0], 1, 1, 1, dtype=branch.dtype, device=x.device) < keep
            branch = branch * (kept / keep)
        return branch + x


class EfficientNetB0(nn.Module):
    """Image (B, 3, H, W) -> feature map (B, 1280, H / 32, W / 32).

    Args:
        drop_connect: probability of the last block's branch to be left out in training; block i has i / 16 of it.

    Raises:
        ValueError: drop_connect outside [0, 1).
    """

    out_channels = 1280

    def __init__(self, *, drop_connect: float = 0.2) -> None:
        super().__init__()
        if not 0.0 <= drop_connect < 1.0:
            raise ValueError(
                f"EfficientNetB0: drop_connect: got {drop_connect!r}, expected a number in [0, 1)"
            )
        total = sum(stage[0] for stage in STAGES)
        self._conv_stem = SamePadConv2d(3, 32, 3, 2)
        self._bn0 = _norm(32)
        self._blocks = nn.ModuleList()
        for count, kernel, stride, expansion, inputs, outputs in STAGES:
            for i in range(count):
                drop = drop_connect * len(self._blocks) / total
                first = inputs, outputs, kernel, stride
                rest = outputs, outputs, kernel, 1
                self._blocks.append(MBConv(*(rest if i else first), expansion, drop))
        self._conv_head = nn.Conv2d(320, self.out_channels, 1, bias=False)
        self._bn1 = _norm(self.out_channels)

    def forward(self, images: Tensor) -> Tensor:
        x = F.silu(self._bn0(self._conv_stem(images)))
        for block in self._blocks:
            x = block(x)
        return F.silu(self._bn1(self._conv_head(x)))
