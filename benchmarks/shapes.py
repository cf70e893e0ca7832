# SPDX-License-Identifier: Apache-2.0
"""The sizes at which distances are measured, and features like those of a trained network."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Shape(NamedTuple):
    """``queries`` x ``gallery`` features of length ``depth``."""

    name: str
    queries: int
    gallery: int
    depth: int


# Market-1501 has 3,368 queries and 19,732 gallery images. A quarter of the queries keeps a round
# within a second.
DISTANCE = (
    Shape("market1501-quarter-512", 842, 19732, 512),
    Shape("market1501-quarter-2048", 842, 19732, 2048),
    Shape("one-query-512", 1, 19732, 512),
    Shape("batch-64-2048", 64, 64, 2048),
)


def features(shape: Shape, *, normalised: bool = False, seed: int = 0) -> tuple[Tensor, Tensor]:
    """About 20 images of an identity around a common direction of their own, all around one centre."""
    generator = torch.Generator().manual_seed(seed)
    identities = torch.randn(max(2, shape.gallery // 20), shape.depth, generator=generator)
    centre = torch.randn(shape.depth, generator=generator)
    sets = []
    for count in (shape.queries, shape.gallery):
        person = torch.randint(len(identities), (count,), generator=generator)
        noise = torch.randn(count, shape.depth, generator=generator)
        sets.append(identities[person] + 0.5 * centre + 0.6 * noise)
    if normalised:
        sets = [torch.nn.functional.normalize(rows, dim=1) for rows in sets]
    return sets[0], sets[1]
