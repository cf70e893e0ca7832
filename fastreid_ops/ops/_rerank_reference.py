# SPDX-License-Identifier: Apache-2.0
"""Re-ranking in plain torch, with N x N matrices: the specification, the tests' oracle, and what runs where the
native library does not. Arguments are not checked."""

from __future__ import annotations

import torch
from torch import Tensor

from fastreid_ops.ops._rerank_sparse import VARIANTS, Variant, half_size, listed
from fastreid_ops.ops.distance import reference as distances

CHUNK = 64  # queries whose minima with all points are in memory at a time


def squared_distances(x: Tensor, metric: str) -> Tensor:
    """(N, N) float64."""
    distance = distances(x.double(), x.double(), metric="sqeuclidean" if metric == "euclidean" else "cosine")
    return distance if metric == "euclidean" else 2 * distance


def stacked(query_gallery: Tensor, query_query: Tensor, gallery_gallery: Tensor) -> Tensor:
    """(N, N) float64 of three matrices; row i holds the distances to point i, as the original's transpose does."""
    top = torch.cat([query_query, query_gallery], dim=1)
    bottom = torch.cat([query_gallery.mT, gallery_gallery], dim=1)
    return torch.cat([top, bottom]).double().mT.abs().contiguous()


def _rounded(value: Tensor, half: bool) -> Tensor:
    return value.half().float() if half else value


def _weighted(distance: Tensor, power: int, variant: Variant) -> Tensor:
    if variant.normalised:
        largest = distance.amax(1, keepdim=True)
        distance = distance / torch.where(largest > 0, largest, 1.0)
    return distance**power


def _mutual(order: Tensor, size: int) -> list[list[int]]:
    """R(i, size - 1): the first ``size`` of each list that hold i among their own first ``size``."""
    near = [row[:size] for row in order.tolist()]
    sets = [set(row) for row in near]
    return [[j for j in row if i in sets[j]] for i, row in enumerate(near)]


def encoding(distance: Tensor, *, k1: int, k2: int, power: int, variant: Variant) -> Tensor:
    """V (N, N) float32 after query expansion."""
    points = len(distance)
    entries, averaged = listed(k1, k2, variant, points)
    order = torch.sort(distance, dim=1, stable=True).indices
    whole, near = _mutual(order, entries), _mutual(order, min(half_size(k1), entries))
    w = _weighted(distance, power, variant)
    v = torch.zeros(points, points)
    for i in range(points):
        own = set(whole[i])
        kept = set(own)
        for candidate in whole[i]:
            theirs = near[candidate]
            if 3 * len(own.intersection(theirs)) > 2 * len(theirs):
                kept.update(theirs)
        columns = torch.tensor(sorted(kept), dtype=torch.int64)
        v[i, columns] = torch.softmax(-w[i, columns], 0).float()
    v = _rounded(v, variant.half_weights)
    if k2 == 1:
        return v
    total = torch.zeros_like(v)
    for n in range(averaged):
        total += v[order[:, n]]
    return _rounded(total / averaged, variant.half_expanded)


def jaccard_distances(rows: Tensor, others: Tensor, variant: Variant) -> Tensor:
    """1 - sum of minima / (2 - sum of minima), for every row with every other one."""
    parts = []
    for part in rows.split(CHUNK):
        if variant.half_jaccard:
            minima = torch.zeros(len(part), len(others))
            for t in range(rows.shape[1]):
                minima = (minima + torch.minimum(part[:, t, None], others[:, t])).half().float()
            below = (2 - minima).half().float()
            distance = (1 - (minima / below).half().float()).half().float()
        else:
            minima = torch.stack([torch.minimum(row, others).double().sum(1) for row in part]).float()
            distance = 1 - minima / (2 - minima)
        parts.append(distance.clamp(min=0) if variant.clamp else distance)
    return torch.cat(parts)


def blended(
    distance: Tensor,
    queries: int,
    *,
    k1: int,
    k2: int,
    lambda_value: float,
    power: int,
    variant: Variant,
    raw: float,
) -> Tensor:
    """Final distances (Q, G) from all distances (N, N); ``raw`` makes them what an un-normalised blend takes."""
    v = encoding(distance, k1=k1, k2=k2, power=power, variant=variant)
    jaccard = jaccard_distances(v[:queries], v[queries:], variant)
    own = _weighted(distance[:queries], power, variant)[:, queries:]
    if not variant.normalised:
        own = own * raw
    rest = torch.tensor(1 - lambda_value, dtype=torch.float32)
    part = _rounded(jaccard * _rounded(rest, variant.half_jaccard), variant.half_jaccard)
    return part + own.float() * lambda_value


def reference(
    query: Tensor,
    gallery: Tensor,
    *,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    variant: str = "zhong2017",
    metric: str = "euclidean",
) -> Tensor:
    """The specification of ``k_reciprocal``: (Q, G) final distances, by definition and with N x N matrices."""
    rule = VARIANTS[variant]
    return blended(
        squared_distances(torch.cat([query, gallery]), metric),
        len(query),
        k1=k1,
        k2=k2,
        lambda_value=lambda_value,
        power=rule.power,
        variant=rule,
        raw=0.5 if metric == "cosine" else 1.0,
    )


def reference_from_distances(
    query_gallery: Tensor,
    query_query: Tensor,
    gallery_gallery: Tensor,
    *,
    k1: int,
    k2: int,
    lambda_value: float,
    variant: str,
) -> Tensor:
    """The same from given distances."""
    rule = VARIANTS[variant]
    distance = stacked(query_gallery, query_query, gallery_gallery)
    return blended(
        distance,
        len(query_gallery),
        k1=k1,
        k2=k2,
        lambda_value=lambda_value,
        power=2,
        variant=rule,
        raw=1.0,
    )


def reference_jaccard(x: Tensor, *, k1: int, k2: int, variant: str) -> Tensor:
    """(N, N) Jaccard distances."""
    rule = VARIANTS[variant]
    v = encoding(squared_distances(x, "euclidean"), k1=k1, k2=k2, power=rule.power, variant=rule)
    return jaccard_distances(v, v, rule)


def reference_gnn(query: Tensor, gallery: Tensor, *, k1: int, k2: int) -> Tensor:
    """1 - cosine of the propagated rows of the neighbour graph, (Q, G)."""
    x = torch.cat([query, gallery])
    points = len(x)
    squared, order = torch.sort(squared_distances(x, "cosine"), dim=1, stable=True)
    similarity = (1 - squared / 2) ** 2
    a = torch.zeros(points, points, dtype=torch.float64).scatter_(1, order[:, :k1], 1.0)
    for _ in range(2 if k2 > 1 else 0):
        a = a + a.mT
        a = sum(similarity[:, n, None] * a[order[:, n]] for n in range(min(k2, points)))
    a = torch.nn.functional.normalize(a, dim=1, eps=1e-300)
    return (1 - a[: len(query)] @ a[len(query) :].mT).float()
