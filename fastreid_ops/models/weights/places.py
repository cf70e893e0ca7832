# SPDX-License-Identifier: Apache-2.0
"""Where our models keep what the plain names (`sources`) mean. A name that a place does not lead to an entry stays: a
head is not inside the backbone."""

from __future__ import annotations

from fastreid_ops.models.weights.keymap import KeyMap, Table

# timm's names inside a block for `layers.transformer.EncoderLayer`'s.
_LAYER: Table = (
    (r"(blocks\.\d+)\.attn\.qkv\.(.+)", r"\1.attn.in_proj_\2"),
    (r"(blocks\.\d+)\.attn\.proj\.(.+)", r"\1.attn.out_proj.\2"),
    (r"(blocks\.\d+)\.mlp\.fc1\.(.+)", r"\1.mlp.0.\2"),
    (r"(blocks\.\d+)\.mlp\.fc2\.(.+)", r"\1.mlp.2.\2"),
)

_PLACES: tuple[KeyMap, ...] = (
    KeyMap(""),
    KeyMap("backbone.*", (((r"(.+)", r"backbone.\1"),),), mark=r"backbone\."),
    KeyMap("base.*", (((r"(.+)", r"base.\1"),),), mark=r"base\."),
    KeyMap(
        "a list of ResNet's children",
        (
            (
                (r"conv1\.(.+)", r"base.0.\1"),
                (r"bn1\.(.+)", r"base.1.\1"),
                *((rf"layer{number}\.(.+)", rf"base.{number + 3}.\1") for number in (1, 2, 3, 4)),
            ),
        ),
        mark=r"base\.0\.weight",
    ),
    KeyMap(
        "backbone.layer0 to layer4",
        (
            (
                (r"conv1\.(.+)", r"backbone.layer0.0.\1"),
                (r"bn1\.(.+)", r"backbone.layer0.1.\1"),
                (r"(layer[1-4]\..+)", r"backbone.\1"),
            ),
        ),
        mark=r"backbone\.layer0\.",
    ),
    # Stem and stages for every place, the copies that never run included where the model has them.
    KeyMap(
        "both streams",
        (
            (
                (
                    r"((?:conv1|bn1|layer[1-4])\..+)",
                    r"thermal_module.thermal.\1",
                    r"visible_module.visible.\1",
                    r"base_resnet.base.\1",
                ),
            ),
        ),
        mark=r"thermal_module\.",
    ),
)


def _embednet(names: list[str]) -> KeyMap:
    """The patch embedding for both modalities, the blocks in four stages of equal depth."""
    depth = len({name.split(".")[4] for name in names if name.startswith("backbone.stages.0.layers.")})
    stages = tuple(
        (
            rf"blocks\.{stage * depth + layer}\.(.+)",
            rf"backbone.stages.{stage}.layers.{layer}.\1",
        )
        for stage in range(4)
        for layer in range(depth)
    )
    embedding = (
        (
            r"patch_embed\.(.+)",
            r"backbone.patch_embed_vis.\1",
            r"backbone.patch_embed_ir.\1",
        ),
        (r"pos_embed", r"backbone.pos_embed"),
    )
    return KeyMap("both streams", (_LAYER, (*embedding, *stages)))


def places(names: list[str]) -> tuple[KeyMap, ...]:
    """The maps that lead into a model with entries of these names."""
    found = tuple(place for place in _PLACES if place.is_for(names))
    if any(name.startswith("backbone.patch_embed_vis.") for name in names):
        return (*found, _embednet(names))
    return found
