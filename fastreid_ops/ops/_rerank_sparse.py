# SPDX-License-Identifier: Apache-2.0
"""The sparse side of re-ranking: neighbour lists to the encoding V, its inverted index, and blocks of final
distances. Arguments have been checked; the native library is there."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastreid_ops.ops import _checks as check
from fastreid_ops.ops.distance import pairwise_distance
from fastreid_ops.ops.nearest import neighbours, neighbours_of_both

METRICS = ("euclidean", "cosine")


class Variant(NamedTuple):
    """How an implementation departs from Zhong et al.'s Python script."""

    itself: int = 1  # neighbour lists have k1 + itself entries
    power: int = 1  # of the squared distance in the weights and the blend
    normalised: bool = True  # divided by the row's maximum
    half_weights: bool = False  # V in float16
    half_expanded: bool = False  # V after local query expansion in float16
    half_jaccard: bool = False  # Jaccard distances, and their sums, in float16
    clamp: bool = False  # no Jaccard distance below 0


VARIANTS = {
    "zhong2017": Variant(),
    "torchreid": Variant(power=2),
    "fastreid": Variant(itself=0, normalised=False, clamp=True),
    "transreid": Variant(half_weights=True, half_expanded=True, half_jaccard=True),
    "naic": Variant(half_expanded=True),
}


class Sparse(NamedTuple):
    """Compressed rows: entries begin[r] to begin[r + 1] - 1 of row r, columns ascending."""

    begin: Tensor
    column: Tensor
    value: Tensor

    def bytes(self) -> int:
        return sum(part.numel() * part.element_size() for part in self)


class Features(NamedTuple):
    """Where the distances between queries and gallery come from."""

    query: Tensor
    gallery: Tensor
    metric: str

    @property
    def shape(self) -> tuple[int, int]:
        return self.query.shape[0], self.gallery.shape[0]

    def rows(self, first: int, last: int) -> Tensor:
        """Float32: squared Euclidean distances, or 1 - cos."""
        metric = "sqeuclidean" if self.metric == "euclidean" else "cosine"
        distance = pairwise_distance(self.query[first:last], self.gallery, metric=metric, check_finite=False)
        return distance.float()


class Matrix(NamedTuple):
    """The distances as they were given."""

    distance: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.distance.shape[0], self.distance.shape[1]

    def rows(self, first: int, last: int) -> Tensor:
        rows = self.distance[first:last]
        return rows if rows.dtype == torch.float32 and rows.stride(1) == 1 else rows.float().contiguous()


class Encoded(NamedTuple):
    """One feature set, ready for its final distances."""

    rows: Sparse  # V of all points
    inverted: Sparse  # its columns over the gallery
    source: Features | Matrix
    divisor: Tensor | None  # of each query's distances
    power: int
    variant: Variant
    lambda_value: float

    @property
    def shape(self) -> tuple[int, int]:
        return self.source.shape

    def block(self, first: int, last: int, result: Tensor | None = None) -> Tensor:
        """Final distances of queries [first, last), in ``result`` or in new memory."""
        distance = self.source.rows(first, last)
        if result is None:
            result = torch.empty_like(distance) if isinstance(self.source, Matrix) else distance
        divisor = None if self.divisor is None else self.divisor[first:last]
        torch.ops.fastreid.rerank_blend(
            result,
            distance,
            divisor,
            *self.rows,
            *self.inverted,
            first,
            self.lambda_value,
            self.power,
            self.variant.half_jaccard,
            self.variant.clamp,
        )
        return result

    def bytes(self) -> int:
        """Of the encoding, without the features."""
        return self.rows.bytes() + self.inverted.bytes()


def widened(x: Tensor) -> Tensor:
    """float64 stays, half types become float32."""
    return x.detach() if x.dtype == torch.float64 else x.detach().float()


def half_size(k1: int) -> int:
    """Entries of the half list: k1 / 2 rounded half to even, and the point itself."""
    return round(k1 / 2) + 1


def listed(k1: int, k2: int, variant: Variant, points: int) -> tuple[int, int]:
    """(entries of the neighbour lists, entries that query expansion averages)."""
    entries = min(k1 + variant.itself, points)
    return entries, min(k2, points if variant.itself else entries)


def within(op: str, limit: int | None, needed: int, formula: str) -> None:
    if limit is not None and needed > limit:
        raise ValueError(check.message(op, "memory_limit", limit, f"at least {needed} bytes: {formula}"))


def list_bytes(points: int, depth: int, item: int, entries: int) -> int:
    """What the neighbour lists of ``points`` take, and the rows they are searched in."""
    return points * (depth * item + 20 * entries + 8)


LIST_FORMULA = (
    "N * (D * size of an element + 20 * max(k1 + 1, k2) + 8) for the rows and their neighbour lists"
)


