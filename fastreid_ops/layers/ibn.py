# SPDX-License-Identifier: Apache-2.0
"""Instance and batch normalisation together (Pan et al., "Two at once", ECCV 2018)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class IBN(nn.Module):
    """Instance normalisation of the first half of the channels, batch normalisation of the others (IBN-a).

    (B, C, H, W) -> the same. For odd C the first half is the smaller one. The parts are called ``IN`` and ``BN``, as in
    published weight files; ``IN`` has weight and bias and no running statistics.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.half = channels // 2
        self.IN = nn.InstanceNorm2d(self.half, affine=True)
        self.BN = nn.BatchNorm2d(channels - self.half)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.IN(x[:, : self.half]), self.BN(x[:, self.half :])], 1)


def instance_norm(channels: int) -> nn.InstanceNorm2d:
    """Instance normalisation with weight and bias, the kind that IBN-b, OSNet-IBN and OSNet-AIN use."""
    return nn.InstanceNorm2d(channels, affine=True)
