# SPDX-License-Identifier: Apache-2.0
"""Efficient channel attention (Wang et al., CVPR 2020)."""

from __future__ import annotations

from torch import Tensor, nn

from fastreid_ops.layers._network import Maps, first_map
from fastreid_ops.ops import _checks as check
from fastreid_ops.ops.attention import Gate, Statistics, spatial_channel_attention


class ECALayer(nn.Module):
    """x * sigmoid(conv(mean(x))), one short convolution along the channels; its parameter is `conv.weight` (1, 1, k).

    (B, C, H, W) -> the same for any C; a sequence of maps gives the sum of the gated maps.

    Args:
        kernel: odd width of the convolution. The paper derives 3 or 5 from the number of channels; here it is given.

    Raises:
        ValueError: an even kernel.
    """

    def __init__(self, kernel: int = 3) -> None:
        super().__init__()
        check.positive_int("ECALayer", "kernel", kernel)
        if kernel % 2 == 0:
            raise ValueError(check.message("ECALayer", "kernel", kernel, "an odd width"))
        self.conv = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)

    def _logits(self, values: Statistics) -> Gate:
        return Gate(channel=self.conv(values.channel_avg.unsqueeze(1)).squeeze(1))

    def forward(self, x: Maps, *, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        """``residual`` and ``relu`` as in `attention_gate`."""
        first_map("ECALayer", x)
        return spatial_channel_attention(x, self._logits, channel=("avg",), residual=residual, relu=relu)
