# SPDX-License-Identifier: Apache-2.0
"""The sizes at which distances are measured, and features like those of a trained network."""

from __future__ import annotations

import os
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


FULL = os.environ.get("FASTREID_BENCH_FULL") == "1"


class Retrieval(NamedTuple):
    """Features of queries and gallery, of length one, and who and where they are."""

    query: Tensor
    gallery: Tensor
    query_pids: Tensor
    gallery_pids: Tensor
    query_camids: Tensor
    gallery_camids: Tensor

    @property
    def everything(self) -> Tensor:
        return torch.cat([self.query, self.gallery])


def retrieval(queries: int, gallery: int, depth: int, *, spread: float = 0.6, seed: int = 0) -> Retrieval:
    """About 20 images of an identity around a direction of their own, six cameras. ``spread`` is the noise beside it:
    0.6 as a trained network has it, 4 as one that has learnt nothing."""
    generator = torch.Generator().manual_seed(seed)
    people = torch.randn(max(2, (queries + gallery) // 20), depth, generator=generator)
    rows, pids, camids = [], [], []
    for count in (queries, gallery):
        who = torch.randint(len(people), (count,), generator=generator)
        noise = torch.randn(count, depth, generator=generator)
        rows.append(torch.nn.functional.normalize(people[who] + spread * noise, dim=1))
        pids.append(who)
        camids.append(torch.randint(6, (count,), generator=generator))
    return Retrieval(*rows, *pids, *camids)


# Queries and gallery of Market-1501, or a small set of the same shape.
MARKET = (3368, 19732) if FULL else (500, 3000)
