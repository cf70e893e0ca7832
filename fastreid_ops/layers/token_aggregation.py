# SPDX-License-Identifier: Apache-2.0
"""DEEN's feature aggregation on tokens (B, N, dim) instead of maps.

As `layers.feature_aggregation`: linear weights divided by their number, the identity at first. The number of tokens
does not change from stage to stage, so all three flags have stride 1, and positions are not folded into halves.
"""

from __future__ import annotations

from torch import Tensor, nn

from fastreid_ops.ops import _checks as check


class TokenNorm(nn.Module):
    """Batch normalisation of the embedding axis over samples and tokens, silent at first."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(dim)
        nn.init.zeros_(self.bn.weight)
        nn.init.zeros_(self.bn.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class _Pairing(nn.Module):
    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.g, self.theta, self.phi = (nn.Linear(dim, inner) for _ in range(3))
        self.W = nn.Sequential(nn.Linear(inner, dim), TokenNorm(dim))

    def _check(self, x: Tensor, low: Tensor) -> None:
        name = type(self).__name__
        for argument, value in (("x", x), ("low", low)):
            check.rank(name, argument, check.tensor(name, argument, value), 3, "(B, N, dim)")
            check.size(name, argument, value, 2, self.g.in_features, "dim of the layer")
        if x.shape != low.shape:
            raise ValueError(check.message(name, "low", list(low.shape), f"the shape of x, {list(x.shape)}"))


class TokenCNL(_Pairing):
    """x + BN(W(Y)), Y' = A g(low)', A = theta(x)' phi(low) / dim, dim x dim. x, low (B, N, dim) -> the same."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, dim)

    def forward(self, x: Tensor, low: Tensor) -> Tensor:
        self._check(x, low)
        weights = self.theta(x).transpose(1, 2) @ (self.phi(low) / x.shape[2])
        return self.W(self.g(low) @ weights.transpose(1, 2)) + x


class TokenPNL(_Pairing):
    """x + BN(W(A g(low))), A = theta(x) phi(low)' / N over pairs of tokens, the three of dim / 2.

    x, low (B, N, dim) -> the same. A is never formed: A g is theta (phi' g).
    """

    def __init__(self, dim: int) -> None:
        if dim % 2:
            raise ValueError(check.message("TokenPNL", "dim", dim, "an even number"))
        super().__init__(dim, dim // 2)

    def forward(self, x: Tensor, low: Tensor) -> Tensor:
        self._check(x, low)
        weights = (self.phi(low) / x.shape[1]).transpose(1, 2) @ self.g(low)
        return self.W(self.theta(x) @ weights) + x


class TokenMFA(nn.Module):
    """`TokenPNL` after `TokenCNL`, both with the same earlier tokens. x, low (B, N, dim) -> the same.

    Args:
        dim: even.
        flag: 0, 1 or 2, of the stage; without effect, since N is the same everywhere.
    """

    def __init__(self, dim: int, flag: int = 0) -> None:
        super().__init__()
        if flag not in (0, 1, 2):
            raise ValueError(check.message("TokenMFA", "flag", repr(flag), "0, 1 or 2"))
        self.flag = flag
        self.CNL = TokenCNL(dim)
        self.PNL = TokenPNL(dim)

    def forward(self, x: Tensor, low: Tensor) -> Tensor:
        return self.PNL(self.CNL(x, low), low)
