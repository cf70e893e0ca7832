# SPDX-License-Identifier: Apache-2.0
"""Non-local block as AGW uses it."""

from __future__ import annotations

from torch import Tensor, nn

from fastreid_ops.layers._network import first_map
from fastreid_ops.ops import _checks as check


class NonLocal(nn.Module):
    """x + BN(W(A g(x))), A = theta(x)' phi(x) / N over the N positions. (B, channels, H, W) -> the same.

    Wang et al., "Non-local neural networks", CVPR 2018, dot-product form, with the names and the one inner channel of
    Ye et al., "Deep learning for person re-identification: a survey and outlook" (AGW). The normalisation starts with
    weight and bias 0, the block as the identity. A is never formed: A g is theta' (phi g).

    Args:
        channels: of the map.
        inner: channels of theta, phi and g.
    """

    def __init__(self, channels: int, inner: int = 1) -> None:
        super().__init__()
        for name, value in (("channels", channels), ("inner", inner)):
            check.positive_int("NonLocal", name, value)
        self.g = nn.Sequential(nn.Conv2d(channels, inner, 1))
        self.W = nn.Sequential(nn.Conv2d(inner, channels, 1), nn.BatchNorm2d(channels))
        nn.init.zeros_(self.W[1].weight)
        nn.init.zeros_(self.W[1].bias)
        self.theta = nn.Conv2d(channels, inner, 1)
        self.phi = nn.Conv2d(channels, inner, 1)

    def forward(self, x: Tensor) -> Tensor:
        first_map("NonLocal", x, self.theta.in_channels)
        positions = x.shape[2] * x.shape[3]
        theta, phi, g = (part(x).flatten(2) for part in (self.theta, self.phi, self.g))
        mixed = (g @ (phi / positions).transpose(1, 2)) @ theta
        return self.W(mixed.unflatten(2, x.shape[2:])) + x
