# SPDX-License-Identifier: Apache-2.0
"""Re-ranking against the implementations that people use, from features and from distance matrices.

``pytest benchmarks/bench_rerank.py --benchmark-only`` measures 500 x 3,000; with FASTREID_BENCH_FULL=1 also the size of
Market-1501 (a rival takes minutes there and is run once), each in a process of its own whose peak memory is recorded.
Run this file for a table.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time

import pytest
import torch
from rivals.rerank import Rival, available, original
from shapes import Shape, features
from torch import Tensor

from fastreid_ops import gnn_rerank, jaccard, k_reciprocal, k_reciprocal_from_distances, pairwise_distance

SMALL = Shape("rerank-500x3000-512", 500, 3000, 512)
FULL = (Shape("market1501-512", 3368, 19732, 512), Shape("market1501-2048", 3368, 19732, 2048))
OURS = [
    Rival("k_reciprocal", "zhong2017", k_reciprocal),
    Rival("k_reciprocal top=100", "top", lambda q, g: k_reciprocal(q, g, top=100)),
    Rival("k_reciprocal fastreid", "fastreid", lambda q, g: k_reciprocal(q, g, variant="fastreid")),
    Rival("jaccard", None, lambda q, g: jaccard(torch.cat([q, g]))),
    Rival("gnn_rerank", "gnn", gnn_rerank),
]
CONTENDERS = [*OURS, *available()]


def matrices(query: Tensor, gallery: Tensor) -> tuple[Tensor, ...]:
    pairs = ((query, gallery), (query, query), (gallery, gallery))
    return tuple(pairwise_distance(x, y, check_finite=False) for x, y in pairs)


def agreement(result: object, want: Tensor) -> float:
    """The share of entries that are the same. Rivals' distances are float32 products; where these tie or swap two
    neighbours a set changes, and the entries that depend on it."""
    difference = (torch.as_tensor(result) - want).abs()
    return (difference <= 2e-3 * want.abs().max()).float().mean().item()


def check(rival: Rival, result: object, query: Tensor, gallery: Tensor) -> None:
    """Against ours; ours against the original on the same exact matrices."""
    if rival.equals in ("zhong2017", "fastreid"):
        want = k_reciprocal(query, gallery, variant=rival.equals)
        assert agreement(result, want) > 0.999
    elif rival.equals == "top":
        want = torch.sort(k_reciprocal(query, gallery), dim=1, stable=True)
        assert torch.equal(result.indices, want.indices[:, :100])
    elif rival.equals == "gnn":
        assert result.shape == (len(query), len(gallery))
    else:
        own = jaccard(torch.cat([query, gallery]))
        dense = (
            torch.from_numpy(result.to_scipy().toarray())
            if hasattr(result, "to_scipy")
            else torch.as_tensor(result)
        )
        row = torch.repeat_interleave(torch.arange(len(own.indptr) - 1), own.indptr.diff())
        assert agreement(dense[row, own.indices], own.values) > 0.999


@pytest.fixture(scope="module")
def small():
    return features(SMALL, normalised=True)


@pytest.mark.parametrize("rival", CONTENDERS, ids=lambda rival: rival.name)
def test_from_features(checked, benchmark, small, rival):
    benchmark.group = f"re-ranking from features {SMALL.name}"
    rounds = 5 if rival in OURS else 1
    checked(rival.run, lambda result: check(rival, result, *small), *small, rounds=rounds)


def test_from_matrices(checked, benchmark, small):
    benchmark.group = f"re-ranking from matrices {SMALL.name}"
    given = matrices(*small)
    rival = original()
    want = k_reciprocal(*small) if rival is None else torch.from_numpy(rival(*(m.numpy() for m in given)))

    def same(result):
        torch.testing.assert_close(result, want, rtol=0, atol=1e-6)

    checked(k_reciprocal_from_distances, same, *given)


def test_original_from_matrices(benchmark, small):
    rival = original()
    if rival is None:
        pytest.skip("torchreid is not installed")
    benchmark.group = f"re-ranking from matrices {SMALL.name}"
    given = [m.numpy() for m in matrices(*small)]
    benchmark.pedantic(rival, args=given, rounds=1)


@pytest.mark.skipif(os.environ.get("FASTREID_BENCH_FULL") != "1", reason="minutes: FASTREID_BENCH_FULL=1")
@pytest.mark.parametrize("shape", FULL, ids=lambda shape: shape.name)
@pytest.mark.parametrize("name", [*(r.name for r in CONTENDERS), "from matrices", "original from matrices"])
def test_full_size(benchmark, shape, name):
    """In a process of its own: seconds and peak memory of one call, its result checked there."""
    benchmark.group = f"re-ranking {shape.name}"
    command = [sys.executable, __file__, name, shape.name]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=dict(os.environ))
    found = json.loads(done.stdout.splitlines()[-1])
    benchmark.extra_info.update(found)
    times = iter(found["seconds"])
    benchmark.pedantic(lambda: time.sleep(next(times)), rounds=len(found["seconds"]), warmup_rounds=0)


def _peak() -> float:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _measure(name: str, shape: Shape) -> dict[str, object]:
    """Times, and the peak in GiB before and after."""
    query, gallery = features(shape, normalised=True)
    verify = None
    if name.endswith("from matrices"):
        given = matrices(query, gallery)
        rival = original()
        ours = name == "from matrices"
        run = (
            (lambda: k_reciprocal_from_distances(*given))
            if ours
            else (lambda: rival(*(m.numpy() for m in given)))
        )
    else:
        contender = next(r for r in CONTENDERS if r.name == name)
        ours = contender in OURS

        def run():
            return contender.run(query, gallery)

        verify = contender
    before, seconds = _peak(), []
    for _ in range(5 if ours else 1):
        start = time.perf_counter()
        result = run()
        seconds.append(time.perf_counter() - start)
    after = _peak()
    if verify is not None:
        check(verify, result, query, gallery)
    else:
        torch.testing.assert_close(
            torch.as_tensor(result), k_reciprocal_from_distances(*given), rtol=0, atol=1e-6
        )
    return {"seconds": seconds, "peak_gib": after, "peak_before_gib": before}


def _table(shape: Shape) -> None:
    query, gallery = features(shape, normalised=True)
    print(f"\n{shape.name}, {torch.get_num_threads()} threads")
    for rival in CONTENDERS:
        check(rival, rival.run(query, gallery), query, gallery)
        times = []
        for _ in range(5 if rival in OURS else 1):
            start = time.perf_counter()
            rival.run(query, gallery)
            times.append(time.perf_counter() - start)
        print(f"  {rival.name:36} {statistics.median(times):9.4f} s", flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(_measure(sys.argv[1], next(s for s in (SMALL, *FULL) if s.name == sys.argv[2]))))
    else:
        _table(SMALL)
