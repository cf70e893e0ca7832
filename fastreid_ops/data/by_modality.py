# SPDX-License-Identifier: Apache-2.0
"""Transforms that ask which light an image was taken in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fastreid_ops.data.transforms import EvalTransform, TrainTransform


@dataclass(frozen=True)
class ByModality:
    """One transform for visible images and another for infrared ones, of the same size.

    Attributes:
        visible, infrared: such as two `TrainTransform`; see `without_colours`.

    Raises:
        ValueError: if they give images of different sizes.
    """

    visible: EvalTransform
    infrared: EvalTransform

    def __post_init__(self) -> None:
        sizes = [(each.height, each.width) for each in (self.visible, self.infrared)]
        if sizes[0] != sizes[1]:
            raise ValueError(f"ByModality: infrared: got size {sizes[1]}, expected {sizes[0]} as of visible")

    @property
    def height(self) -> int:
        return self.visible.height

    @property
    def width(self) -> int:
        return self.visible.width

    @property
    def resize(self):
        return self.visible.resize

    def of(self, modality: int) -> EvalTransform:
        """The transform of an image: 0 visible, 1 infrared."""
        return (self.visible, self.infrared)[modality]


def without_colours(transform: TrainTransform, *, keep: Sequence[str] = ()) -> TrainTransform:
    """The same transform without what changes colours: what an infrared image, whose channels are equal, gets.

    `keep`: fields of it that stay, such as "brightness" and "contrast".
    """
    return replace(transform, **{name: 0.0 for name in COLOURS if name not in keep})


# What a picture of infrared light has no use for, or what would colour it.
COLOURS = ("brightness", "contrast", "saturation", "hue", "grey", "channel_exchange", "pca")
