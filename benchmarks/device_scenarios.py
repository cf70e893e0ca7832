# SPDX-License-Identifier: Apache-2.0
"""Features in, figures or rankings out, at the sizes of the data sets, on a device: CMC and mAP of Market-1501, and
exact k-reciprocal re-ranking of Market-1501, MSMT17 and NAIC 2020. Training is device_training.py."""

from __future__ import annotations

import torch
from device_timing import Timing, measure
from roofline import DEPTH, MARKET, MSMT17, NAIC, TOP
from roofline import ranking as ranking_work
from roofline import rerank as rerank_work
from shapes import Retrieval

from fastreid_ops import k_reciprocal, rank_features
from fastreid_ops.ops.nearest import Nearest
from fastreid_ops.ops.ranking import RankMetrics

PART = 65536  # rows made at a time
SMALL = (300, 1500, 64)  # what is compared with the CPU
TINY = (40, 200, 32)


def features(
    queries: int, gallery: int, depth: int, device: str, *, spread: float = 0.6, seed: int = 0
) -> Retrieval:
    """As shapes.retrieval, made where it is used: about 20 images around a direction for each identity, six cameras."""
    generator = torch.Generator(device).manual_seed(seed)
    people = torch.randn(max(2, (queries + gallery) // 20), depth, generator=generator, device=device)
    rows, pids, camids = [], [], []
    for count in (queries, gallery):
        who = torch.randint(len(people), (count,), generator=generator, device=device)
        made = torch.empty(count, depth, device=device)
        for first in range(0, count, PART):
            some = slice(first, min(first + PART, count))
            noise = torch.randn(some.stop - first, depth, generator=generator, device=device)
            torch.nn.functional.normalize(people[who[some]].add_(noise, alpha=spread), dim=1, out=made[some])
        rows.append(made)
        pids.append(who)
        camids.append(torch.randint(6, (count,), generator=generator, device=device))
    return Retrieval(*rows, *pids, *camids)


def on_cpu(data: Retrieval) -> Retrieval:
    return Retrieval(*(value.cpu() for value in data))


def same_figures(got: RankMetrics, want: RankMetrics) -> None:
    """Integers equal, means of float64 to their rounding."""
    for value, expected in zip(got, want, strict=True):
        exact = not expected.dtype.is_floating_point
        torch.testing.assert_close(value.cpu(), expected, rtol=0 if exact else 1e-12, atol=0, equal_nan=True)


def ranking(bench) -> None:
    """Scenario 1. The ranks are integers: those of the CPU, or nothing is timed."""
    small = features(*bench.pick(SMALL, TINY), bench.device)
    same_figures(rank_features(*small), rank_features(*on_cpu(small)))
    sizes = bench.pick((*MARKET, DEPTH), TINY)
    for network, spread in (("trained", 0.6), ("untrained", 4.0)):
        data = features(*sizes, bench.device, spread=spread)
        query, gallery = data.query.bfloat16(), data.gallery.bfloat16().T.contiguous()
        bare = measure(lambda a=query, b=gallery: torch.mm(a, b), bench.device, rounds=bench.rounds)
        for words, check in ((", NaN looked for", True), ("", False)):
            ours = measure(
                lambda d=data, c=check: rank_features(*d, check_finite=c), bench.device, rounds=bench.rounds
            )
            bench.compare(
                f"features to CMC and mAP, {network}{words}",
                ours,
                work=ranking_work(*sizes),
                rival="the bare bf16 product (torch.mm)",
                rival_timing=bare,
                target="at most 1.5 bare products" if network == "trained" else None,
                met=ours.seconds <= 1.5 * bare.seconds if network == "trained" else None,
                peak_bytes=bench.peak(lambda d=data: rank_features(*d, check_finite=False)),
                sizes=list(sizes),
            )


def same_as_on_the_cpu(bench) -> None:
    """Lists and weights are the CPU's; final distances may differ in their last places."""
    small = features(*bench.pick(SMALL, TINY), bench.device)
    there = on_cpu(small)
    for metric in ("euclidean", "cosine"):
        got = k_reciprocal(small.query, small.gallery, metric=metric).cpu()
        want = k_reciprocal(there.query, there.gallery, metric=metric)
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
        head = k_reciprocal(small.query, small.gallery, metric=metric, top=20)
        order = torch.sort(got, dim=1, stable=True)
        torch.testing.assert_close(head.distances.cpu(), order.values[:, :20], rtol=0, atol=0)
        assert torch.equal(head.indices.cpu(), order.indices[:, :20])


def timed(bench, name: str, sizes: tuple[int, int, int], rounds: int, warm: int, **facts) -> None:
    """Seconds and peak of a ranking of the first ``TOP``, recorded if it is one. Called no more often than it is
    timed: at the largest size a call takes its time."""
    data = features(*sizes, bench.device)
    top = min(TOP, sizes[1])
    kept: list[Nearest] = []
    timings: list[Timing] = []

    def call() -> None:
        kept[:] = [k_reciprocal(data.query, data.gallery, top=top)]

    peak = bench.peak(lambda: timings.append(measure(call, bench.device, rounds=rounds, warm=warm)))
    # Of features as a trained network's, the first is the same person's; rows ascend, and no image comes twice.
    distances, indices = kept[0]
    assert (data.gallery_pids[indices[:, 0]] == data.query_pids).double().mean() > 0.9
    assert (distances.diff(dim=1) >= 0).all()
    assert (indices.sort(dim=1).values.diff(dim=1) > 0).all()
    met = facts.pop("met", None)
    bench.compare(
        f"re-ranking, {name}, first {top}",
        timings[0],
        work=rerank_work(*sizes, top=top),
        peak_bytes=peak,
        sizes=list(sizes),
        met=met(timings[0].seconds, peak) if met else None,
        **facts,
    )


def market_rerank(bench) -> None:
    """Scenario 2, its smallest size; the whole matrix too."""
    same_as_on_the_cpu(bench)
    sizes = bench.pick((*MARKET, DEPTH), TINY)
    timed(
        bench,
        "Market-1501",
        sizes,
        bench.rounds,
        2,
        target="under 9.4 ms",
        met=lambda seconds, peak: seconds < 9.4e-3,
    )
    data = features(*sizes, bench.device)
    dense = measure(lambda: k_reciprocal(data.query, data.gallery), bench.device, rounds=bench.rounds)
    bench.compare("re-ranking, Market-1501, all distances", dense, work=rerank_work(*sizes, top=sizes[1]))


def msmt17_rerank(bench) -> None:
    timed(
        bench,
        "MSMT17",
        bench.pick((*MSMT17, DEPTH), TINY),
        bench.pick(3, 1),
        bench.pick(1, 0),
        target="under 0.5 s and 8 GiB",
        met=lambda seconds, peak: seconds < 0.5 and peak is not None and peak < 8 * 2**30,
    )


def naic_rerank(bench) -> None:
    """As much as one GPU is asked for: 7.2 GB of features. Once."""
    timed(bench, "NAIC", bench.pick((*NAIC, DEPTH), TINY), 1, 0, target="to the end", met=lambda *_: True)
