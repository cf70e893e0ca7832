# SPDX-License-Identifier: Apache-2.0
"""k_reciprocal as data sets grow, up to the size of MSMT17 (11,659 queries and 82,161 gallery images), where the
original would need hundreds of GiB. No rival: the floor is half the bfloat16 product of all images with each other,
plus the product of queries and gallery in float32 where the result is dense."""

from __future__ import annotations

import time
from typing import NamedTuple

import pytest
import torch
from memory import peak
from shapes import FULL, retrieval
from timing import seconds

from fastreid_ops import k_reciprocal

# One query to seven images of the gallery, as in MSMT17.
SIZES = (6_000, 12_000, 23_000, 47_000, 93_820) if FULL else (1_000, 2_000)


class Case(NamedTuple):
    images: int
    depth: int
    top: int | None
    target: float | None = None  # seconds

    @property
    def sides(self) -> tuple[int, int]:
        queries = round(self.images * 11_659 / 93_820)
        return queries, self.images - queries

    @property
    def name(self) -> str:
        return f"{self.images}-{self.depth}-{'dense' if self.top is None else f'top{self.top}'}"


CASES = [Case(size, 512, top) for size in SIZES[:-1] for top in (None, 200)]
CASES += [
    Case(SIZES[-1], 512, None, 18.0 if FULL else None),
    Case(SIZES[-1], 512, 200, 14.0 if FULL else None),
]
CASES += [Case(SIZES[-1], 2048, 200)]


def floor(case: Case) -> float:
    """Seconds, from products of a slice: whole ones would not fit everywhere."""
    queries, gallery = case.sides
    rows = min(case.images, 4096)
    x = torch.randn(rows, case.depth).bfloat16()
    product = seconds(lambda: torch.mm(x, x.T))
    total = product * (case.images / rows) ** 2 / 2
    if case.top is None:
        a = torch.randn(min(rows, 2048), case.depth)
        single = seconds(lambda: torch.mm(a, a.T))
        total += single * queries * gallery / len(a) ** 2
    return total


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_growth(benchmark, case: Case):
    data = retrieval(*case.sides, case.depth)
    benchmark.group = f"k_reciprocal, D {case.depth}, {'dense' if case.top is None else f'top {case.top}'}"
    # A person's images, most of whom are found: the first of each list is of the right person.
    found = []

    def run() -> None:
        start = time.perf_counter()
        found[:] = [k_reciprocal(data.query, data.gallery, top=case.top)]
        benchmark.extra_info["seconds"] = time.perf_counter() - start

    benchmark.pedantic(run, rounds=1)
    first = found[0].argmin(1) if case.top is None else found[0].indices[:, 0]
    right = (data.gallery_pids[first] == data.query_pids).double().mean()
    assert right > 0.9
    result = found[0].numel() * 4 if case.top is None else found[0].indices.numel() * 12
    found.clear()
    benchmark.extra_info |= {
        "images": case.images,
        "floor": "half the bfloat16 product of all with all" + " and Q x G in float32" * (case.top is None),
        "floor_seconds": floor(case),
        "result": result / 2**30,
        "target_seconds": case.target,
    }
    if FULL:
        kind = "k_reciprocal" if case.top is None else "k_reciprocal_top"
        benchmark.extra_info["peak"] = peak(kind, *case.sides, case.depth)
