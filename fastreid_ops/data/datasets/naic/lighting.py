# SPDX-License-Identifier: Apache-2.0
"""The two lighting halves of NAIC's test pictures: green where the means of red, green and blue are all above 65."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from fastreid_ops.data.datasets._layout import files
from fastreid_ops.data.images import read_image

HALVES = ("green", "normal")
THRESHOLD = 65.0
EXTENSIONS = (".png", ".jpg")


def is_green(pixels: np.ndarray) -> bool:
    """Whether a picture, (height, width, 3) uint8, belongs to the half called green."""
    return bool((pixels.reshape(-1, 3).mean(axis=0) > THRESHOLD).all())


def halves(folder: str | os.PathLike[str]) -> dict[str, list[str]]:
    """The names of a folder's pictures, sorted, by half. Every picture is decoded; nothing is written.

    One name a line in query_green.txt, query_normal.txt, gallery_green.txt and gallery_normal.txt is what `read` takes.

    Raises:
        BadImageError: a ValueError, if a picture cannot be decoded.
    """
    sorted_out: dict[str, list[str]] = {half: [] for half in HALVES}
    for name in files(Path(folder), EXTENSIONS)[0]:
        pixels = np.asarray(read_image(Path(folder) / name))
        sorted_out["green" if is_green(pixels) else "normal"].append(name)
    return sorted_out
