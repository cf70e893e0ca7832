# SPDX-License-Identifier: Apache-2.0
"""Background plates: one street-like scene per camera, of which every shot sees another part."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .palette import linear
from .seeds import Kind, stream

GROUNDS = (
    (122, 122, 124),
    (146, 143, 138),
    (106, 107, 110),
    (134, 127, 119),
    (112, 118, 98),
    (158, 154, 148),
)
WALLS = ((150, 138, 126), (172, 170, 164), (132, 102, 90), (118, 122, 128), (184, 178, 164), (136, 140, 144))


@lru_cache(maxsize=16)
def plate(seed: int, camera: int, height: int, width: int, infrared: bool) -> np.ndarray:
    """Scene of a camera in linear light, float32 (1.25 height, 5 width, channels); read-only.

    Channels are three for visible light, one for infrared, where every surface reflects by a law of its own.
    """
    rng = stream(seed, Kind.PLATE, 0, camera, int(infrared))
    rows, columns = int(1.25 * height), 5 * width
    image = Image.new("RGB", (columns, rows))
    draw = ImageDraw.Draw(image)
    # The higher a camera hangs, the more ground lies behind a person; some see no wall at all.
    edge = int(rows * rng.uniform(0.05, 0.55))
    ground = _vary(rng, GROUNDS[int(rng.integers(len(GROUNDS)))])
    _wall(draw, rng, columns, edge, height)
    _ground(draw, rng, columns, edge, rows, ground)
    _furniture(draw, rng, columns, edge, rows)
    image = image.filter(ImageFilter.GaussianBlur(height / 160))
    light = linear(np.asarray(image, dtype=np.float64)).astype(np.float32)
    light *= _clouds(rng, rows, columns, height)[:, :, None]
    if infrared:
        # Plants and walls answer to infrared in their own way: mix the channels at random, mostly the red one.
        mix = np.array([0.7, 0.2, 0.1]) * rng.uniform(0.6, 1.4, size=3)
        mix = (mix / mix.sum()).astype(np.float32)
        light = (light * mix).sum(axis=2, keepdims=True)
    light.setflags(write=False)
    return light


def _vary(rng: np.random.Generator, color, spread: float = 14.0) -> tuple[int, int, int]:
    shift = rng.normal(0, spread)
    return tuple(int(np.clip(c + shift + rng.normal(0, spread / 3), 5, 250)) for c in color)


def _shade(color, factor: float) -> tuple[int, int, int]:
    return tuple(int(np.clip(c * factor, 0, 255)) for c in color)


def _wall(draw: ImageDraw.ImageDraw, rng, columns: int, edge: int, height: int) -> None:
    x = 0
    while x < columns:
        # One house front after the other.
        end = x + int(height * rng.uniform(0.7, 2.0))
        color = _vary(rng, WALLS[int(rng.integers(len(WALLS)))])
        draw.rectangle((x, 0, end, edge), fill=color)
        kind = int(rng.integers(4))
        step = int(height * rng.uniform(0.2, 0.4))
        if kind == 0:
            line = _shade(color, 0.88)
            for y in range(edge, 0, -max(3, height // 18)):
                draw.line((x, y, end, y), fill=line)
        elif kind == 1:
            glass = _vary(rng, (62, 74, 90), 18)
            frame = _shade(color, 1.25)
            for left in range(x + step // 3, end - step // 2, step):
                box = (left, edge - int(0.55 * height), left + step // 2, edge - int(0.16 * height))
                draw.rectangle(box, fill=glass, outline=frame, width=max(1, height // 64))
        elif kind == 2:
            left = x + step // 2
            draw.rectangle(
                (left, edge - int(0.5 * height), left + step, edge), fill=_vary(rng, (74, 60, 52), 22)
            )
            draw.rectangle(
                (left + step + 4, edge - int(0.4 * height), end - 4, edge - 6),
                fill=_vary(rng, (70, 84, 98), 20),
            )
        else:
            for _ in range(40):
                r = height * rng.uniform(0.05, 0.14)
                cx, cy = rng.uniform(x, end), edge - rng.uniform(0, 0.5) * height
                draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=_vary(rng, (66, 86, 50), 14))
        x = end
    draw.rectangle((0, edge - max(2, height // 40), columns, edge), fill=_vary(rng, (118, 116, 112), 10))


def _ground(draw: ImageDraw.ImageDraw, rng, columns: int, edge: int, rows: int, color) -> None:
    depth = rows - edge
    for y in range(edge, rows):
        draw.line((0, y, columns, y), fill=_shade(color, 0.86 + 0.24 * (y - edge) / max(1, depth)))
    kind = int(rng.integers(3))
    seam = _shade(color, 0.84)
    if kind == 0:
        # Paving: rows grow towards the viewer, columns meet at a far point.
        y, gap = float(edge), depth * 0.05
        while y < rows:
            draw.line((0, int(y), columns, int(y)), fill=seam)
            y, gap = y + gap, gap * 1.3
        for x in range(-2 * columns, 3 * columns, max(8, columns // 12)):
            draw.line((columns // 2 + (x - columns // 2) // 3, edge, x, rows), fill=seam)
    elif kind == 1:
        slant = rng.uniform(-0.3, 0.3) * columns
        y = edge + depth * rng.uniform(0.15, 0.7)
        paint = _vary(rng, ((214, 212, 204), (202, 176, 84))[int(rng.integers(2))], 8)
        draw.line((0, int(y - slant / 8), columns, int(y + slant / 8)), fill=paint, width=max(2, rows // 50))
    else:
        y = edge + depth * rng.uniform(0.3, 0.8)
        other = _vary(rng, GROUNDS[int(rng.integers(len(GROUNDS)))])
        draw.polygon(
            [(0, int(y)), (columns, int(y + rng.uniform(-0.15, 0.15) * depth)), (columns, rows), (0, rows)],
            fill=other,
        )
        draw.line((0, int(y), columns, int(y)), fill=_shade(other, 1.2), width=max(1, rows // 60))


def _furniture(draw: ImageDraw.ImageDraw, rng, columns: int, edge: int, rows: int) -> None:
    for _ in range(int(rng.integers(2, 5))):
        x = int(rng.uniform(0, columns))
        wide = max(2, int(rows * rng.uniform(0.015, 0.035)))
        color = _vary(rng, ((58, 60, 62), (150, 150, 148), (70, 84, 70))[int(rng.integers(3))])
        foot = edge + int(rng.uniform(0.02, 0.5) * (rows - edge))
        draw.rectangle((x, 0, x + wide, foot), fill=color)
        draw.line((x + wide // 3, 0, x + wide // 3, foot), fill=_shade(color, 1.35))
    for _ in range(int(rng.integers(1, 4))):
        # Parked cars, benches, boxes: a body and a darker strip under it.
        x, wide = int(rng.uniform(0, columns)), int(rows * rng.uniform(0.25, 0.6))
        tall = int(wide * rng.uniform(0.3, 0.5))
        y = edge + int(rng.uniform(0.0, 0.3) * (rows - edge))
        color = _vary(
            rng,
            ((120, 30, 34), (40, 58, 96), (196, 196, 192), (48, 48, 50), (96, 104, 88))[int(rng.integers(5))],
        )
        draw.rounded_rectangle((x, y - tall, x + wide, y), radius=max(2, tall // 4), fill=color)
        draw.rectangle(
            (x + tall // 3, y - int(0.9 * tall), x + wide - tall // 3, y - int(0.55 * tall)),
            fill=_shade(color, 0.5),
        )
        draw.rectangle((x, y - max(1, tall // 6), x + wide, y), fill=(36, 36, 38))


def _clouds(rng: np.random.Generator, rows: int, columns: int, height: int) -> np.ndarray:
    """Uneven light and dirt: smooth noise of two scales around one, float32 (rows, columns)."""
    total = np.ones((rows, columns), dtype=np.float32)
    for cell, strength in ((height / 2.5, 0.16), (height / 14, 0.07), (2.5, 0.05)):
        grid = rng.standard_normal((max(2, int(rows / cell)), max(2, int(columns / cell)))).astype(np.float32)
        total += strength * np.asarray(
            Image.fromarray(grid).resize((columns, rows), Image.Resampling.BICUBIC)
        )
    return np.clip(total, 0.4, 1.7)
