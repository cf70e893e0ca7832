# SPDX-License-Identifier: Apache-2.0
"""Re-ranking against the implementations that people use, from features and from distance matrices. The originals take
minutes at the size of Market-1501 and are run once, in the same process; the ratio is to that run."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable

import pytest
import torch
from memory import peak
from rivals.rerank import available, original
from shapes import FULL, MARKET, retrieval
from torch import Tensor

from fastreid_ops import gnn_rerank, jaccard, k_reciprocal, k_reciprocal_from_distances, pairwise_distance

RIVALS = {rival.name: rival for rival in available()}
DEPTHS = (2048, 512)


class Once:
    """A rival's result and the seconds it took, the only time it was asked."""

    def __init__(self, run: Callable[[], object]) -> None:
        start = time.perf_counter()
        self.result = torch.as_tensor(run())
        self.seconds = time.perf_counter() - start


@functools.cache
def data(depth: int) -> tuple[Tensor, Tensor]:
    found = retrieval(*MARKET, depth)
    return found.query, found.gallery


@functools.cache
def asked(name: str, depth: int) -> Once:
    query, gallery = data(depth)
    return Once(lambda: RIVALS[name].run(query, gallery))


def agreement(result: Tensor, want: Tensor) -> float:
    """The share of entries that are the same. A rival's distances are float32 products; where these tie or swap two
    neighbours a set changes, and the entries that depend on it."""
    return ((result - want).abs() <= 2e-3 * want.abs().max()).float().mean().item()


def claim(benchmark, run: Callable[[], object], rival: str, theirs: Once, **facts: object) -> None:
    times: list[float] = []

    def timed() -> None:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)

    benchmark.pedantic(timed, rounds=1 if benchmark.disabled else 3)
    ours = statistics.median(times)
    benchmark.extra_info |= {
        "rival": f"{rival} (run once)",
        "rival seconds": theirs.seconds,
        "seconds": ours,
        "times ours": theirs.seconds / ours,
        **{key: value for key, value in facts.items() if FULL or key not in ("target", "peak")},
    }


def title(what: str, depth: int) -> str:
    return f"k-reciprocal re-ranking, {what}, {MARKET[0]:,} x {MARKET[1]:,}, D {depth}"


needs = functools.partial(pytest.mark.skipif, reason="the rival is not installed")


@needs("torchreid re_ranking" not in RIVALS)
@pytest.mark.parametrize("depth", DEPTHS)
def test_original(benchmark, depth):
    """The authors' script, as torchreid has it, with its distances."""
    benchmark.group = title("features to dense distances", depth)
    theirs = asked("torchreid re_ranking", depth)
    assert agreement(k_reciprocal(*data(depth)), theirs.result) > 0.999
    memory = {"peak": peak("k_reciprocal", *MARKET, depth)} if FULL else {}
    target = 23.0 if depth == 2048 else 60.0
    claim(
        benchmark, lambda: k_reciprocal(*data(depth)), "torchreid re_ranking", theirs, target=target, **memory
    )


@needs("torchreid re_ranking" not in RIVALS)
@pytest.mark.parametrize("depth", DEPTHS)
def test_top(benchmark, depth):
    benchmark.group = title("features to the first 200", depth)
    theirs = asked("torchreid re_ranking", depth)
    dense = torch.sort(k_reciprocal(*data(depth)), dim=1, stable=True)
    assert torch.equal(k_reciprocal(*data(depth), top=200).indices, dense.indices[:, :200])
    memory = {"peak": peak("k_reciprocal_top", *MARKET, depth)} if FULL else {}
    target = {"target": 30.0} if depth == 2048 else {}
    run = functools.partial(k_reciprocal, *data(depth), top=200)
    claim(benchmark, run, "torchreid re_ranking", theirs, **target, **memory)


@needs("fastreid evaluator" not in RIVALS)
@pytest.mark.parametrize("depth", DEPTHS)
def test_fastreid(benchmark, depth):
    """fast-reid's evaluator: faiss, dense Jaccard distances of all with all, the blend."""
    benchmark.group = title("fast-reid's form", depth)
    theirs = asked("fastreid evaluator", depth)
    run = functools.partial(k_reciprocal, *data(depth), variant="fastreid")
    assert agreement(run(), theirs.result) > 0.999
    claim(benchmark, run, "fastreid evaluator", theirs, target=10.0 if depth == 2048 else 20.0)


@needs(original() is None)
def test_from_matrices(benchmark):
    """The re-ranking stage alone: three given matrices."""
    benchmark.group = title("from given matrices", 512)
    query, gallery = data(512)
    pairs = ((query, gallery), (query, query), (gallery, gallery))
    given = [pairwise_distance(x, y, check_finite=False) for x, y in pairs]
    theirs = Once(lambda: original()(*(matrix.numpy() for matrix in given)))
    # Its order is that of float32 distances divided by the largest of a column: near ties may swap there.
    differs = (k_reciprocal_from_distances(*given) - theirs.result).abs() > 1e-6
    assert differs.float().mean() < 1e-5
    run = functools.partial(k_reciprocal_from_distances, *given)
    claim(benchmark, run, "torchreid re_ranking", theirs, target=500.0)


@needs("fastreid compute_jaccard_distance" not in RIVALS)
def test_jaccard(benchmark):
    """For clustering: sparse, against fast-reid's dense matrix."""
    queries, gallery = 500, 3000
    x = retrieval(queries, gallery, 512).everything
    benchmark.group = f"Jaccard distances for clustering, {queries + gallery:,} images, D 512"
    theirs = Once(lambda: RIVALS["fastreid compute_jaccard_distance"].run(x[:queries], x[queries:]))
    own = jaccard(x)
    row = torch.repeat_interleave(torch.arange(len(x)), own.indptr.diff())
    assert agreement(theirs.result[row, own.indices], own.values) > 0.999
    claim(benchmark, lambda: jaccard(x), "fastreid compute_jaccard_distance", theirs)


def test_graph(benchmark):
    """gnn_rerank has no rival that runs without a GPU; for the record."""
    benchmark.group = f"gnn_rerank, {MARKET[0]:,} x {MARKET[1]:,}, D 512"
    query, gallery = data(512)
    pids = retrieval(*MARKET, 512)
    first = gnn_rerank(query, gallery).argmin(1)
    assert (pids.gallery_pids[first] == pids.query_pids).double().mean() > 0.9
    benchmark.pedantic(gnn_rerank, args=(query, gallery), rounds=1)
