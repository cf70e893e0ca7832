# SPDX-License-Identifier: Apache-2.0
"""Things that stand between a camera and a person."""

from __future__ import annotations

import numpy as np


def occlude(light: np.ndarray, rng: np.random.Generator) -> None:
    """Draw a box or a pole over a picture of linear light, float32 (height, width, channels), in place."""
    height, width, channels = light.shape
    color = (rng.uniform(0.02, 0.35) * rng.uniform(0.7, 1.3, size=channels)).astype(np.float32)
    if rng.random() < 0.4:
        wide = int(max(3, width * rng.uniform(0.08, 0.16)))
        left = int(rng.uniform(0.15, 0.85) * (width - wide))
        # Round: bright on one side, dark at the edges.
        round_ = 0.45 + 0.9 * np.sin(np.linspace(0.25, np.pi - 0.1, wide, dtype=np.float32)) ** 2
        light[:, left : left + wide] = round_[None, :, None] * color
        return
    tall, wide = int(height * rng.uniform(0.22, 0.42)), int(width * rng.uniform(0.6, 1.3))
    left = int(rng.uniform(-0.3, 0.6) * width)
    rows, columns = slice(height - tall, height), slice(max(0, left), min(width, left + wide))
    shape = light[rows, columns].shape
    grain = 1 + 0.08 * np.sin(np.arange(shape[0]) / rng.uniform(0.8, 2.5))[:, None, None]
    light[rows, columns] = color * grain.astype(np.float32)
    rim = max(1, height // 50)
    light[height - tall : height - tall + rim, columns] *= 1.5
