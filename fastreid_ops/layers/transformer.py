# SPDX-License-Identifier: Apache-2.0
"""Parts of vision transformers (Dosovitskiy et al., "An image is worth 16x16 words", ICLR 2021)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastreid_ops.ops import _checks as check


class Attention(nn.Module):
    """Multi-head attention, batch first, with the parameters and first values of ``torch.nn.MultiheadAttention``.

    query (B, N, dim), memory (B, M, dim) or None for the query itself -> (B, N, dim).

    Raises:
        ValueError: a width that the heads do not divide.
    """

    def __init__(self, dim: int, num_heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        check.positive_int("Attention", "num_heads", num_heads)
        if dim % num_heads:
            raise ValueError(check.message("Attention", "dim", dim, f"a multiple of the {num_heads} heads"))
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        self.attn_drop = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def heads(self, query: Tensor, memory: Tensor | None = None) -> Tensor:
        """What every head reads, (B, heads, N, dim / heads), before they are mixed."""
        if memory is None:
            parts = F.linear(query, self.in_proj_weight, self.in_proj_bias).chunk(3, 2)
        else:
            dim = query.shape[2]
            weight, bias = self.in_proj_weight, self.in_proj_bias
            parts = (
                F.linear(query, weight[:dim], bias[:dim]),
                *F.linear(memory, weight[dim:], bias[dim:]).chunk(2, 2),
            )
        q, k, v = (x.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for x in parts)
        drop = self.attn_drop.p if self.attn_drop.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, dropout_p=drop)

    def mix(self, heads: Tensor) -> Tensor:
        """(B, heads, N, dim / heads) -> (B, N, dim)."""
        return self.out_proj(heads.transpose(1, 2).flatten(2))

    def forward(self, query: Tensor, memory: Tensor | None = None) -> Tensor:
        return self.mix(self.heads(query, memory))


class EncoderLayer(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)) of two linear layers around GELU. (B, N, dim) -> the same."""

    def __init__(
        self, dim: int, num_heads: int, *, mlp_ratio: float = 4.0, dropout: float = 0.1, eps: float = 1e-6
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, num_heads, dropout=dropout)
        self.drop = nn.Dropout(dropout)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        hidden = int(dim * mlp_ratio)
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.attn(self.norm1(x)))
        return x + self.mlp(self.norm2(x))


class TransformerEncoder(nn.Module):
    """``depth`` encoder layers. (B, N, dim) -> the same; arguments as `EncoderLayer`."""

    def __init__(self, dim: int, depth: int, num_heads: int, **options: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(dim, num_heads, **options) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class PatchEmbedding(nn.Module):
    """Patches of patch x patch, without overlap, as tokens by rows: (B, 3, H, W) -> (B, H W / patch^2, dim).

    Raises:
        ValueError: height or width no multiple of the patch.
    """

    def __init__(self, dim: int, patch: int = 16) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch, patch)

    def grid(self, images: Tensor) -> tuple[int, int]:
        """Rows and columns of patches."""
        check.rank(
            "PatchEmbedding",
            "images",
            check.tensor("PatchEmbedding", "images", images),
            4,
            "(B, 3, H, W)",
        )
        height, width = images.shape[2:]
        patch = self.proj.stride[0]
        if height % patch or width % patch:
            got, expected = f"{height} x {width}", f"multiples of {patch}, the patch"
            raise ValueError(check.message("PatchEmbedding", "images", got, expected))
        return height // patch, width // patch

    def forward(self, images: Tensor) -> Tensor:
        self.grid(images)
        return self.proj(images).flatten(2).transpose(1, 2)


def resize_positions(
    positions: Tensor, grid: tuple[int, int], new_grid: tuple[int, int], *, prefix: int = 0
) -> Tensor:
    """Position embeddings (1, prefix + rows * columns, D) of one grid for another, by bicubic interpolation.

    The first ``prefix`` entries, of class tokens, stay. Smoothed where the new grid is coarser.
    """
    if tuple(grid) == tuple(new_grid):
        return positions
    first, rest = positions[:, :prefix], positions[:, prefix:]
    maps = rest.transpose(1, 2).unflatten(2, tuple(grid)).float()
    maps = F.interpolate(maps, size=tuple(new_grid), mode="bicubic", antialias=True)
    return torch.cat((first, maps.flatten(2).transpose(1, 2).to(positions.dtype)), 1)
