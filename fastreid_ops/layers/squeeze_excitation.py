# SPDX-License-Identifier: Apache-2.0
"""Squeeze and excitation (Hu et al., CVPR 2018): x * sigmoid(W2 relu(W1 mean(x)))."""

from __future__ import annotations

from torch import Tensor, nn

from fastreid_ops.layers._network import Maps, first_map, hidden_width, matrix
from fastreid_ops.ops.attention import channel_attention


class SELayer(nn.Module):
    """Two linear layers, `fc.0` and `fc.2`, as in the residual networks of fast-reid and NAIC_ReID.

    (B, channels, H, W) -> the same; a sequence of maps gives the sum of the gated maps.

    Args:
        reduction: channels for each hidden one.
        bias: give both layers a bias; the originals have none.

    Raises:
        ValueError: another number of channels than the layer's; fewer channels than the reduction.
    """

    def __init__(self, channels: int, reduction: int = 16, *, bias: bool = False) -> None:
        super().__init__()
        hidden = hidden_width("SELayer", channels, reduction)
        self.channels = channels
        self.fc = nn.Sequential(
            nn.Linear(channels, hidden, bias=bias), nn.ReLU(), nn.Linear(hidden, channels, bias=bias)
        )

    def forward(self, x: Maps, *, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        """relu(gated + residual), each where given, in the pass that gates: the end of a residual block."""
        first_map("SELayer", x, self.channels)
        first, last = self.fc[0], self.fc[-1]
        return channel_attention(
            x, first.weight, first.bias, last.weight, last.bias, residual=residual, relu=relu
        )


class SEModule(nn.Module):
    """Two 1x1 convolutions with bias, `fc1` and `fc2`, as in the SENet, SE-ResNet and SE-ResNeXt of torchreid.

    Shapes, arguments and errors as `SELayer`.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = hidden_width("SEModule", channels, reduction)
        self.channels = channels
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Maps, *, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        """As `SELayer.forward`."""
        first_map("SEModule", x, self.channels)
        weights = matrix(self.fc1), self.fc1.bias, matrix(self.fc2), self.fc2.bias
        return channel_attention(x, *weights, residual=residual, relu=relu)
