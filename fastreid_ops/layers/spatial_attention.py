# SPDX-License-Identifier: Apache-2.0
"""One gate for each position, from the mean and the maximum of its channels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fastreid_ops.layers._network import Maps, first_map
from fastreid_ops.ops import _checks as check
from fastreid_ops.ops.attention import Gate, Statistics, spatial_channel_attention

POSITION_STATISTICS = ("avg", "max")


def position_logits(network: Callable[[Tensor], Tensor], values: Statistics) -> Gate:
    """The logits of a network that takes mean and maximum as two channels, the mean first."""
    return Gate(spatial=network(torch.cat((values.spatial_avg, values.spatial_max), 1)))


class SpatialAttention(nn.Module):
    """x * sigmoid(conv([mean; max])), the spatial half of CBAM (Woo et al., ECCV 2018, eq. 3).

    (B, C, H, W) -> the same; a sequence of maps gives the sum of the gated maps. The paper concatenates the mean
    first, and so does this layer; its authors' code puts the maximum first. A maximum at several channels sends its
    gradient to the first of them.

    Args:
        kernel: odd size of the convolution, 7 in the paper.
        batch_norm: normalise the logits (`bn1`), as the code of the paper does and its text does not say.
    """

    def __init__(self, kernel: int = 7, *, batch_norm: bool = False) -> None:
        super().__init__()
        check.positive_int("SpatialAttention", "kernel", kernel)
        if kernel % 2 == 0:
            raise ValueError(check.message("SpatialAttention", "kernel", kernel, "an odd size"))
        self.conv1 = nn.Conv2d(2, 1, kernel, padding=kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(1) if batch_norm else None

    def _network(self, values: Tensor) -> Tensor:
        logits = self.conv1(values)
        return logits if self.bn1 is None else self.bn1(logits)

    def forward(self, x: Maps, *, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        """``residual`` and ``relu`` as in `attention_gate`."""
        first_map("SpatialAttention", x)
        return spatial_channel_attention(
            x,
            lambda values: position_logits(self._network, values),
            channel=(),
            spatial=POSITION_STATISTICS,
            residual=residual,
            relu=relu,
        )
