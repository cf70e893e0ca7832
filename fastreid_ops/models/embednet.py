# SPDX-License-Identifier: Apache-2.0
"""EmbedNet: DEEN's aggregation and expansion around a vision transformer with a patch embedding for each modality.

It follows a description (names, widths, order of the parts); points where that contradicts itself or DEEN are
arguments.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastreid_ops.layers.token_aggregation import TokenMFA
from fastreid_ops.layers.token_expansion import CM_ATM, SS_DEC, T_MHEE, TokenDEE
from fastreid_ops.layers.transformer import PatchEmbedding, TransformerEncoder, resize_positions
from fastreid_ops.models.output import TrainOutput
from fastreid_ops.models.two_stream import check_ranking, frozen_neck, ranking_feature
from fastreid_ops.ops import _checks as check

EXPANSIONS = ("expand", "fuse", "tmhee", "cmatm", "ssdec")
FLAGS = (0, 0, 1, 2)


class DualViT(nn.Module):
    """Patch embedding a modality, one position embedding, four stages of encoder layers with common weights.

    Args:
        image_size: height and width that ``pos_embed`` is laid out for; images of another size get it resized.
        dim, depth, num_heads, mlp_ratio, dropout: of the encoder; depth is a multiple of 4.
    """

    def __init__(
        self,
        *,
        image_size: tuple[int, int] = (384, 384),
        dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.grid = self._grid(image_size)
        self._multiple("depth", depth, 4)
        self.pos_embed = nn.Parameter(torch.zeros(1, self.grid[0] * self.grid[1], dim))
        self.patch_embed_vis = PatchEmbedding(dim)
        self.patch_embed_ir = PatchEmbedding(dim)
        self.drop = nn.Dropout(dropout)
        self.stages = nn.ModuleList(
            TransformerEncoder(dim, depth // 4, num_heads, mlp_ratio=mlp_ratio, dropout=dropout)
            for _ in range(4)
        )
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    @staticmethod
    def _multiple(name: str, value: int, unit: int) -> int:
        check.positive_int("EmbedNet", name, value)
        if value % unit:
            raise ValueError(check.message("EmbedNet", name, value, f"a multiple of {unit}"))
        return value // unit

    @classmethod
    def _grid(cls, image_size: tuple[int, int]) -> tuple[int, int]:
        height, width = image_size
        return cls._multiple("image_size", height, 16), cls._multiple("image_size", width, 16)

    @torch.no_grad()
    def resize(self, image_size: tuple[int, int]) -> None:
        """Lay ``pos_embed`` out for another size of images, as a new parameter, see `VisionTransformer.resize`."""
        grid = self._grid(image_size)
        resized = resize_positions(self.pos_embed, self.grid, grid)
        self.pos_embed = nn.Parameter(resized.clone(), requires_grad=self.pos_embed.requires_grad)
        self.grid = grid

    def embed(self, images: Tensor, mode: int = 0) -> Tensor:
        """(B, 3, H, W), H and W multiples of 16 -> tokens (B, H W / 256, dim) with their positions."""
        if mode not in (0, 1, 2):
            expected = "0 (both), 1 (visible) or 2 (infrared)"
            raise ValueError(check.message("EmbedNet", "mode", repr(mode), expected))
        grid = self.patch_embed_vis.grid(images)
        if mode:
            tokens = (self.patch_embed_vis if mode == 1 else self.patch_embed_ir)(images)
        elif images.shape[0] % 2:
            expected = "an even batch with mode 0, half of it infrared"
            raise ValueError(check.message("EmbedNet", "images", f"batch {images.shape[0]}", expected))
        else:
            visible, infrared = images.chunk(2)
            tokens = torch.cat((self.patch_embed_vis(visible), self.patch_embed_ir(infrared)))
        return self.drop(tokens + resize_positions(self.pos_embed, self.grid, grid))


class EmbedNet(nn.Module):
    """`DualViT` with an aggregation after each of its stages, an expansion, one more layer, mean, neck and classifier:
    111,800,066 parameters with 395 identities.

    ``model(images, mode)``: images (B, 3, H, W), H and W multiples of 16; mode 0: the first half of the batch is
    visible, the second infrared; 1: all visible; 2: all infrared.

    Training: ``logits`` (B, num_classes) and ``features`` (B, dim) before the neck, three of each with
    ``dee="expand"`` (an image's own, then the two generators', as in DEEN), otherwise one; ``auxiliary["branches"]``
    (K, B, tokens, width), of tmhee, cmatm and ssdec, for an orthogonality loss. Evaluation: (B, feature_dim), see
    `ranking_feature`.

    Args:
        num_classes: number of training identities.
        dee: ``"expand"`` or ``"fuse"`` (`TokenDEE`), ``"tmhee"`` (`T_MHEE`), ``"cmatm"`` (`CM_ATM`), ``"ssdec"``
            (`SS_DEC`). The description returns one tensor, ``fuse``, and names losses that need ``expand``.
        mfa_low: what an aggregation takes for the earlier tokens: ``"stage0"`` the output of the first stage, as
            described, ``"prev"`` the input of its stage, DEEN's rule.
        neck: ``"seed"``: linear, batch normalisation and ReLU, as described; ``"bn"``: DEEN's, batch normalisation
            whose bias stays 0 (the ReLU leaves half of the feature zero).
        grid: see `TokenDEE`.
        image_size, dim, depth, num_heads, mlp_ratio, dropout: see `DualViT`. The description gives neither heads nor
            ratio; they are those of ViT-B.
        test_feature, pool_weight: see `ranking_feature`.

    Raises:
        ValueError: an unknown choice, sizes that do not divide, another mode, an odd batch with mode 0.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        dee: str = "expand",
        mfa_low: str = "stage0",
        neck: str = "seed",
        grid: bool = False,
        image_size: tuple[int, int] = (384, 384),
        dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        dropout: float = 0.1,
        test_feature: str = "all",
        pool_weight: float = 0.5,
    ) -> None:
        super().__init__()
        check.choice("EmbedNet", "dee", dee, EXPANSIONS)
        check.choice("EmbedNet", "mfa_low", mfa_low, ("stage0", "prev"))
        check.choice("EmbedNet", "neck", neck, ("seed", "bn"))
        check_ranking("EmbedNet", test_feature, pool_weight)
        self.mfa_low, self.test_feature, self.pool_weight = mfa_low, test_feature, float(pool_weight)
        self.groups = 3 if dee == "expand" else 1
        self.backbone = DualViT(
            image_size=image_size,
            dim=dim,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            dropout=dropout,
        )
        for stage, flag in enumerate(FLAGS):
            self.add_module(f"MFA{stage}", TokenMFA(dim, flag))
        if dee in ("expand", "fuse"):
            self.DEE = TokenDEE(dim, form=dee, grid=grid, dropout=dropout)
        else:
            self.DEE = {"tmhee": T_MHEE, "cmatm": CM_ATM, "ssdec": SS_DEC}[dee](dim, dropout=dropout)
        self.stage4_transformer = TransformerEncoder(dim, 1, num_heads, mlp_ratio=mlp_ratio, dropout=dropout)
        if neck == "seed":
            self.bottleneck = nn.Sequential(nn.Linear(dim, dim), nn.BatchNorm1d(dim), nn.ReLU())
        else:
            self.bottleneck = frozen_neck(dim)
        self.classifier = nn.Linear(dim, num_classes, bias=False)
        nn.init.normal_(self.classifier.weight, 0.0, 0.001)
        widths = {"all": 2 * self.groups, "pooled": self.groups, "neck": self.groups, "original": 1}
        self.feature_dim = dim * widths[test_feature]

    def tokens(self, images: Tensor, mode: int = 0) -> Tensor:
        """(B, 3, H, W) -> (B, H W / 256, dim) after the last aggregation."""
        x = self.backbone.embed(images, mode)
        low = None
        for number, stage in enumerate(self.backbone.stages):
            before, x = x, stage(x)
            if self.mfa_low == "prev":
                low = before
            elif low is None:
                low = x
            x = getattr(self, f"MFA{number}")(x, low)
        return x

    def embed(self, images: Tensor, mode: int = 0) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Features (groups * B, dim) before and after the neck, and the branches of the expansion."""
        size = self.backbone.patch_embed_vis.grid(images)
        x, branches = self.DEE(self.tokens(images, mode), mode, size)
        pooled = self.stage4_transformer(x).mean(1)
        return pooled, self.bottleneck(pooled), branches

    def forward(self, images: Tensor, mode: int = 0) -> Tensor | TrainOutput:
        pooled, neck, branches = self.embed(images, mode)
        if not self.training:
            return ranking_feature(pooled, neck, self.groups, self.test_feature, self.pool_weight)
        logits = self.classifier(neck).chunk(self.groups)
        auxiliary = {"branches": torch.stack(branches)} if branches else {}
        return TrainOutput(logits, pooled.chunk(self.groups), (), auxiliary)
