# SPDX-License-Identifier: Apache-2.0
"""Multi-stage feature aggregation of DEEN: a map corrected by an earlier one, over channels and over positions.

Zhang and Wang, "Diverse embedding expansion network and low-light cross-modality benchmark for visible-infrared person
re-identification", CVPR 2023, and its public code, from which the names of the parameters come. The weights are linear
in the products, divided by their number: the code has no softmax, although equation 7 of the paper writes one.

Every layer starts as the identity on the later map: the normalisation before the sum has weight and bias 0.
"""

from __future__ import annotations

from torch import Tensor, nn

from fastreid_ops.layers._network import first_map
from fastreid_ops.ops import _checks as check


def _into(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    """The way back to the later map's channels, silent at first."""
    norm = nn.BatchNorm2d(out_channels)
    nn.init.zeros_(norm.weight)
    nn.init.zeros_(norm.bias)
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride), norm)


def _check(layer: str, high: Tensor, low: Tensor, high_dim: int, low_dim: int) -> None:
    first_map(layer, high, high_dim)
    check.rank(layer, "low", check.tensor(layer, "low", low), 4, "(B, low_dim, H, W)")
    check.size(layer, "low", low, 1, low_dim, "low_dim of the layer")
    check.size(layer, "low", low, 0, high.shape[0], "the batch of x")


class CNL(nn.Module):
    """Channel-wise non-local layer: x + BN(W(A g(low))), A = theta(x) phi(low)' / low_dim, low_dim x low_dim.

    x (B, high_dim, H, W), low (B, low_dim, H, W) with ``flag`` 0, of twice the height and width otherwise -> as x.

    Args:
        high_dim, low_dim: channels of the later and of the earlier map.
        flag: 0: both maps have one size; 1 or 2: the earlier one is twice as high and wide, phi and W have stride 2.

    Raises:
        ValueError: an unknown flag, other channels, sizes that do not go together.
    """

    def __init__(self, high_dim: int, low_dim: int, flag: int = 0) -> None:
        super().__init__()
        for name, value in (("high_dim", high_dim), ("low_dim", low_dim)):
            check.positive_int("CNL", name, value)
        if flag not in (0, 1, 2):
            raise ValueError(check.message("CNL", "flag", repr(flag), "0, 1 or 2"))
        self.high_dim, self.low_dim = high_dim, low_dim
        self.stride = 1 if flag == 0 else 2
        self.g = nn.Conv2d(low_dim, low_dim, 1)
        self.theta = nn.Conv2d(high_dim, low_dim, 1)
        self.phi = nn.Conv2d(low_dim, low_dim, 1, self.stride)
        self.W = _into(low_dim, high_dim, self.stride)

    def forward(self, x: Tensor, low: Tensor) -> Tensor:
        _check("CNL", x, low, self.high_dim, self.low_dim)
        sizes = tuple(-(-size // self.stride) for size in low.shape[2:])
        if sizes != tuple(x.shape[2:]):
            got = f"{low.shape[2]} x {low.shape[3]}"
            expected = f"{self.stride} times the height and width of x, {x.shape[2]} x {x.shape[3]}"
            raise ValueError(check.message("CNL", "low", got, expected))
        weights = self.theta(x).flatten(2) @ (self.phi(low).flatten(2) / self.low_dim).transpose(1, 2)
        mixed = weights @ self.g(low).flatten(2)
        return self.W(mixed.unflatten(2, low.shape[2:])) + x


class PNL(nn.Module):
    """Position-wise non-local layer: x + BN(W(A g(low))), A = theta(x)' phi(low) / N over pairs of positions.

    The three maps have low_dim / reduction = M channels. As in the public code a map (M, H, W) is read as
    (2 M, H W / 2): a token is a position of the upper half together with the position as far into the lower half, N is
    their number in ``low``. A is never formed: A g is (g phi') theta, with a matrix of 2 M x 2 M.

    x (B, high_dim, H, W), low (B, low_dim, H', W'), H W and H' W' even -> as x.

    Args:
        high_dim, low_dim: channels of the later and of the earlier map.
        reduction: channels of ``low`` for each of M.

    Raises:
        ValueError: other channels, an odd number of positions, a reduction that does not divide low_dim.
    """

    def __init__(self, high_dim: int, low_dim: int, reduction: int = 2) -> None:
        super().__init__()
        for name, value in (("high_dim", high_dim), ("low_dim", low_dim), ("reduction", reduction)):
            check.positive_int("PNL", name, value)
        if low_dim % reduction:
            raise ValueError(
                check.message("PNL", "low_dim", low_dim, f"a multiple of the reduction, {reduction}")
            )
        self.high_dim, self.low_dim = high_dim, low_dim
        inner = low_dim // reduction
        self.g = nn.Conv2d(low_dim, inner, 1)
        self.theta = nn.Conv2d(high_dim, inner, 1)
        self.phi = nn.Conv2d(low_dim, inner, 1)
        self.W = _into(inner, high_dim)

    def forward(self, x: Tensor, low: Tensor) -> Tensor:
        _check("PNL", x, low, self.high_dim, self.low_dim)
        for name, value in (("x", x), ("low", low)):
            if value.shape[2] * value.shape[3] % 2:
                got = f"{value.shape[2]} x {value.shape[3]}"
                raise ValueError(check.message("PNL", name, got, "an even number of positions"))
        tokens = low.shape[2] * low.shape[3] // 2
        theta, phi, g = (
            part(value).flatten(2).unflatten(2, (2, -1)).flatten(1, 2)
            for part, value in ((self.theta, x), (self.phi, low), (self.g, low))
        )
        mixed = (g @ (phi / tokens).transpose(1, 2)) @ theta
        return self.W(mixed.reshape(x.shape[0], -1, *x.shape[2:])) + x


class MFA(nn.Module):
    """`PNL` after `CNL`, both with the same earlier map; arguments, shapes and errors as theirs."""

    def __init__(self, high_dim: int, low_dim: int, flag: int = 0) -> None:
        super().__init__()
        self.CNL = CNL(high_dim, low_dim, flag)
        self.PNL = PNL(high_dim, low_dim)

    def forward(self, x: Tensor, low: Tensor) -> Tensor:
        return self.PNL(self.CNL(x, low), low)
