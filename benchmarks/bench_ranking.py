# SPDX-License-Identifier: Apache-2.0
"""rank_metrics against the evaluators people use, against sorting alone and against the floor, one read of the matrix
(266 MB), at the size of Market-1501: 3,368 queries, 19,732 gallery images; and on the single-gallery-shot metric of
CUHK03: 1,400 x 5,332. Every result is checked before it is timed.

``pytest benchmarks/bench_ranking.py --benchmark-only``, or run this file for a table. `times ours` compares
with this op on as many queries and the same number of threads as torch has.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import fastreid_ops.numpy as door
import pytest
import torch
from rivals.ranking import Rival, available, available_cuhk03

from fastreid_ops import rank_metrics
from fastreid_ops.ops.ranking import reference

QUERIES, GALLERY, PIDS, CAMERAS = 3368, 19732, 751, 6


MARKET1501 = (QUERIES, GALLERY, PIDS, CAMERAS)
CUHK03 = (1400, 5332, 700, 2)


def problem(
    dtype: torch.dtype = torch.float32, size: tuple[int, ...] = MARKET1501
) -> tuple[torch.Tensor, ...]:
    """Distances as a trained network gives them: two overlapping bells, the same person's nearer."""
    generator = torch.Generator().manual_seed(0)
    queries, gallery, pids, cameras = size
    labels = [
        torch.randint(kinds, (count,), generator=generator)
        for kinds, count in ((pids, queries), (pids, gallery), (cameras, queries), (cameras, gallery))
    ]
    distance = torch.randn(queries, gallery, generator=generator).mul_(0.08).add_(1.3)
    distance.sub_(0.25 * (labels[0][:, None] == labels[1][None]))
    return distance.to(dtype), *labels


def first(arguments: tuple[torch.Tensor, ...], queries: int) -> tuple[torch.Tensor, ...]:
    distance, query_pids, gallery_pids, query_camids, gallery_camids = arguments
    return distance[:queries], query_pids[:queries], gallery_pids, query_camids[:queries], gallery_camids


def through_the_door(*tensors: torch.Tensor):
    found = door.rank_metrics(*(value.numpy() for value in tensors), num_threads=torch.get_num_threads())
    return found.cmc, found.mAP


def check(run: Callable, arguments: tuple[torch.Tensor, ...]) -> None:
    """Their figures are float32 sums; ours are compared with the reference, bit for bit."""
    got = run(*arguments)
    if got is None:
        return
    want = rank_metrics(*arguments)
    torch.testing.assert_close(torch.as_tensor(got[0]).double(), want.cmc, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.as_tensor(got[1]).double(), want.mAP, rtol=1e-5, atol=1e-6)


def cuhk03(*arguments: torch.Tensor):
    return rank_metrics(*arguments, cmc="single_gallery_shot")


def check_cuhk03(run: Callable, arguments: tuple[torch.Tensor, ...]) -> None:
    """Theirs is a draw: near ours on the whole, and mAP the same."""
    got, want = run(*arguments), cuhk03(*arguments)
    torch.testing.assert_close(torch.as_tensor(got[0]).double(), want.cmc, rtol=0, atol=0.1)
    torch.testing.assert_close(torch.as_tensor(got[1]).double(), want.mAP, rtol=1e-5, atol=1e-6)


def check_ours(arguments: tuple[torch.Tensor, ...]) -> None:
    some = first(arguments, 200)
    assert all(map(torch.equal, rank_metrics(*some), reference(*some)))


def seconds(run: Callable, arguments: tuple[torch.Tensor, ...], rounds: int = 5) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run(*arguments)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def gigabytes(arguments: tuple[torch.Tensor, ...]) -> float:
    return arguments[0].numel() * arguments[0].element_size() * 1e-9


@pytest.fixture(scope="module")
def arguments():
    return problem()


def report(benchmark, run, given, our_run: Callable = rank_metrics) -> None:
    ours = seconds(our_run, given)
    rounds = 1 if benchmark.disabled or seconds(run, given, 1) > 1 else 5
    benchmark.extra_info |= {"queries": given[0].shape[0], "threads": torch.get_num_threads()}
    benchmark.pedantic(run, args=given, rounds=rounds, iterations=1)
    if benchmark.stats is not None:
        took = benchmark.stats.stats.median
        benchmark.extra_info |= {"GB/s": gigabytes(given) / took, "times ours": took / ours}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_rank_metrics(benchmark, dtype):
    given = problem(dtype)
    check_ours(given)
    report(benchmark, rank_metrics, given)


def test_numpy_door(benchmark, arguments):
    check(through_the_door, arguments)
    report(benchmark, through_the_door, arguments)


def test_transposed(benchmark, arguments):
    given = arguments[0].mT.contiguous().mT, *arguments[1:]
    check_ours(given)
    report(benchmark, rank_metrics, given)


@pytest.mark.parametrize("rival", available(), ids=lambda rival: rival.name)
def test_rival(benchmark, arguments, rival: Rival):
    given = first(arguments, rival.queries or QUERIES)
    check(rival.run, given)
    report(benchmark, rival.run, given)


def test_cuhk03(benchmark):
    given = problem(size=CUHK03)
    some = first(given, 20)
    assert all(map(torch.equal, cuhk03(*some), reference(*some, cmc="single_gallery_shot")))
    report(benchmark, cuhk03, given, cuhk03)


@pytest.mark.parametrize("rival", available_cuhk03(), ids=lambda rival: rival.name)
def test_cuhk03_rival(benchmark, rival: Rival):
    """`times ours`: on as many queries as the rival is asked for."""
    given = first(problem(size=CUHK03), rival.queries or CUHK03[0])
    check_cuhk03(rival.run, given)
    report(benchmark, rival.run, given, cuhk03)


def table(
    rows: list[Rival], arguments: tuple[torch.Tensor, ...], our_run: Callable, verify: Callable
) -> None:
    queries, gallery = arguments[0].shape
    print(f"{queries} x {gallery} float32, {torch.get_num_threads()} threads")
    print(f"{'':34}{'queries':>8}{'seconds':>10}{'GB/s':>8}{'times ours':>12}")
    for rival in rows:
        given = first(arguments, rival.queries or queries)
        if rival.run is not our_run:
            verify(rival.run, given)
        ours = seconds(our_run, given)
        took = seconds(rival.run, given, 1)
        if took < 1:
            took = seconds(rival.run, given)
        speed = gigabytes(given) / took
        print(f"{rival.name:34}{given[0].shape[0]:8}{took:10.4f}{speed:8.2f}{took / ours:12.1f}", flush=True)


def main() -> None:
    arguments = problem()
    check_ours(arguments)
    rows = [Rival("fastreid_ops.rank_metrics", rank_metrics), Rival("fastreid_ops.numpy", through_the_door)]
    table([*rows, *available()], arguments, rank_metrics, check)
    print("\nsingle-gallery-shot:")
    ours = Rival("fastreid_ops.rank_metrics, exact", cuhk03)
    table([ours, *available_cuhk03()], problem(size=CUHK03), cuhk03, check_cuhk03)


if __name__ == "__main__":
    main()
