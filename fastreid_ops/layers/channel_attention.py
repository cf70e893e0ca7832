# SPDX-License-Identifier: Apache-2.0
"""The attention layers of the cloth-changing experiments 196 to 203.

Eight layers of one name that differ in statistics and network. With a the mean and m the maximum of a channel's
positions, S = [a; m], and h = channels // reduction:

=======  ==================================================================================
variant  logits
=======  ==================================================================================
196      W2 relu(W1 a + b1) + b2, hidden width h (squeeze and excitation, Hu et al., CVPR 2018)
197      W2 relu(W1 S + b1) + b2, hidden width h
198      a 7x7 convolution of mean and maximum over the channels, one logit a position
199      a 7x7 convolution, padding 3, of S as a map of one position: its centre tap times S
200      a convolution over the channels, width 5, of a and m as two rows
201      W S + b
202      W2 relu(BN(W1 S + b1)) + b2, hidden width channels
203      W2 relu(BN(W1 S)), hidden width h
=======  ==================================================================================
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastreid_ops.layers._network import Maps, batch_for_statistics, first_map, folded, hidden_width, matrix
from fastreid_ops.layers.spatial_attention import POSITION_STATISTICS, position_logits
from fastreid_ops.ops import _checks as check
from fastreid_ops.ops.attention import Gate, Statistics, channel_attention, spatial_channel_attention

VARIANTS = (196, 197, 198, 199, 200, 201, 202, 203)


def _channel_network(variant: int, channels: int, reduction: int) -> nn.Module:
    both = 2 * channels
    if variant == 199:
        return nn.Conv2d(both, channels, 7, padding=3, bias=False)
    if variant == 201:
        return nn.Sequential(nn.Conv2d(both, channels, 1))
    if variant == 202:
        first, last = nn.Conv2d(both, channels, 1), nn.Conv2d(channels, channels, 1)
        return nn.Sequential(first, nn.BatchNorm2d(channels), nn.ReLU(), last)
    hidden = hidden_width("ChannelAttention", channels, reduction)
    if variant == 203:
        first, last = nn.Conv2d(both, hidden, 1, bias=False), nn.Conv2d(hidden, channels, 1, bias=False)
        return nn.Sequential(first, nn.BatchNorm2d(hidden), nn.ReLU(), last)
    inputs = channels if variant == 196 else both
    return nn.Sequential(nn.Conv2d(inputs, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, channels, 1))


class ChannelAttention(nn.Module):
    """x * sigmoid(logits), with one of the networks of this module's table.

    (B, channels, H, W) -> the same; a sequence of maps gives the sum of the gated maps, gated by one network (the
    streams of an OSBlock). Parameters are named as in the experiments (`se`, in 198 and 200 `conv1`). A maximum at
    several positions or channels sends its gradient to the first of them, in 200 equal parts to all.

    Variant 199 keeps the (channels, 2 channels, 7, 7) weight of its checkpoints. The other 48 taps of each kernel only
    ever meet padding: they are not read and their gradient is zero.

    In training 202 and 203 use batch statistics, one update for each map of a sequence.

    Args:
        variant: 196 to 203.
        reduction: channels for each hidden one, in 196, 197 and 203.

    Raises:
        ValueError: another number of channels than the layer's; one sample where 202 or 203 train; an unknown variant;
            fewer channels than the reduction.
    """

    def __init__(self, channels: int, variant: int = 196, *, reduction: int = 16) -> None:
        super().__init__()
        check.positive_int("ChannelAttention", "channels", channels)
        if variant not in VARIANTS:
            raise ValueError(check.message("ChannelAttention", "variant", repr(variant), "196 to 203"))
        self.channels = channels
        self.variant = variant
        if variant == 198:
            self.conv1 = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        elif variant == 200:
            self.conv1 = nn.Conv1d(2, 1, 5, padding=2)
        else:
            self.se = _channel_network(variant, channels, reduction)

    def extra_repr(self) -> str:
        return f"{self.channels}, variant={self.variant}"

    def forward(self, x: Maps) -> Tensor:
        first = first_map("ChannelAttention", x, self.channels)
        if self.variant == 198:
            return spatial_channel_attention(
                x, lambda values: position_logits(self.conv1, values), channel=(), spatial=POSITION_STATISTICS
            )
        if self.variant == 200:
            return spatial_channel_attention(x, self._over_channels, ties="equal")
        if self.variant in (202, 203) and self.se[1].training:
            batch_for_statistics("ChannelAttention", first)
            return spatial_channel_attention(x, self._normalised)
        statistics = ("avg",) if self.variant == 196 else ("avg", "max")
        return channel_attention(x, *self._weights(), statistics=statistics)

    def _over_channels(self, values: Statistics) -> Gate:
        return Gate(channel=self.conv1(torch.stack((values.channel_avg, values.channel_max), 1)).squeeze(1))

    def _normalised(self, values: Statistics) -> Gate:
        both = torch.cat((values.channel_avg, values.channel_max), 1)
        return Gate(channel=self.se(both[:, :, None, None]))

    def _weights(self) -> tuple[Tensor | None, ...]:
        """weight1, bias1, weight2, bias2 of `channel_attention`."""
        if self.variant == 199:
            return (self.se.weight[:, :, 3, 3],)
        if self.variant == 201:
            return matrix(self.se[0]), self.se[0].bias
        last = self.se[-1]
        if self.variant in (202, 203):
            return *folded(self.se[0], self.se[1]), matrix(last), last.bias
        return matrix(self.se[0]), self.se[0].bias, matrix(last), last.bias
