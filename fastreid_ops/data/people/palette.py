# SPDX-License-Identifier: Apache-2.0
"""Materials and the colours people wear."""

from __future__ import annotations

import colorsys
from enum import IntEnum

import numpy as np


class Material(IntEnum):
    """Index into a figure's table of albedo (visible light) and reflectance (infrared)."""

    SKIN = 0
    SKIN_DARK = 1
    HAIR = 2
    TOP = 3
    TOP_SECOND = 4
    PRINT = 5
    INNER = 6
    BOTTOM = 7
    BOTTOM_SECOND = 8
    SHOES = 9
    SOLE = 10
    BAG = 11
    STRAP = 12
    HAT = 13


# (hue, saturation, value, weight) of a base shade; the weights follow what people wear in a street: many dark and
# neutral shades, few loud ones.
TOP_SHADES = (
    (0.00, 0.05, 0.09, 0.10),
    (0.00, 0.03, 0.30, 0.07),
    (0.00, 0.03, 0.58, 0.08),
    (0.10, 0.04, 0.92, 0.11),
    (0.63, 0.65, 0.27, 0.08),
    (0.60, 0.70, 0.58, 0.08),
    (0.56, 0.38, 0.80, 0.06),
    (0.99, 0.82, 0.72, 0.09),
    (0.96, 0.70, 0.38, 0.05),
    (0.36, 0.60, 0.45, 0.06),
    (0.20, 0.48, 0.36, 0.05),
    (0.14, 0.72, 0.86, 0.05),
    (0.06, 0.80, 0.84, 0.04),
    (0.93, 0.38, 0.86, 0.04),
    (0.77, 0.50, 0.48, 0.04),
    (0.48, 0.60, 0.55, 0.04),
    (0.07, 0.52, 0.36, 0.05),
    (0.10, 0.28, 0.74, 0.06),
)
BOTTOM_SHADES = (
    (0.00, 0.05, 0.08, 0.20),
    (0.00, 0.03, 0.26, 0.10),
    (0.00, 0.03, 0.52, 0.09),
    (0.63, 0.55, 0.22, 0.11),
    (0.60, 0.52, 0.42, 0.16),
    (0.58, 0.34, 0.66, 0.08),
    (0.10, 0.30, 0.68, 0.09),
    (0.08, 0.48, 0.32, 0.05),
    (0.20, 0.40, 0.33, 0.05),
    (0.10, 0.04, 0.88, 0.04),
    (0.97, 0.70, 0.42, 0.03),
)
SKIN_TONES = (
    (244, 208, 182),
    (232, 190, 160),
    (214, 164, 130),
    (190, 138, 102),
    (150, 102, 72),
    (112, 74, 52),
    (82, 54, 40),
)
HAIR_TONES = (
    ((20, 17, 16), 0.34),
    ((52, 36, 26), 0.26),
    ((96, 66, 42), 0.14),
    ((176, 138, 84), 0.10),
    ((214, 184, 128), 0.05),
    ((138, 62, 30), 0.04),
    ((140, 138, 136), 0.07),
)


def linear(color) -> np.ndarray:
    """sRGB-like color in 0..255 to linear light in 0..1, float64 (3,)."""
    return (np.asarray(color, dtype=np.float64) / 255.0) ** 2.2


def sample_shade(rng: np.random.Generator, shades) -> tuple[int, int, int]:
    """One garment colour: a base shade by weight, then a small personal variation. RGB in 0..255."""
    weights = np.array([shade[3] for shade in shades])
    hue, saturation, value, _ = shades[int(rng.choice(len(shades), p=weights / weights.sum()))]
    hue = (hue + rng.normal(0, 0.018)) % 1.0
    saturation = float(np.clip(saturation * rng.uniform(0.75, 1.2), 0, 1))
    value = float(np.clip(value * rng.uniform(0.8, 1.2) + rng.uniform(-0.02, 0.03), 0.04, 0.96))
    return tuple(round(255 * c) for c in colorsys.hsv_to_rgb(hue, saturation, value))


def distance(a, b) -> float:
    """Rough perceived difference of two RGB colours (0..255), as weighted Euclidean distance."""
    weights = np.array([0.55, 0.77, 0.33])
    return float(np.sqrt((weights * (np.asarray(a, float) - np.asarray(b, float)) ** 2).sum()))
