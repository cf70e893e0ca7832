# SPDX-License-Identifier: Apache-2.0
"""Diverse embedding expansion of DEEN (Zhang and Wang, CVPR 2023): further maps generated from each map."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastreid_ops.layers._network import first_map, hidden_width


class DEE(nn.Module):
    """(B, channels, H, W) -> (3 B, channels, H, W): the maps, then those of two generators, then dropout.

    A generator is a 1x1 convolution on the ReLU of the mean of three 3x3 convolutions with dilations 1, 2 and 3. The
    mean is the public code's; equation 1 of the paper has the sum.

    Args:
        channels: of the map.
        reduction: channels for each one between the convolutions.
        dropout: probability.
    """

    def __init__(self, channels: int, reduction: int = 4, *, dropout: float = 0.01) -> None:
        super().__init__()
        hidden = hidden_width("DEE", channels, reduction)
        self.channels = channels
        for branch in (1, 2):
            for rate in (1, 2, 3):
                conv = nn.Conv2d(channels, hidden, 3, padding=rate, dilation=rate, bias=False)
                self.add_module(f"FC{branch}{rate}", conv)
            self.add_module(f"FC{branch}", nn.Conv2d(hidden, channels, 1))
        self.dropout = nn.Dropout(dropout)
        for conv in self.children():
            if isinstance(conv, nn.Conv2d):  # the biases stay at torch's own values, as in the public code
                nn.init.kaiming_normal_(conv.weight, mode="fan_in")

    def forward(self, x: Tensor) -> Tensor:
        first_map("DEE", x, self.channels)
        maps = [x]
        for branch in (1, 2):
            wide, wider, widest = (getattr(self, f"FC{branch}{rate}")(x) for rate in (1, 2, 3))
            maps.append(getattr(self, f"FC{branch}")(torch.relu((wide + wider + widest) / 3)))
        return self.dropout(torch.cat(maps))
