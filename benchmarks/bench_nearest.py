# SPDX-License-Identifier: Apache-2.0
"""nearest against faiss's exact search and against torch.mm with topk. The floor is the bfloat16 product that decides
nearly everything, half of it where both sides are the same."""

from __future__ import annotations

import pytest
import torch
from memory import peak
from rivals.nearest import Rival, available
from shapes import FULL, MARKET, retrieval
from timing import seconds
from torch import Tensor

from fastreid_ops.ops.nearest import neighbours

TARGETS = {"faiss IndexFlatL2": 3.5, "torch.mm and topk": 5.5}
by_rival = pytest.mark.parametrize("rival", available(), ids=lambda rival: rival.name)


def check(ours, theirs) -> None:
    """Theirs are float32 sums, good to a millionth here; near ties may come in another order."""
    squared, indices = theirs
    assert (ours.squared - squared.double()).abs().max() < 1e-5
    assert (ours.indices == indices).double().mean() > 0.995


def bare_product(x: Tensor, y: Tensor) -> float:
    """Seconds of torch's bfloat16 product of x and y, in blocks of rows."""
    a, b = x.bfloat16(), y.bfloat16()

    def run() -> None:
        for part in a.split(4096):
            torch.mm(part, b.T)

    return seconds(run)


@by_rival
@pytest.mark.parametrize("depth", [2048, 512])
def test_all_among_all(versus, benchmark, depth, rival: Rival):
    """The 21 nearest of every image of queries and gallery: what k-reciprocal re-ranking begins with."""
    x = retrieval(*MARKET, depth).everything
    benchmark.group = f"nearest {len(x):,} among themselves, k 21, D {depth}"
    memory = {"peak": peak("nearest", *MARKET, depth)} if FULL else {}
    versus(
        lambda: neighbours(x, x, 21),
        lambda: rival.run(x, x, 21),
        check,
        rival=rival.name,
        target=TARGETS[rival.name] if depth == 2048 else None,
        floor="half the bfloat16 product (torch.mm)",
        floor_seconds=bare_product(x, x) / 2,
        **memory,
    )


@by_rival
@pytest.mark.parametrize(("queries", "k"), [(MARKET[0], 50), (100, 50), (1, 10)])
def test_gallery(versus, benchmark, queries, k, rival: Rival):
    """The nearest of the gallery for many queries, a few, and one."""
    data = retrieval(*MARKET, 2048)
    query = data.query[:queries]
    benchmark.group = f"nearest of {queries:,} among {len(data.gallery):,}, k {k}, D 2048"
    versus(
        lambda: neighbours(query, data.gallery, k),
        lambda: rival.run(query, data.gallery, k),
        check,
        rival=rival.name,
        rounds=3 if queries > 100 else 9,
    )
