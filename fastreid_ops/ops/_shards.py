# SPDX-License-Identifier: Apache-2.0
"""Work shared out by rows over the ranks of a torch.distributed group.

Every rank calls with the same inputs, computes its own contiguous share of the rows and ends up with all of them, so
results do not depend on the number of ranks.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fastreid_ops.ops import _checks


def check_group(op: str, group: object) -> None:
    """A process group of torch.distributed that this rank belongs to, or None."""
    if group is None:
        return
    if not dist.is_available() or not isinstance(group, dist.ProcessGroup):
        raise TypeError(
            _checks.message(op, "group", type(group).__name__, "None or a torch.distributed.ProcessGroup")
        )
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
    bounds = [total * rank // ranks for rank in range(ranks + 1)]
    longest = max(end - begin for begin, end in pairwise(bounds))
    padded = mine.new_zeros(longest, *mine.shape[1:])
    padded[: mine.shape[0]] = mine
    parts = [torch.empty_like(padded) for _ in range(ranks)]
    dist.all_gather(parts, padded, group=group)
    sizes = [end - begin for begin, end in pairwise(bounds)]
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])
