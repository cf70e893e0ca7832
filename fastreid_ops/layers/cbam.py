# SPDX-License-Identifier: Apache-2.0
"""Convolutional block attention module (Woo et al., ECCV 2018): a gate a channel, then a gate a position."""

from __future__ import annotations

from torch import Tensor, nn

from fastreid_ops.layers._network import Maps, first_map, hidden_width, matrix
from fastreid_ops.layers.spatial_attention import SpatialAttention
from fastreid_ops.ops.attention import channel_attention


class CBAMChannel(nn.Module):
    """x * sigmoid(mlp(mean) + mlp(max)), one network, `fc1` and `fc2`, for both (eq. 2).

    (B, channels, H, W) -> the same; a sequence of maps gives the sum of the gated maps. A maximum at several positions
    sends its gradient to the first of them.

    Args:
        reduction: channels for each hidden one.
        bias: biases of the two layers; the paper's equation shows none, its authors' code has them.

    Raises:
        ValueError: another number of channels than the layer's; fewer channels than the reduction.
    """

    def __init__(self, channels: int, reduction: int = 16, *, bias: bool = True) -> None:
        super().__init__()
        hidden = hidden_width("CBAMChannel", channels, reduction)
        self.channels = channels
        self.fc1 = nn.Conv2d(channels, hidden, 1, bias=bias)
        self.fc2 = nn.Conv2d(hidden, channels, 1, bias=bias)

    def forward(self, x: Maps) -> Tensor:
        first_map("CBAMChannel", x, self.channels)
        weights = matrix(self.fc1), self.fc1.bias, matrix(self.fc2), self.fc2.bias
        return channel_attention(x, *weights, statistics=("avg", "max"), shared=True)


class CBAM(nn.Module):
    """`CBAMChannel`, then `SpatialAttention` on its result. (B, channels, H, W) -> the same.

    Args:
        reduction: channels for each hidden one of the channel gate.
        kernel: odd size of the spatial convolution.
        batch_norm: normalise the spatial logits.
        bias: biases of the channel network.
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        *,
        kernel: int = 7,
        batch_norm: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.channel = CBAMChannel(channels, reduction, bias=bias)
        self.spatial = SpatialAttention(kernel, batch_norm=batch_norm)

    def forward(self, x: Tensor, *, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        """relu(gated + residual), each where given, in the pass of the spatial gate."""
        return self.spatial(self.channel(x), residual=residual, relu=relu)
