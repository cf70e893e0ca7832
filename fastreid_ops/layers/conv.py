# SPDX-License-Identifier: Apache-2.0
"""Convolution, normalisation, activation in one module."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


class ConvNorm(nn.Module):
    """Convolution -> normalisation -> ReLU. (B, C, H, W) -> (B, out_channels, H', W').

    The parts are called ``conv`` and ``bn`` whatever the normalisation is; weight files of several published
    networks depend on these names.

    Args:
        kernel, padding: one number, or one for the height and one for the width.
        bias: of the convolution; without a use before a normalisation, but published weight files have it.
        norm: factory (channels) of the normalisation.
        activation: False leaves the ReLU out (a linear layer); a factory () makes another one in its place.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int | tuple[int, int] = 1,
        *,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
        groups: int = 1,
        bias: bool = False,
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
        activation: bool | Callable[[], nn.Module] = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=bias)
        self.bn = norm(out_channels)
        if callable(activation):
            self.relu = activation()
        else:
            self.relu = nn.ReLU(inplace=True) if activation else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return x if self.relu is None else self.relu(x)
