# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of the transforms on whole pictures: compiled (csrc/pixels) where that was built, else with NumPy and
Pillow, the same bits either way.

Pixels are (H, W, 3) values from 0 to 255, RGB, uint8 or float32.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

try:
    from fastreid_ops.data import _pixels as native
except ImportError:  # not built, or for another Python
    native = None

# Above this, Pillow may keep a picture in several blocks (Image.core's arena has 16 MiB each), which it does not lend.
_LENT_BYTES = 2**23
_NO_BORDER = (0.0, 0.0, 0.0)


def pixels_of(image: Image.Image) -> np.ndarray:
    """The pixels of an RGB picture, read-only: its own memory where Pillow lends it (from 11.2 on), else a copy."""
    width, height = image.size
    if native is not None and hasattr(image, "__arrow_c_array__") and 0 < 4 * width * height <= _LENT_BYTES:
        with contextlib.suppress(ValueError):  # memory in another layout
            return np.asarray(native.Lent(image.__arrow_c_array__(), height, width))[..., :3]
    return np.asarray(image)


def place(
    pixels: np.ndarray,
    result: np.ndarray,
    scale: Sequence[float],
    shift: Sequence[float],
    *,
    mirrored: bool = False,
    down: int = 0,
    right: int = 0,
    border: Sequence[float] = _NO_BORDER,
) -> None:
    """Write a picture, mirrored left to right if asked for and then moved, `border` where nothing lands, into `result`:
    each value times `scale` plus `shift` of its colour, rounded to float32 after each.

    Args:
        pixels: any strides.
        result: contiguous float32 (3, H, W), written.
        scale, shift, border: three float32 numbers each.
        down, right: pixels, negative for up and left.
    """
    if native is not None:
        native.place(_colours_together(pixels), result, True, mirrored, down, right, border, scale, shift)
        return
    if mirrored or down or right:
        pixels = _moved(pixels, mirrored, down, right, border)
    columns = (np.asarray(values, dtype=np.float32)[:, None, None] for values in (scale, shift))
    np.multiply(pixels.transpose(2, 0, 1), next(columns), out=result)
    result += next(columns)


def canvas(
    pixels: np.ndarray,
    *,
    mirrored: bool = False,
    down: int = 0,
    right: int = 0,
    border: Sequence[float] = _NO_BORDER,
) -> np.ndarray:
    """The picture mirrored and moved as by `place`, as contiguous float32 (H, W, 3) of its own to draw on."""
    if native is None:
        return _moved(pixels, mirrored, down, right, border)
    result = np.empty(pixels.shape, dtype=np.float32)
    native.place(
        _colours_together(pixels), result, False, mirrored, down, right, border, (1.0, 1.0, 1.0), _NO_BORDER
    )
    return result


def _colours_together(pixels: np.ndarray) -> np.ndarray:
    """The same values with a stride of one value from colour to colour."""
    return pixels if pixels.strides[2] == pixels.itemsize else np.ascontiguousarray(pixels)


def _moved(pixels: np.ndarray, mirrored: bool, down: int, right: int, border: Sequence[float]) -> np.ndarray:
    height, width = pixels.shape[:2]
    if mirrored:
        pixels = mirror(pixels)
    result = np.empty(pixels.shape, dtype=np.float32)
    # Whole lines at a time: NumPy is slow where its innermost loop is over three colours.
    lines, source = result.reshape(height, -1), pixels.reshape(height, -1)
    line = np.tile(np.asarray(border, dtype=np.float32), width)
    to_y, from_y, to_x, from_x = max(down, 0), max(-down, 0), 3 * max(right, 0), 3 * max(-right, 0)
    rows, columns = max(height - abs(down), 0), max(3 * (width - abs(right)), 0)
    lines[:to_y] = lines[to_y + rows :] = line
    inside = lines[to_y : to_y + rows]
    inside[:, :to_x], inside[:, to_x + columns :] = line[:to_x], line[to_x + columns :]
    inside[:, to_x : to_x + columns] = source[from_y : from_y + rows, from_x : from_x + columns]
    return result


def mirror(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) with left and right exchanged; colour by colour, five times as fast as a copy of the reversed view."""
    result = np.empty(pixels.shape, dtype=pixels.dtype)
    for colour in range(3):
        result[..., colour] = pixels[:, ::-1, colour]
    return result


def blend(pixels: np.ndarray, factor: np.float32, weight: np.float32, grey: np.ndarray | None = None) -> None:
    """In place: pixels * factor + weight * grey, kept within 0 to 255; float32, rounded after each step.

    Args:
        pixels: contiguous float32.
        grey: (H, W) contiguous float32; None is 1 everywhere.
    """
    if native is not None:
        native.blend(pixels, factor, grey, weight)
        return
    base = weight if grey is None else weight * grey
    pixels *= factor
    for colour in range(3):  # NumPy is slow where its innermost loop is over three colours
        pixels[..., colour] += base
    np.clip(pixels, 0, 255, out=pixels)


def turn_hue(pixels: np.ndarray, turn: float) -> None:
    """In place: shift the hue by `turn` of the colour circle in 8-bit HSV, with the roundings of Pillow's two
    conversions.

    Args:
        pixels: contiguous float32; rounded to whole levels first, halves to the even one.
    """
    steps = round(turn * 256)
    if native is not None:
        native.turn_hue(pixels, steps % 256)
        return
    image = Image.fromarray(np.rint(pixels).astype(np.uint8)).convert("HSV")
    hue, saturation, value = image.split()
    hue = hue.point([(level + steps) % 256 for level in range(256)])
    pixels[...] = np.asarray(Image.merge("HSV", (hue, saturation, value)).convert("RGB"))
