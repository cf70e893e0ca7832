# SPDX-License-Identifier: Apache-2.0
"""Vision transformer (Dosovitskiy et al., "An image is worth 16x16 words", ICLR 2021).

Parameter names and numbers are those of timm's ``vit_*_patch16_224`` without their ``head``, so weight files of those
load as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastreid_ops.layers.transformer import PatchEmbedding, resize_positions
from fastreid_ops.ops import _checks as check

POOLS = ("cls", "mean")


class Attention(nn.Module):
    """Multi-head self-attention. (B, N, dim) -> the same."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(
                check.message("VisionTransformer", "dim", dim, f"a multiple of the {num_heads} heads")
            )
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.attn_drop = nn.Dropout(dropout)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        drop = self.attn_drop.p if self.attn_drop.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=drop)
        return self.proj_drop(self.proj(mixed.transpose(1, 2).flatten(2)))


class MLP(nn.Module):
    """Two linear layers around GELU. (B, N, dim) -> the same."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(F.gelu(self.fc1(x)))))


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)); while training a branch is left out of a sample at random.

    (B, N, dim) -> the same. ``drop_path`` is the probability; what stays is divided by 1 - drop_path.
    """

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, dropout: float, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads, dropout)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MLP(dim, int(dim * mlp_ratio), dropout)
        self.drop_path = drop_path

    def _keep(self, branch: Tensor) -> Tensor:
        if not self.training or self.drop_path == 0:
            return branch
        return branch * F.dropout(branch.new_ones(branch.shape[0], 1, 1), self.drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._keep(self.attn(self.norm1(x)))
        return x + self._keep(self.mlp(self.norm2(x)))


class VisionTransformer(nn.Module):
    """Image (B, 3, H, W), H and W multiples of 16 -> map (B, ``out_channels``, h, w), after the last normalisation.

    With ``pool="cls"`` the map is the class token, (B, dim, 1, 1); with ``"mean"`` the patches, (B, dim, H / 16, W /
    16). Either way its mean over the positions is the image's feature.

    Args:
        image_size: height and width that ``pos_embed`` is laid out for, those of the weights to be loaded. Images of
            another size get it resized at every call, or once and for all by `resize`.
        dim, depth, num_heads, mlp_ratio: of the encoder.
        pool: ``"cls"`` or ``"mean"``.
        dropout: behind the position embedding, the attention's weights and the linear layers of a block.
        drop_path: of the last block; it grows linearly from 0 at the first.

    Raises:
        ValueError: image_size no multiple of 16, an unknown pool, a width that the heads do not divide, drop_path
            outside [0, 1).
    """

    def __init__(
        self,
        *,
        image_size: tuple[int, int] = (224, 224),
        dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        pool: str = "cls",
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        check.choice("VisionTransformer", "pool", pool, POOLS)
        check.positive_int("VisionTransformer", "depth", depth)
        if not 0 <= drop_path < 1:
            raise ValueError(check.message("VisionTransformer", "drop_path", drop_path, "0 or more, below 1"))
        self.grid = self._grid(image_size)
        self.pool, self.out_channels = pool, dim
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid[0] * self.grid[1], dim))
        self.patch_embed = PatchEmbedding(dim)
        self.pos_drop = nn.Dropout(dropout)
        rates = [drop_path * index / max(depth - 1, 1) for index in range(depth)]
        self.blocks = nn.Sequential(*(Block(dim, num_heads, mlp_ratio, dropout, rate) for rate in rates))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        nn.init.normal_(self.cls_token, std=1e-6)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    @staticmethod
    def _grid(image_size: tuple[int, int]) -> tuple[int, int]:
        height, width = image_size
        for value in (height, width):
            check.positive_int("VisionTransformer", "image_size", value)
            if value % 16:
                raise ValueError(check.message("VisionTransformer", "image_size", value, "a multiple of 16"))
        return height // 16, width // 16

    @torch.no_grad()
    def resize(self, image_size: tuple[int, int]) -> None:
        """Lay ``pos_embed`` out for another size of images, as a new parameter; to be called before an optimiser is
        made, for weights of another size, and for an export whose operators do not interpolate."""
        grid = self._grid(image_size)
        resized = resize_positions(self.pos_embed, self.grid, grid, prefix=1)
        self.pos_embed = nn.Parameter(resized.clone(), requires_grad=self.pos_embed.requires_grad)
        self.grid = grid

    def tokens(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 1 + H W / 256, dim), the class token first, after the last normalisation."""
        grid = self.patch_embed.grid(images)
        patches = self.patch_embed(images)
        x = torch.cat((self.cls_token.expand(patches.shape[0], -1, -1).to(patches.dtype), patches), 1)
        x = self.pos_drop(x + resize_positions(self.pos_embed, self.grid, grid, prefix=1))
        return self.norm(self.blocks(x))

    def forward(self, images: Tensor) -> Tensor:
        x = self.tokens(images)
        if self.pool == "cls":
            return x[:, 0, :, None, None]
        return x[:, 1:].transpose(1, 2).unflatten(2, self.patch_embed.grid(images))
