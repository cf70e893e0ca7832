# SPDX-License-Identifier: Apache-2.0
"""Vision transformers with the strong baseline's neck (`BNNeckBaseline`), as in He et al., "TransReID", ICCV 2021,
without its further parts. ``backbone.*`` has the names of timm's weights."""

from __future__ import annotations

from functools import partial

from fastreid_ops.models.backbones.vit import VisionTransformer
from fastreid_ops.models.baseline import BNNeckBaseline


def _vit(
    dim: int,
    num_heads: int,
    num_classes: int,
    *,
    image_size: tuple[int, int] = (224, 224),
    pool: str = "cls",
    dropout: float = 0.0,
    drop_path: float = 0.0,
    neck_feature: str = "after",
) -> BNNeckBaseline:
    """ViT with patches of 16, images of any multiples of 16; options of `VisionTransformer` and `BNNeckBaseline`."""
    backbone = VisionTransformer(
        image_size=image_size, dim=dim, num_heads=num_heads, pool=pool, dropout=dropout, drop_path=drop_path
    )
    return BNNeckBaseline(backbone, num_classes, neck_feature=neck_feature)


vit_small_patch16_224 = partial(_vit, 384, 6)  # ViT-S/16, feature of 384
vit_base_patch16_224 = partial(_vit, 768, 12)  # ViT-B/16, feature of 768
