# SPDX-License-Identifier: Apache-2.0
"""Tapered capsules as arrays, and the list they are collected in."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

# A clip height that clips nothing.
FREE = 1e3


class Part(IntEnum):
    """Which rule paints a capsule."""

    TORSO = 0
    ARM = 1
    HAND = 2
    LEG = 3
    FOOT = 4
    HEAD = 5
    HAIR = 6
    SKIRT = 7
    BAG = 8
    STRAP = 9
    HAT = 10
    HOOD = 11


@dataclass
class Capsules:
    """Spheres swept from ``a`` to ``b`` with radii ``ra`` to ``rb``, stretched by ``stretch`` along the body's axes.

    Float64 arrays in metres: a, b, stretch (n, 3); ra, rb, low, high, along (n, 2); part (n,) int. A point is
    kept where low <= y <= high; ``along`` is the length along a limb at both ends.
    """

    a: np.ndarray
    b: np.ndarray
    ra: np.ndarray
    rb: np.ndarray
    stretch: np.ndarray
    low: np.ndarray
    high: np.ndarray
    along: np.ndarray
    part: np.ndarray


class Builder:
    """Collects capsules one by one."""

    def __init__(self) -> None:
        self.rows: list[tuple] = []

    def add(
        self, part, a, b, ra, rb, *, stretch=(1.0, 1.0, 1.0), low=-FREE, high=FREE, along=(0.0, 0.0)
    ) -> None:
        self.rows.append((*a, *b, ra, rb, *stretch, low, high, *along, int(part)))

    def build(self) -> Capsules:
        t = np.array(self.rows, dtype=np.float64)
        return Capsules(
            t[:, 0:3],
            t[:, 3:6],
            t[:, 6],
            t[:, 7],
            t[:, 8:11],
            t[:, 11],
            t[:, 12],
            t[:, 13:15],
            t[:, 15].astype(np.intp),
        )
