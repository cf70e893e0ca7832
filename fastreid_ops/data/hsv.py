# SPDX-License-Identifier: Apache-2.0
"""Colour alone: an HSV histogram in six horizontal stripes, the baseline every trained system must beat.

The image is resized to 60 rows x 32 columns (bilinear, antialiased) and the middle 20 columns are kept: a
tight pedestrian box is mostly background at its sides, and without this window the same histogram scores .20
mAP instead of .41 on the packaged crops. Each stripe of 10 rows gives a joint histogram of 8 hues x 4
saturations x 4 values (Pillow's HSV, 0-255 in each band, bin = value * bins // 256); the square root of the
relative frequencies makes the Euclidean distance between two descriptors the Hellinger distance, and every
descriptor has length 1, so Euclidean and cosine distance rank alike.

On the packaged crops (one camera with two pseudo-cameras, eleven people; 563 queries, same identity under the
same pseudo-camera removed): mAP .408, Rank-1 .433. A random ranking scores .063 and .041.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

STRIPES = 6
ROWS, COLUMNS = 60, 32
WINDOW = (6, 26)
BINS = (8, 4, 4)
DIMENSION = STRIPES * BINS[0] * BINS[1] * BINS[2]


def hsv_stripes(image: Image.Image) -> np.ndarray:
    """Describe one image by its colours, stripe by stripe.

    Args:
        image: any PIL image; modes other than RGB are converted as Pillow does.

    Returns:
        float32 array of shape (768,), non-negative, Euclidean length 1; compare by Euclidean or cosine
        distance.

    Raises:
        TypeError: if `image` is no PIL image.
    """
    if not isinstance(image, Image.Image):
        raise TypeError(f"hsv_stripes: image: got {type(image).__name__}, expected a PIL image")
    small = image.convert("RGB").resize((COLUMNS, ROWS), Image.Resampling.BILINEAR).convert("HSV")
    pixels = np.asarray(small).astype(np.int64)[:, WINDOW[0] : WINDOW[1]]
    hue, saturation, value = (pixels[..., band] * bins // 256 for band, bins in enumerate(BINS))
    colour = (hue * BINS[1] + saturation) * BINS[2] + value
    stripe = np.arange(ROWS)[:, None] * STRIPES // ROWS
    counts = np.bincount((stripe * (DIMENSION // STRIPES) + colour).ravel(), minlength=DIMENSION)
    return np.sqrt(counts / counts.sum()).astype(np.float32)