def encode(
    x: Tensor,
    k1: int,
    k2: int,
    variant: Variant,
    metric: str,
    op: str,
    limit: int | None,
    progress: bool,
    *,
    more: Tensor | None = None,
    group: Any = None,
) -> tuple[Sparse, Tensor]:
    """V of all rows of x (and then of ``more``) after query expansion, and each row's largest squared distance."""
    if more is not None and (x.is_cuda or x.stride() != more.stride()):
        x, more = torch.cat([x, more]), None
    sides = (x,) if more is None else (x, more)
    points, depth = sum(len(side) for side in sides), x.shape[1]
    entries, averaged = listed(k1, k2, variant, points)
    wanted = max(entries, averaged)
    within(op, limit, list_bytes(points, depth, x.element_size(), wanted), LIST_FORMULA)
    search = "sqeuclidean" if metric == "euclidean" else "cosine"
    if more is None:
        calls: dict[str, Any] = {"farthest": True, "check_finite": False}
        found = neighbours(x, x, wanted, metric=search, progress=progress, group=group, **calls)
    else:
        found = neighbours_of_both(x, more, wanted, metric=search, progress=progress, group=group)
    squared, index, farthest = found
    index = index.to(torch.int32)
    inverse = None
    if metric == "cosine":
        square = torch.cat([part.double().square().sum(1) for side in sides for part in side.split(4096)])
        inverse = torch.where(square > 0, square.rsqrt(), 0.0)
    rows = torch.ops.fastreid.rerank_encode(
        index[:, :entries].contiguous(),
        squared[:, :entries].contiguous(),
        farthest if variant.normalised else None,
        x,
        inverse,
        None,
        None,
        None,
        min(half_size(k1), entries),
        variant.power,
        variant.half_weights,
        more,
    )
    return expanded(Sparse(*rows), index, k2, averaged, variant), farthest


def expanded(rows: Sparse, index: Tensor, k2: int, averaged: int, variant: Variant) -> Sparse:
    """Local query expansion: the mean of V over each point's first neighbours (one of which may be all there is, and
    a copy of the point)."""
    if k2 == 1:
        return rows
    first = index[:, :averaged].contiguous()
    return Sparse(*torch.ops.fastreid.rerank_merge(*rows, first, None, averaged, variant.half_expanded))


def invert(rows: Sparse, row_begin: int, row_end: int, columns: int) -> Sparse:
    return Sparse(*torch.ops.fastreid.rerank_invert(*rows, row_begin, row_end, columns))


def encode_features(
    query: Tensor,
    gallery: Tensor,
    *,
    k1: int,
    k2: int,
    lambda_value: float,
    variant: str,
    metric: str,
    op: str,
    limit: int | None,
    progress: bool,
    group: Any = None,
) -> Encoded:
    rule = VARIANTS[variant]
    query, gallery = widened(query), widened(gallery)
    queries, points = len(query), len(query) + len(gallery)
    rows, farthest = encode(query, k1, k2, rule, metric, op, limit, progress, more=gallery, group=group)
    # Cosine distances are half the squared ones.
    divisor = farthest[:queries] * (0.5 if metric == "cosine" else 1.0) if rule.normalised else None
    return Encoded(
        rows,
        invert(rows, queries, points, points),
        Features(query, gallery, metric),
        divisor,
        rule.power,
        rule,
        lambda_value,
    )


def encode_matrices(
    query_gallery: Tensor,
    query_query: Tensor,
    gallery_gallery: Tensor,
    *,
    k1: int,
    k2: int,
    lambda_value: float,
    variant: str,
    op: str,
    limit: int | None,
) -> Encoded:
    rule = VARIANTS[variant]
    matrices = [matrix.detach() for matrix in (query_gallery, query_query, gallery_gallery)]
    queries, points = len(query_gallery), len(query_gallery) + len(gallery_gallery)
    entries, averaged = listed(k1, k2, rule, points)
    wanted = max(entries, averaged)
    within(
        op, limit, list_bytes(points, 0, 0, wanted), "N * (20 * max(k1 + 1, k2) + 8) for the neighbour lists"
    )
    index, distance, farthest = torch.ops.fastreid.rerank_select(*matrices, wanted)
    if not bool(farthest.isfinite().all()):
        for name, matrix in zip(("query_gallery", "query_query", "gallery_gallery"), matrices, strict=True):
            finite(op, name, matrix)
    rows = torch.ops.fastreid.rerank_encode(
        index[:, :entries].contiguous(),
        distance[:, :entries].contiguous(),
        farthest if rule.normalised else None,
        None,
        None,
        *matrices,
        min(half_size(k1), entries),
        2,
        rule.half_weights,
    )
    rows = expanded(Sparse(*rows), index, k2, averaged, rule)
    divisor = farthest[:queries].contiguous() if rule.normalised else None
    inverted = invert(rows, queries, points, points)
    return Encoded(rows, inverted, Matrix(matrices[0]), divisor, 2, rule, lambda_value)


def finite(op: str, argument: str, value: Tensor) -> None:
    """No NaN, no Inf; there is no way to leave this check out."""
    try:
        check.finite(op, argument, value)
    except ValueError as error:
        raise ValueError(str(error).removesuffix(" (check_finite=False leaves this check out)")) from None
