# SPDX-License-Identifier: Apache-2.0
"""Mixing the channels of a grouped convolution (Zhang et al., "ShuffleNet", CVPR 2018)."""

from __future__ import annotations

from torch import Tensor


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """(B, C, H, W) -> the same: channel i of group g goes to place i * groups + g. ``groups`` divides C."""
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)
