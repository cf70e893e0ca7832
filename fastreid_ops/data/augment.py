# SPDX-License-Identifier: Apache-2.0
"""Augmentations of one picture as functions of (pixels, generator); `TrainTransform` decides which and in what order.

Pixels are (H, W, 3) values from 0 to 255, uint8 or float32, RGB; no function changes its argument.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from fastreid_ops.data.pixels import pixels_of

# deep-person-reid's Random2DTranslation enlarges by this factor before it cuts.
ENLARGED = 1.125
# deep-person-reid's RandomPatch: area as a fraction of the image, height / width, largest turn in degrees.
PATCH_AREA = (0.01, 0.5)
PATCH_ASPECT = 0.1
PATCH_TURN = 10
TRIES = 100
# Rec. 601 as Pillow's and torchvision's greyscale have it, and as the channel exchange of CAJ rounds it.
GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)
EXCHANGE_GREY = np.array([0.2989, 0.5870, 0.1140], dtype=np.float32)
# Principal components of ImageNet's colours (Krizhevsky et al., 2012) in the units of values from 0 to 1.
PCA_VALUES = np.array([0.2175, 0.0188, 0.0045])
PCA_VECTORS = np.array([[0.4009, 0.7192, -0.5675], [-0.8140, -0.0045, -0.5808], [0.4203, -0.6948, -0.5836]])


def rectangle(
    rng: np.random.Generator, height: int, width: int, area: Sequence[float], aspect: float
) -> tuple[int, int] | None:
    """Rows and columns of a random rectangle that is lower and narrower than the image, or None after 100
    misses.

    Area uniform in `area` (fractions of the image), height / width uniform in [aspect, 1 / aspect], not
    logarithmic: the sampling that random erasing and random patches of deep-person-reid share.
    """
    for _ in range(TRIES):
        size = rng.uniform(*area) * height * width
        ratio = rng.uniform(aspect, 1 / aspect)
        rows, columns = round((size * ratio) ** 0.5), round((size / ratio) ** 0.5)
        if rows < height and columns < width:
            return rows, columns
    return None


def translate(
    picture: Image.Image | np.ndarray, rng: np.random.Generator, *, mirrored: bool = False
) -> np.ndarray:
    """Random2DTranslation without its probability: enlarge both sides by 1.125 (bilinear), then cut the original
    size at round(U(0, what is left over)), which makes the two outermost places half as likely as the others.

    Args:
        picture: RGB, or uint8 pixels.
        mirrored: left and right are exchanged before.
    """
    image = picture
    if not isinstance(image, Image.Image):
        image = Image.fromarray(np.ascontiguousarray(picture))
    if mirrored:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    width, height = image.size
    rows, columns = round(height * ENLARGED), round(width * ENLARGED)
    left, top = round(rng.uniform(0, columns - width)), round(rng.uniform(0, rows - height))
    large = pixels_of(image.resize((columns, rows), Image.Resampling.BILINEAR))
    return large[top : top + height, left : left + width]


def rescale(pixels: np.ndarray, factor: float, fill: float) -> np.ndarray:
    """Scale around the centre, nearest pixel, `fill` where nothing lands: torchvision's RandomAffine with a scale
    alone, as the DMT system for NAIC uses it."""
    places = []
    for size in pixels.shape[:2]:
        places.append(np.floor((np.arange(size) + 0.5 - size / 2) / factor + size / 2).astype(np.int64))
    rows, columns = places
    inside = [(place >= 0) & (place < size) for place, size in zip(places, pixels.shape[:2], strict=True)]
    result = np.full(pixels.shape, fill, dtype=np.float32)
    result[np.ix_(*inside)] = pixels[np.ix_(rows[inside[0]], columns[inside[1]])]
    return result


def greyscale(pixels: np.ndarray, weights: np.ndarray = GREY) -> np.ndarray:
    """Three equal channels, float32, each the weighted sum of red, green and blue."""
    return np.repeat((pixels.astype(np.float32) @ weights)[..., None], 3, axis=2)


def exchange_channels(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One of four with equal chance: red, green or blue in all three channels, or grey (Ye et al., "Channel
    Augmented Joint Learning", 2021), so that a colour picture looks more like an infrared one."""
    choice = int(rng.integers(4))
    if choice == 3:
        return greyscale(pixels, EXCHANGE_GREY)
    return np.repeat(pixels[..., choice : choice + 1], 3, axis=2)


def colour_offset(rng: np.random.Generator, deviation: float) -> np.ndarray:
    """(3,) float64 to add to red, green and blue in the units of values from 0 to 1: (values * alpha) @ V with
    alpha ~ N(0, deviation), deep-person-reid's ColorAugmentation. The rows of V act as directions there;
    AlexNet's own formula takes the columns."""
    return (PCA_VALUES * rng.normal(0.0, deviation, 3)) @ PCA_VECTORS


def patch(pixels: np.ndarray, pool: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Paste a piece of a random picture of the pool at a random place: RandomPatch of deep-person-reid (Zhou et
    al., OSNet, 2019) without its probability.

    The piece has an area of 1 to 50 % and a height / width of 0.1 to 10; it is mirrored with probability 0.5 and
    turned by a whole number of degrees from -10 to 10 with probability 0.5, black where the turn leaves nothing.
    The source keeps pieces of earlier pictures in a pool of each worker process, which makes the result depend on
    their number; here the pool is given.
    """
    height, width = pixels.shape[:2]
    donor = pool[int(rng.integers(len(pool)))]
    size = rectangle(rng, height, width, PATCH_AREA, PATCH_ASPECT)
    if size is None or 0 in size:
        return pixels
    rows, columns = size
    top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
    piece = donor[top : top + rows, left : left + columns]
    top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
    if rng.random() < 0.5:
        piece = piece[:, ::-1]
    if rng.random() < 0.5:
        angle = int(rng.integers(-PATCH_TURN, PATCH_TURN, endpoint=True))
        piece = np.asarray(Image.fromarray(np.ascontiguousarray(piece)).rotate(angle))
    result = pixels.copy()
    result[top : top + rows, left : left + columns] = piece
    return result
