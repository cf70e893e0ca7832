# SPDX-License-Identifier: Apache-2.0
"""The neighbour graph of the GNN re-ranking, sparse. Arguments have been checked; the native library is there."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastreid_ops.ops._rerank_sparse import LIST_FORMULA, Sparse, invert, list_bytes, within
from fastreid_ops.ops.nearest import neighbours


class Propagated(NamedTuple):
    """Rows of length one of the propagated graph, and their columns over the gallery."""

    rows: Sparse
    inverted: Sparse
    shape: tuple[int, int]

    def bytes(self) -> int:
        return self.rows.bytes() + self.inverted.bytes()

    def block(self, first: int, last: int, result: Tensor | None = None) -> Tensor:
        """1 - cosine of queries [first, last) and the whole gallery."""
        gallery = self.shape[1]
        if result is None:
            result = self.rows.value.new_empty(last - first, gallery)
        result.fill_(1.0)
        begin, column, value = torch.ops.fastreid.rerank_overlap(
            *self.rows, *self.inverted, first, last - first, gallery, 1, False, False
        )
        row = torch.repeat_interleave(torch.arange(last - first, device=begin.device), begin.diff())
        result[row, column.to(torch.int64)] = value
        return result


def propagated(
    x: Tensor, queries: int, k1: int, k2: int, op: str, limit: int | None, progress: bool
) -> tuple[Sparse, Sparse]:
    """The graph of all rows of x after two rounds, rows of length one; and its inverse over the gallery."""
    points, depth = x.shape
    joined, averaged = min(k1, points), min(k2, points)
    wanted = max(joined, averaged)
    within(op, limit, list_bytes(points, depth, x.element_size(), wanted), LIST_FORMULA)
    squared, index, _ = neighbours(x, x, wanted, metric="cosine", check_finite=False, progress=progress)
    weight = (1 - squared[:, :averaged] / 2).square().float().contiguous()
    column = index[:, :joined].sort(dim=1).values.to(torch.int32).flatten()
    begin = torch.arange(points + 1, device=x.device) * joined
    rows = Sparse(begin, column, torch.ones(points * joined, device=x.device))
    if k2 > 1:
        first = index[:, :averaged].to(torch.int32).contiguous()
        for _ in range(2):
            rows = Sparse(*torch.ops.fastreid.rerank_merge(*_symmetric(rows), first, weight, 1.0, False))
    rows = rows._replace(value=rows.value / _lengths(rows))
    return rows, invert(rows, queries, points, points)


def _symmetric(rows: Sparse) -> Sparse:
    """The sum of a square sparse matrix and its transpose: row r of both, added up."""
    points = rows.begin.shape[0] - 1
    turned = invert(rows, 0, points, points)
    both = Sparse(
        torch.cat([rows.begin, turned.begin[1:] + rows.begin[-1]]),
        torch.cat([rows.column, turned.column]),
        torch.cat([rows.value, turned.value]),
    )
    own = torch.arange(points, dtype=torch.int32, device=rows.begin.device)
    pairs = torch.stack([own, own + points], dim=1)
    return Sparse(*torch.ops.fastreid.rerank_merge(*both, pairs, None, 1.0, False))


def _lengths(rows: Sparse) -> Tensor:
    """The length of each entry's row; 1 where that is 0."""
    square = torch.segment_reduce(rows.value.double().square(), "sum", offsets=rows.begin, initial=0)
    length = torch.where(square > 0, square.sqrt(), 1.0).float()
    return torch.repeat_interleave(length, rows.begin.diff())
