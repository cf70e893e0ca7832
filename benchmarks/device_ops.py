# SPDX-License-Identifier: Apache-2.0
"""Every op but attention on a device, against what one writes in torch there."""

from __future__ import annotations

import torch
from device_scenarios import TINY, features, same_figures
from device_timing import measure
from rivals.nearest import available as nearest_rivals
from roofline import DEPTH, MARKET, Work, product
from roofline import nearest as nearest_work
from torch import Tensor

from fastreid_ops import (
    gnn_rerank,
    jaccard,
    k_reciprocal_from_distances,
    pairwise_distance,
    rank_metrics,
)
from fastreid_ops.ops.nearest import neighbours, squared_rows

CHECKED = 96  # rows of which all distances are computed in float64


def checked_neighbours(x: Tensor, k: int) -> None:
    """Those of float64, up to true ties, of rows all over the set."""
    found = neighbours(x, x, k, check_finite=False)
    for rows in torch.linspace(0, len(x) - 1, CHECKED, device=x.device).long().split(8):
        exact = torch.sort(squared_rows(x[rows], x, "sqeuclidean"), dim=1, stable=True)
        assert torch.equal(found.indices[rows], exact.indices[:, :k]), "not the neighbours in float64"
        torch.testing.assert_close(found.squared[rows], exact.values[:, :k], rtol=1e-12, atol=0)


def _all_among_all(bench, x: Tensor, network: str, *, target: bool) -> None:
    k = min(21, len(x))
    checked_neighbours(x, k)

    def own() -> object:
        return neighbours(x, x, k, check_finite=False)

    rivals = {
        rival.name: measure(lambda r=rival: r.run(x, x, k), bench.device, rounds=bench.pick(3, 1), warm=1)
        for rival in nearest_rivals()
        if bench.device == "cpu" or rival.name.startswith("torch")
    }
    fastest = min(rivals, key=lambda rival: rivals[rival].seconds)
    ours = measure(own, bench.device, rounds=bench.rounds)
    bench.compare(
        f"nearest, {len(x):,} among themselves, {network}",
        ours,
        work=nearest_work(len(x), x.shape[1], k),
        rival=fastest,
        rival_timing=rivals[fastest],
        target="at least 4 times as fast" if target else None,
        met=rivals[fastest].seconds >= 4 * ours.seconds if target else None,
        peak_bytes=bench.peak(own),
    )


def nearest(bench) -> None:
    """All images of queries and gallery among themselves; the rival multiplies in float32."""
    sizes = bench.pick((*MARKET, DEPTH), TINY)
    for network, spread in (("untrained", 4.0), ("trained", 0.6)):
        x = features(*sizes, bench.device, spread=spread).everything
        _all_among_all(bench, x, network, target=network == "trained")
    for count in (100, 1):
        query, read = x[:count], Work(x.numel() * 4)
        found = measure(
            lambda q=query: neighbours(q, x, 20, check_finite=False), bench.device, rounds=bench.rounds
        )
        bench.compare(f"nearest of {count} among {len(x):,}, k 20", found, work=read)


def distance(bench) -> None:
    """A whole matrix; every entry by differences, which no product can lose digits of."""
    queries, gallery, depth = sizes = bench.pick((*MARKET, DEPTH), TINY)
    data = features(*sizes, bench.device)
    some = data.query[:8]
    exact = squared_rows(some, data.gallery, "sqeuclidean").sqrt()
    torch.testing.assert_close(pairwise_distance(some, data.gallery).double(), exact, rtol=1e-5, atol=1e-7)
    ours = measure(
        lambda: pairwise_distance(data.query, data.gallery, check_finite=False),
        bench.device,
        rounds=bench.rounds,
    )
    work = product(queries, gallery, depth, 4, 4, "fp32")
    for name, rival in (
        ("torch.cdist", lambda: torch.cdist(data.query, data.gallery)),
        ("torch.mm alone, float32", lambda: torch.mm(data.query, data.gallery.T)),
    ):
        theirs = measure(rival, bench.device, rounds=bench.rounds)
        bench.compare(
            f"pairwise_distance, {queries:,} x {gallery:,}", ours, work=work, rival=name, rival_timing=theirs
        )


def distance_step(bench) -> None:
    """A batch of training with its gradient."""
    x = features(64, 64, bench.pick(DEPTH, 64), bench.device).query

    def step(function) -> Tensor:
        leaf = x.detach().requires_grad_()
        return torch.autograd.grad(function(leaf, leaf).sum(), leaf)[0]

    def own(a: Tensor, b: Tensor) -> Tensor:
        return pairwise_distance(a, b, metric="sqeuclidean", check_finite=False)

    def products(a: Tensor, b: Tensor) -> Tensor:
        return a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T

    torch.testing.assert_close(step(own), step(products), rtol=1e-3, atol=1e-3)
    rounds = bench.pick(50, 2)
    bench.compare(
        "pairwise_distance of a batch of 64, with gradient",
        measure(lambda: step(own), bench.device, rounds=rounds),
        rival="torch.mm and norms",
        rival_timing=measure(lambda: step(products), bench.device, rounds=rounds),
    )


def rank(bench) -> None:
    """CMC and mAP of a given matrix; the rival only sorts it."""
    queries, gallery, _ = sizes = bench.pick((*MARKET, 64), TINY)
    data = features(*sizes, bench.device)
    matrix = pairwise_distance(data.query, data.gallery)
    labels = data[2:]
    few = slice(0, 50)
    arguments = (matrix[few], labels[0][few], labels[1], labels[2][few], labels[3])
    same_figures(rank_metrics(*arguments), rank_metrics(*(value.cpu() for value in arguments)))
    bench.compare(
        f"rank_metrics of a matrix, {queries:,} x {gallery:,}",
        measure(lambda: rank_metrics(matrix, *labels), bench.device, rounds=bench.rounds),
        work=Work(matrix.numel() * 4),
        rival="torch.argsort alone",
        rival_timing=measure(lambda: torch.argsort(matrix, dim=1), bench.device, rounds=bench.rounds),
    )


def matrices(bench) -> None:
    """Re-ranking of three given matrices."""
    queries, gallery, _ = sizes = bench.pick((*MARKET, 64), TINY)
    data = features(*sizes, bench.device)
    pairs = ((data.query, data.gallery), (data.query, data.query), (data.gallery, data.gallery))
    given = [pairwise_distance(a, b, check_finite=False) for a, b in pairs]
    read = sum(matrix.numel() for matrix in given) + given[0].numel()
    found = measure(lambda: k_reciprocal_from_distances(*given), bench.device, rounds=bench.rounds)
    bench.compare(f"re-ranking of matrices, {queries:,} x {gallery:,}", found, work=Work(read * 4))


def clusters(bench) -> None:
    """Jaccard distances for clustering."""
    points, depth = bench.pick((12_936, DEPTH), (200, 32))
    x = features(1, points - 1, depth, bench.device).everything
    found = measure(lambda: jaccard(x), bench.device, rounds=bench.pick(3, 1))
    bench.compare(f"jaccard of {points:,} images", found, work=nearest_work(points, depth, 20))


def graph(bench) -> None:
    """gnn_rerank. No rival is timed: the published one approximates."""
    sizes = bench.pick((*MARKET, DEPTH), TINY)
    data = features(*sizes, bench.device)
    found = measure(lambda: gnn_rerank(data.query, data.gallery), bench.device, rounds=bench.pick(3, 1))
    bench.compare("gnn_rerank, Market-1501", found, work=nearest_work(sum(sizes[:2]), sizes[2], 26))
