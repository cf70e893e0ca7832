# SPDX-License-Identifier: Apache-2.0
"""Position attention with the value from another map (after Fu et al., "Dual attention network", CVPR 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastreid_ops.ops import _checks as check


class PositionAttention(nn.Module):
    """gamma * softmax(Q^T K) V + value, with Q and K 1x1 convolutions of x to an eighth of its channels.

    x and value (B, channels, H, W) -> the same. gamma starts at 0, so the layer starts as ``value``. The scores are not
    divided by the square root of their width, as in the source.

    The checkpoints hold a third convolution, ``value_conv``, which the cloth-changing network's final runs do not use
    (its line is commented out). ``project_value=True`` puts it back, V = value_conv(value), as its run 183 had it;
    otherwise V = value, and the convolution is there for the checkpoints and frozen.

    Raises:
        ValueError: fewer than 8 channels, maps of other shapes.
    """

    def __init__(self, channels: int, *, project_value: bool = False) -> None:
        super().__init__()
        check.positive_int("PositionAttention", "channels", channels)
        check.flag("PositionAttention", "project_value", project_value)
        if channels < 8:
            raise ValueError(check.message("PositionAttention", "channels", channels, "at least 8"))
        self.channels, self.project_value = channels, project_value
        self.query_conv = nn.Conv2d(channels, channels // 8, 1)
        self.key_conv = nn.Conv2d(channels, channels // 8, 1)
        self.value_conv = nn.Conv2d(channels, channels, 1).requires_grad_(project_value)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, value: Tensor) -> Tensor:
        check.tensor("PositionAttention", "x", x)
        check.rank("PositionAttention", "x", x, 4, "(B, C, H, W)")
        check.size("PositionAttention", "x", x, 1, self.channels, "the channels the layer was made for")
        if value.shape != x.shape:
            expected = f"shape {tuple(x.shape)}, that of x"
            raise ValueError(
                check.message("PositionAttention", "value", f"shape {tuple(value.shape)}", expected)
            )
        mixed = self.value_conv(value) if self.project_value else value
        query, key, mixed = (
            one.flatten(2).transpose(1, 2) for one in (self.query_conv(x), self.key_conv(x), mixed)
        )
        mixed = F.scaled_dot_product_attention(query, key, mixed.to(query.dtype), scale=1.0)
        return self.gamma * mixed.transpose(1, 2).reshape(value.shape) + value
