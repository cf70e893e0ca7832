# SPDX-License-Identifier: Apache-2.0
"""From encodings to results, a block of rows at a time: so that memory is bounded, and Ctrl-C is heard."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from fastreid_ops.ops._progress import bar as bar_of
from fastreid_ops.ops._rerank_sparse import Sparse, Variant, invert, within

# Distances that are computed at a time where no limit is given: fewer rows cost packing the gallery again.
BLOCK_BYTES = 320 * 2**20
# Rows of sparse overlaps at a time: a second or so.
OVERLAP_ROWS = 16384


class Blocks(Protocol):
    """What gives final distances by blocks of queries."""

    @property
    def shape(self) -> tuple[int, int]: ...

    def bytes(self) -> int: ...

    def block(self, first: int, last: int, result: Tensor | None = None) -> Tensor:
        """Final distances of queries [first, last), in ``result`` or in new memory."""


class Share:
    """Some of the queries of a set."""

    def __init__(self, of: Blocks, begin: int, end: int) -> None:
        self.of, self.begin, self.end = of, begin, end

    @property
    def shape(self) -> tuple[int, int]:
        return self.end - self.begin, self.of.shape[1]

    def bytes(self) -> int:
        return self.of.bytes()

    def block(self, first: int, last: int, result: Tensor | None = None) -> Tensor:
        return self.of.block(self.begin + first, self.begin + last, result)


def dense(op: str, sets: Iterable[Blocks], limit: int | None, progress: bool) -> Tensor:
    """(Q, G): the sum over the sets, which are asked for one after the other."""
    result = None
    for one in sets:
        queries, gallery = one.shape
        step = _rows(op, limit, one.bytes(), gallery)
        with bar_of(progress, queries, op, "row") as bar:
            if result is None and step >= queries:
                result = one.block(0, queries)
                bar.update(queries)
                continue
            first_set = result is None
            if first_set:
                result = one.block(0, 0).new_empty(queries, gallery)
            for first, last in _ranges(queries, step):
                if first_set:
                    one.block(first, last, result[first:last])
                else:
                    result[first:last] += one.block(first, last)
                bar.update(last - first)
        del one
    return result


def heads(
    op: str, sets: Sequence[Blocks], top: int, limit: int | None, progress: bool
) -> tuple[Tensor, Tensor]:
    """(values, indices) of the ``top`` smallest sums of each query, in the order (value, index)."""
    queries, gallery = sets[0].shape
    step = _rows(op, limit, sum(one.bytes() for one in sets), gallery, min(2, len(sets)))
    parts = []
    with bar_of(progress, queries, op, "row") as bar:
        for first, last in _ranges(max(queries, 1), step):
            last = min(last, queries)
            block = sets[0].block(first, last)
            for one in sets[1:]:
                block += one.block(first, last)
            parts.append(torch.ops.fastreid.rerank_head(block, top))
            bar.update(last - first)
    values, indices = zip(*parts, strict=True)
    return torch.cat(values), torch.cat(indices)


def overlaps(
    op: str, rows: Sparse, variant: Variant, limit: int | None, progress: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Jaccard distances of all rows to each other, where they overlap: (begin, index int64, value)."""
    points = rows.begin.shape[0] - 1
    inverted = invert(rows, 0, points, points)
    formula = "the sparse encoding (8 bytes for each of its entries, twice) and 12 * N for each thread"
    needed = rows.bytes() + inverted.bytes() + 12 * points * torch.get_num_threads()
    within(op, limit, needed, formula)
    begin, indices, values = [torch.zeros(1, dtype=torch.int64, device=rows.value.device)], [], []
    total = 0
    with bar_of(progress, points, op, "row") as bar:
        for first, last in _ranges(points, OVERLAP_ROWS):
            part = Sparse(
                *torch.ops.fastreid.rerank_overlap(
                    *rows, *inverted, first, last - first, points, 0, variant.half_jaccard, variant.clamp
                )
            )
            begin.append(part.begin[1:] + total)
            indices.append(part.column.to(torch.int64))
            values.append(part.value)
            total += part.column.shape[0]
            bar.update(last - first)
    return torch.cat(begin), torch.cat(indices), torch.cat(values)


def _rows(op: str, limit: int | None, used: int, gallery: int, blocks: int = 1) -> int:
    """Rows of the result at a time."""
    row = 4 * gallery * blocks
    if limit is None:
        return max(1, BLOCK_BYTES // row)
    formula = (
        f"{used} for the sparse encoding (8 bytes for each of its entries, twice) and {row} for one row of G"
    )
    within(op, limit, used + row, formula)
    return (limit - used) // row


def _ranges(total: int, step: int) -> Iterator[tuple[int, int]]:
    for first in range(0, total, step):
        yield first, min(first + step, total)
