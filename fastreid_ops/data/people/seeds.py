# SPDX-License-Identifier: Apache-2.0
"""Where every random number of the procedural people comes from.

A stream is named by ``(seed, kind, pid, camera, k)`` and by nothing else, so a picture depends neither on
the order in which pictures are rendered nor on the number of workers.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Kind(IntEnum):
    """What a random stream decides. The numbers are part of the data set: never renumber them."""

    BODY = 1
    OUTFIT = 2
    PAIR = 3
    LOOK = 4
    PLATE = 5
    SHOT = 6
    TRACK = 7
    SENSOR = 8
    OCCLUDER = 9
    MOTION = 10
    FRAME = 11


def stream(seed: int, kind: Kind, pid: int = 0, camera: int = 0, k: int = 0) -> np.random.Generator:
    """Independent generator of one decision; all arguments are non-negative integers."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, int(kind), pid, camera, k])))
