# SPDX-License-Identifier: Apache-2.0
"""Rows shared out over the ranks of a torch.distributed group.

Two ways. Where every rank has the same inputs, each computes its own contiguous share of the rows (`span`) and ends up
with all of them (`gather_rows`). Where the rows themselves are spread over the ranks, each holds a `Shard`. Either way
results do not depend on the number of ranks, and nothing is padded: what ranks have differs in size, and travels so.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from fastreid_ops.ops import _checks


class Shard(NamedTuple):
    """This rank's rows of a matrix that is spread over the ranks of a group; each row lies on one of them.

    Attributes:
        values: (n, D), on the CPU; n may be 0.
        place: (n,) int64 ascending, which rows of the matrix they are.
        total: rows of the matrix. Some may lie nowhere.
    """

    values: Tensor
    place: Tensor
    total: int


def check_group(op: str, group: object, *, needed: bool = False) -> None:
    """A process group of torch.distributed that this rank belongs to, or None where none is needed."""
    if group is None and not needed:
        return
    if not dist.is_available() or not isinstance(group, dist.ProcessGroup):
        expected = (
            "a torch.distributed.ProcessGroup" if needed else "None or a torch.distributed.ProcessGroup"
        )
        raise TypeError(_checks.message(op, "group", type(group).__name__, expected))
    if dist.get_rank(group) < 0:
        raise ValueError(_checks.message(op, "group", "a group without this rank", "a group it belongs to"))


def span(total: int, group: Any) -> tuple[int, int]:
    """The rows [begin, end) of this rank: equal shares, the first ones a row longer."""
    if group is None:
        return 0, total
    rank, ranks = dist.get_rank(group), dist.get_world_size(group)
    return total * rank // ranks, total * (rank + 1) // ranks


def gather_rows(mine: Tensor, total: int, group: Any) -> Tensor:
    """All rows, in order, from every rank's `span`."""
    if group is None or dist.get_world_size(group) == 1:
        return mine
    ranks = dist.get_world_size(group)
    return torch.cat(
        _from_each(mine, [b - a for a, b in pairwise(total * r // ranks for r in range(ranks + 1))], group)
    )


def gather_unequal(mine: Tensor, group: Any) -> list[Tensor]:
    """The rows of every rank, in the order of the ranks, on all of them; their numbers may differ."""
    size = mine.new_tensor([len(mine)], dtype=torch.int64)
    sizes = [torch.empty_like(size) for _ in range(dist.get_world_size(group))]
    dist.all_gather(sizes, size, group=group)
    return _from_each(mine, [int(each) for each in sizes], group)


def _from_each(mine: Tensor, sizes: list[int], group: Any) -> list[Tensor]:
    # all_gather wants equal sizes of gloo; a broadcast from each rank in turn is what it does for others.
    mine = mine.contiguous()
    parts = []
    for source, size in enumerate(sizes):
        part = mine if source == dist.get_rank(group) else mine.new_empty(size, *mine.shape[1:])
        if part.numel():
            dist.broadcast(part, group=group, group_src=source)
        parts.append(part)
    return parts


def from_rank(
    source: int, rows: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype, group: Any
) -> Tensor:
    """``rows`` of rank ``source``, of this shape and dtype, on every rank; None on the others."""
    part = torch.empty(shape, dtype=dtype)
    if rows is not None:
        part.copy_(rows)
    if part.numel():
        dist.broadcast(part, group=group, group_src=source)
    return part


def exchange(rows: Tensor, sent: list[int], received: list[int], group: Any) -> Tensor:
    """Rows for other ranks against theirs: the first sent[0] go to rank 0 and so on; received[r] come from rank r, in
    the order of the ranks."""
    found = rows.new_empty(sum(received), *rows.shape[1:])
    dist.all_to_all_single(found, rows.contiguous(), received, sent, group=group)
    return found


def total(part: Tensor, group: Any) -> Tensor:
    """The sum over the ranks, in place. Only for what adds up exactly: integers, and reals that all ranks but one have
    as 0."""
    if part.numel():
        dist.all_reduce(part, group=group)
    return part


def any_bits(part: Tensor, group: Any) -> Tensor:
    """The bits that some rank has, in place."""
    if part.numel():
        dist.all_reduce(part, dist.ReduceOp.BOR, group=group)
    return part


def all_raise(error: Exception | None, group: Any) -> None:
    """Ends every rank alike where one has an error: with the error itself there, with its text and the number of the
    rank on the others. Called by all of them."""
    texts: list[str | None] = [None] * dist.get_world_size(group)
    dist.all_gather_object(texts, None if error is None else str(error), group=group)
    if error is not None:
        raise error
    for rank, text in enumerate(texts):
        if text is not None:
            raise ValueError(f"{text} (on rank {rank})")
