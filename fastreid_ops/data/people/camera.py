# SPDX-License-Identifier: Apache-2.0
"""Cameras: what every picture of one camera has in common, and the way from light to stored pixels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageFilter

from .options import PeopleOptions
from .seeds import Kind, stream


@dataclass(frozen=True)
class Look:
    """One camera. Angles in radians, light a unit vector in the view frame, resolution in sensor pixels."""

    matrix: np.ndarray
    gamma: float
    light: np.ndarray
    ambient: float
    yaw: float
    pitch: float
    resolution: float
    blur: float
    noise: float
    jpeg_quality: int
    infrared: bool


@lru_cache(maxsize=64)
def look(options: PeopleOptions, camera: int) -> Look:
    """The look of a camera, a function of (seed, camera) within the ranges of the options.

    Args:
        camera: 0-based; those from ``options.cameras`` on are infrared.
    """
    rng = stream(options.seed, Kind.LOOK, 0, camera)
    # Tints stand the golden angle apart on the colour circle, so that no seed has four cameras that happen to agree:
    # difficulty should differ between options, not between seeds.
    angle = stream(options.seed, Kind.LOOK).uniform(0, 2 * np.pi) + 2.39996 * camera
    tint = np.cos(angle + np.array([0.0, 2.0, 4.0]) * np.pi / 3)
    shift = np.diag(tint + rng.uniform(-0.3, 0.3)) + rng.uniform(-0.2, 0.2, size=(3, 3)) * (1 - np.eye(3))
    shift *= rng.uniform(0.85, 1.0) / np.abs(shift).max()
    matrix = np.eye(3) + options.color_shift * shift
    side, above = rng.uniform(-1.0, 1.0), rng.uniform(0.6, 1.0)
    light = np.array([np.sin(side), np.sin(above), np.cos(side) * np.cos(above)])
    low, high = options.resolution
    worst, best = options.jpeg_quality
    return Look(
        matrix=matrix.astype(np.float32),
        gamma=float(1 + options.gamma_shift * rng.uniform(0.3, 1) * (-1) ** camera),
        light=(light / np.linalg.norm(light)).astype(np.float32),
        ambient=float(rng.uniform(0.5, 0.65)),
        yaw=float(rng.uniform(-np.pi, np.pi)),
        pitch=float(rng.uniform(0.05, 0.42)),
        resolution=float(low + (high - low) * rng.uniform(0.35, 0.9)),
        blur=float(options.blur * rng.uniform(0.2, 1.0)),
        noise=float(options.noise * rng.uniform(0.3, 1.0)),
        jpeg_quality=int(rng.integers(worst, best + 1)),
        infrared=camera >= options.cameras,
    )


def _encoding(gamma: float) -> np.ndarray:
    """Linear light in 0..1.25 as 12-bit steps to display values, float32 (4097,)."""
    steps = np.linspace(0.0, 1.25, 4097)
    # Bright light saturates softly, as on film, rather than at a hard edge.
    soft = np.where(steps < 0.8, steps, 0.8 + 0.2 * np.tanh((steps - 0.8) / 0.2))
    return (255.0 * soft ** (gamma / 2.2)).astype(np.float32)


@lru_cache(maxsize=64)
def _table(gamma: float) -> np.ndarray:
    return _encoding(gamma).round().astype(np.uint8)


def expose(
    light: np.ndarray,
    camera: Look,
    options: PeopleOptions,
    rng: np.random.Generator,
    exposure: float,
    grain: np.random.Generator | None = None,
) -> np.ndarray:
    """Linear light to a stored picture: colour matrix, gamma, sensor resolution, blur, noise, stored size.

    Args:
        light: float32 (height, width, 3), or (height, width, 1) for infrared.
        rng: decides resolution, blur and noise of this shot.
        grain: decides the noise instead, for frames that share the rest.

    Returns:
        uint8 (height, width, 3); the three channels of an infrared picture are equal.
    """
    height, width, channels = light.shape
    if channels == 3:
        # Sums in a fixed order: a BLAS may choose another one for another number of threads.
        red, green, blue = (light[:, :, i] for i in range(3))
        rows = (np.float32(exposure) * camera.matrix).tolist()
        light = np.stack([red * r + green * g + blue * b for r, g, b in rows], axis=2)
    else:
        light = light * np.float32(exposure)
    codes = _table(camera.gamma)[np.clip(light * np.float32(4096 / 1.25), 0, 4096).astype(np.int16)]
    low, high = options.resolution
    rows = int(np.clip(round(camera.resolution * rng.uniform(0.8, 1.25)), low, high))
    columns = max(8, round(rows * width / height))
    image = Image.fromarray(codes if channels == 3 else codes[:, :, 0])
    image = image.resize((columns, rows), Image.Resampling.BILINEAR)
    blur = camera.blur * rng.uniform(0.5, 1.2)
    if blur > 0.15:
        image = image.filter(ImageFilter.GaussianBlur(blur))
    noisy = np.asarray(image, dtype=np.float32)
    grain = rng if grain is None else grain
    noisy = noisy + np.float32(camera.noise) * grain.standard_normal(noisy.shape, dtype=np.float32)
    image = Image.fromarray(np.clip(noisy + 0.5, 0, 255).astype(np.uint8))
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image.convert("RGB"))
