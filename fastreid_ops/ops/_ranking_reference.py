# SPDX-License-Identifier: Apache-2.0
"""`rank_metrics` in plain torch. Same bits as the kernels: every sum in their order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastreid_ops.ops._relevance import ABSENT_PID, ALL_DROPPED, VALID, Rules, Sides, dropped

# Interleaved partial sums of a mean: see _sum_in_lanes.
SUM_LANES = 256
# A probability below this is taken as 0.
_NO_PROBABILITY = 1e-280
_WORD = 2**64 - 1
_STEP = 0x9E3779B97F4A7C15


def metrics(distance: Tensor, sides: Sides, rules: Rules) -> tuple[Tensor, ...]:
    """(cmc, mAP, mINP, ap, inp, first_rank, num_relevant, status, cmc_rank)."""
    return summary(*rows(distance, sides, rules, range(distance.shape[0])), rules)


def rows(distance: Tensor, sides: Sides, rules: Rules, which: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """AP and INP (2, Q); first_rank, cmc_rank, num_relevant and status (4, Q); what each adds to the CMC (Q,
    max_rank). Row i of the distances is query which[i]."""
    queries, max_rank = distance.shape[0], rules.max_rank
    per_query = torch.zeros(2, queries, dtype=torch.float64, device=distance.device)
    counts = torch.zeros(4, queries, dtype=torch.int64, device=distance.device)
    shares = torch.zeros(queries, max_rank, dtype=torch.float64, device=distance.device)
    identity = torch.unique(sides.gallery_pids, return_inverse=True)[1]
    for q, number in enumerate(which):
        order = torch.sort(distance[q], stable=True).indices  # NaN last, equal distances by gallery index
        match = sides.gallery_pids[order] == sides.query_pids[number]
        kept = ~dropped(number, rules, sides)[order]
        ranks = match[kept].nonzero().flatten() + 1
        matches = ranks.numel()
        if matches == 0:
            counts[3, q] = ALL_DROPPED if bool(match.any()) else ABSENT_PID
            continue
        n = torch.arange(1, matches + 1, dtype=torch.float64, device=ranks.device)
        terms = n / ranks
        if rules.ap == "trapezoid":
            before = torch.where(ranks > 1, (n - 1) / (ranks - 1), 1.0)
            terms = (before + terms) * 0.5
        per_query[0, q] = _sum_in_order(terms) / matches
        per_query[1, q] = n[-1] / ranks[-1]
        counts[0, q] = counts[1, q] = first = int(ranks[0])
        counts[2, q] = matches
        who = identity[order][kept]
        if rules.cmc == "unique_pid":
            counts[1, q] = first = 1 + torch.unique(who[: first - 1]).numel()
        if rules.cmc == "all_hits":
            places = torch.bincount(ranks - n.to(torch.int64), minlength=max_rank)[:max_rank]
            shares[q] = places.to(torch.float64) / matches
        elif rules.cmc == "single_gallery_shot":
            shares[q] = _single_gallery_shot(number, who, ranks, rules)
        elif first <= max_rank:
            shares[q, first - 1] = 1
    return per_query, counts, shares


def summary(per_query: Tensor, counts: Tensor, shares: Tensor, rules: Rules) -> tuple[Tensor, ...]:
    """`metrics` from the `rows` of all queries."""
    queries = per_query.shape[1]
    first_rank, cmc_rank, num_relevant, status = counts.unbind()
    counted = queries if rules.invalid == "zero" else int((status == VALID).sum())
    divisor = max(counted, 1)
    if rules.cmc in ("all_hits", "single_gallery_shot"):
        added = [_sum_in_lanes(share) for share in shares.T]
    else:
        added = shares.sum(0).tolist()  # whole numbers: any order
    cmc, matched = [], 0.0
    for value in added:
        matched += value
        cmc.append(matched / divisor if matched < divisor else 1.0)
    means = [
        torch.tensor(_sum_in_lanes(values) / divisor, dtype=torch.float64, device=values.device)
        for values in per_query
    ]
    cmc = torch.tensor(cmc, dtype=torch.float64, device=per_query.device)
    return (cmc, *means, *per_query.unbind(), first_rank, num_relevant, status, cmc_rank)


def _single_gallery_shot(q: int, who: Tensor, ranks: Tensor, rules: Rules) -> Tensor:
    """What query q adds to the CMC: ``who`` are the identities of the kept entries in order, the query's own at
    ``ranks``."""
    own = int(who[ranks[0] - 1])
    kept = torch.bincount(who)
    share = torch.zeros(rules.max_rank, dtype=torch.float64, device=who.device)
    for n, rank in enumerate(ranks.tolist()):
        ahead = torch.bincount(who[: rank - 1], minlength=kept.numel())
        ahead[own] = 0
        active = ahead.nonzero().flatten().tolist()
        if rules.repeats is None:
            share += _expectation([(int(ahead[i]), int(kept[i])) for i in active], rules.max_rank, share)
            continue
        for repeat in range(rules.repeats):
            counter = _counter(rules.seed, q, repeat)
            if _drawn(counter, own, ranks.numel()) != n:
                continue
            lost = sum(_drawn(counter, i, int(kept[i])) < int(ahead[i]) for i in active)
            if lost < rules.max_rank:
                share[lost] += 1
    return share / (ranks.numel() if rules.repeats is None else rules.repeats)


def _expectation(ahead: list[tuple[int, int]], max_rank: int, like: Tensor) -> Tensor:
    """The distribution of the number of identities ahead, each (entries ahead, kept entries)."""
    certain = sum(count == total for count, total in ahead)
    odds = torch.zeros_like(like)
    odds[0] = 1
    for count, total in ahead:
        if count == total:
            continue
        yes, no = count / total, (total - count) / total
        below = torch.cat([odds.new_zeros(1), odds[:-1]])
        odds = odds * no + below * yes
        odds = torch.where(odds < _NO_PROBABILITY, 0.0, odds)
    shifted = torch.zeros_like(odds)
    if certain < max_rank:
        shifted[certain:] = odds[: max_rank - certain]
    return shifted


def _mixed(x: int) -> int:
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _WORD
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _WORD
    return x ^ (x >> 31)


def _counter(seed: int, query: int, repeat: int) -> int:
    x = _mixed(_mixed(seed + _STEP & _WORD) + _STEP * query & _WORD)
    return _mixed(x + _STEP * repeat & _WORD)


def _drawn(counter: int, identity: int, kept: int) -> int:
    """Which of ``kept`` entries the random gallery holds; see csrc/ranking/ranking.h."""
    return (_mixed(counter + _STEP * (identity + 1) & _WORD) >> 32) * kept >> 32


def _sum_in_order(values: Tensor) -> float:
    total = 0.0
    for value in values.tolist():
        total += value
    return total


def _sum_in_lanes(values: Tensor) -> float:
    """Added up as the kernels do: query q goes to partial sum q % SUM_LANES in ascending order, then the upper
    half of the sums is added to the lower until one is left."""
    sums = [_sum_in_order(values[lane::SUM_LANES]) for lane in range(SUM_LANES)]
    while len(sums) > 1:
        half = len(sums) // 2
        sums = [low + high for low, high in zip(sums[:half], sums[half:], strict=True)]
    return sums[0]
