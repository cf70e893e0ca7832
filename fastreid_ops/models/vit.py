# SPDX-License-Identifier: Apache-2.0
"""Vision transformers with the strong baseline's neck (`BNNeckBaseline`), as in He et al., "TransReID", ICCV 2021,
without its further parts. ``backbone.*`` has the names of timm's weights."""

from __future__ import annotations

from fastreid_ops.models.backbones.vit import VisionTransformer
from fastreid_ops.models.baseline import BNNeckBaseline


def vit_small_patch16_224(
    num_classes: int,
    *,
    image_size: tuple[int, int] = (224, 224),
    pool: str = "cls",
    dropout: float = 0.0,
    drop_path: float = 0.0,
    neck_feature: str = "after",
) -> BNNeckBaseline:
    """ViT-S/16, feature of 384, images of any multiples of 16; options of `VisionTransformer` and `BNNeckBaseline`."""
    backbone = VisionTransformer(
        image_size=image_size, dim=384, num_heads=6, pool=pool, dropout=dropout, drop_path=drop_path
    )
    return BNNeckBaseline(backbone, num_classes, neck_feature=neck_feature)


def vit_base_patch16_224(
    num_classes: int,
    *,
    image_size: tuple[int, int] = (224, 224),
    pool: str = "cls",
    dropout: float = 0.0,
    drop_path: float = 0.0,
    neck_feature: str = "after",
) -> BNNeckBaseline:
    """ViT-B/16, feature of 768, images of any multiples of 16; options of `VisionTransformer` and `BNNeckBaseline`."""
    backbone = VisionTransformer(
        image_size=image_size, dim=768, num_heads=12, pool=pool, dropout=dropout, drop_path=drop_path
    )
    return BNNeckBaseline(backbone, num_classes, neck_feature=neck_feature)
