# SPDX-License-Identifier: Apache-2.0
"""From the ranks of a query's matches to its figures: what csrc/common/relevance.h does for each query, for many."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from fastreid_ops.ops._relevance import ABSENT_PID, ALL_DROPPED, BY_QUERY, VALID, Rules


def empty(queries: int, rules: Rules) -> tuple[Tensor, Tensor, Tensor]:
    """Zeros to be filled: AP and INP (2, Q) float64; first_rank, cmc_rank, num_relevant, status and 0 (5, Q) int64;
    what each query adds at each rank (Q, max_rank) float64, without rows where the CMC follows from cmc_rank."""
    shares = queries if rules.cmc in BY_QUERY else 0
    return (
        torch.zeros(2, queries, dtype=torch.float64),
        torch.zeros(5, queries, dtype=torch.int64),
        torch.zeros(shares, rules.max_rank, dtype=torch.float64),
    )


def of_ranks(
    offsets: Tensor, ranks: Tensor, present: Tensor, rules: Rules, others: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """As `empty`, filled.

    Args:
        offsets: (Q + 1,) where each query's matches begin.
        ranks: (matches,) 1-based, ascending in each query.
        present: (Q,) whether the gallery has the query's pid.
        others: (Q,) other pids ahead of the first match, for cmc="unique_pid".
    """
    reals, counts, shares = empty(len(present), rules)
    size = offsets.diff()
    row = torch.repeat_interleave(size)
    number = torch.arange(1, len(ranks) + 1) - offsets[row]
    n, r = number.double(), ranks.double()
    terms = n / r
    if rules.ap == "trapezoid":
        terms = (torch.where(ranks > 1, (n - 1) / (r - 1), 1.0) + terms) * 0.5
    valid = size > 0
    first, last = ranks[offsets[:-1][valid]], ranks[offsets[1:][valid] - 1]
    reals[0, valid] = torch.from_numpy(_sums(terms.numpy(), offsets.numpy()))[valid] / size[valid]
    reals[1, valid] = size[valid].double() / last.double()
    counts[0, valid] = counts[1, valid] = first
    if rules.cmc == "unique_pid":
        counts[1, valid] = 1 + others[valid]
    counts[2] = size
    counts[3] = torch.where(valid, VALID, torch.where(present, ALL_DROPPED, ABSENT_PID))
    if rules.cmc == "all_hits":
        place = ranks - number
        inside = place < rules.max_rank
        hits = torch.bincount(
            row[inside] * rules.max_rank + place[inside], minlength=len(present) * rules.max_rank
        )
        shares = hits.view(-1, rules.max_rank).double() / size.clamp(min=1)[:, None]
    return reals, counts, shares


def _sums(terms: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The sum of each stretch, added up one after the other, as the kernels do."""
    found = np.zeros(len(offsets) - 1)
    for q, (begin, end) in enumerate(pairwise(offsets.tolist())):
        if end > begin:
            found[q] = np.add.accumulate(terms[begin:end])[-1]
    return found
