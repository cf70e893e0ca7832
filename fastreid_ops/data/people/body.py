# SPDX-License-Identifier: Apache-2.0
"""Bodies: what a person keeps when the clothes change."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .palette import HAIR_TONES, SKIN_TONES
from .seeds import Kind, stream

HAIR_STYLES = ("bald", "short", "medium", "long", "ponytail", "bun", "afro")


@dataclass(frozen=True)
class Body:
    """Proportions in metres or as factors of an average adult; colours are RGB in 0..255."""

    height: float
    girth: float
    shoulders: float
    hips: float
    legs: float
    arms: float
    head: float
    skin: tuple[int, int, int]
    hair: tuple[int, int, int]
    hair_style: str
    beard: bool
    stride: float
    arm_swing: float
    arm_spread: float
    slim: bool


def sample_body(seed: int, pid: int) -> Body:
    """The body of an identity: a function of (seed, pid) alone."""
    rng = stream(seed, Kind.BODY, pid)
    slim = bool(rng.random() < 0.5)
    height = float(np.clip(rng.normal(1.66 if slim else 1.78, 0.07), 1.48, 1.98))
    tone = SKIN_TONES[int(rng.integers(len(SKIN_TONES)))]
    shares = np.array([share for _, share in HAIR_TONES])
    hair = HAIR_TONES[int(rng.choice(len(HAIR_TONES), p=shares / shares.sum()))][0]
    styles = (
        (0.02, 0.14, 0.22, 0.34, 0.16, 0.08, 0.04) if slim else (0.14, 0.58, 0.16, 0.04, 0.02, 0.01, 0.05)
    )
    style = HAIR_STYLES[int(rng.choice(len(HAIR_STYLES), p=styles))]
    return Body(
        height=height,
        girth=float(np.clip(rng.normal(1.0, 0.13), 0.78, 1.38)),
        shoulders=float(np.clip(rng.normal(0.93 if slim else 1.05, 0.05), 0.82, 1.18)),
        hips=float(np.clip(rng.normal(1.05 if slim else 0.97, 0.06), 0.85, 1.2)),
        legs=float(np.clip(rng.normal(1.0, 0.03), 0.93, 1.07)),
        arms=float(np.clip(rng.normal(1.0, 0.03), 0.93, 1.07)),
        # Heads vary less than bodies, so short people have the larger ones in proportion.
        head=float(rng.normal(1.0, 0.03) * (1.75 / height) ** 0.5),
        skin=_vary(rng, tone, 8),
        hair=_vary(rng, hair, 7),
        hair_style=style,
        beard=bool(not slim and rng.random() < 0.25),
        stride=float(rng.uniform(0.32, 0.52)),
        arm_swing=float(rng.uniform(0.2, 0.55)),
        arm_spread=float(rng.uniform(0.06, 0.15)),
        slim=slim,
    )


def _vary(rng: np.random.Generator, color, spread: int) -> tuple[int, int, int]:
    return tuple(int(np.clip(c + rng.integers(-spread, spread + 1), 4, 250)) for c in color)
