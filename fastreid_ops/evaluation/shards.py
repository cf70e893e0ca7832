# SPDX-License-Identifier: Apache-2.0
"""A whole protocol where features lie on several ranks: each keeps its own rows, and all get the results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from fastreid_ops.evaluation._protocol import Protocol
from fastreid_ops.evaluation.draws import Draws, Side
from fastreid_ops.evaluation.evaluate import Labels, arguments, as_result
from fastreid_ops.evaluation.features import RankedList, listed
from fastreid_ops.evaluation.rankings import Ranking, ranking_from_indices
from fastreid_ops.evaluation.result import Result
from fastreid_ops.evaluation.tracklets import pool_tracklets
from fastreid_ops.evaluation.trials import Trials
from fastreid_ops.ops import _checks, _relevance, _shards
from fastreid_ops.ops._rank_shards import check_shard, neighbours_of_shards, rank_shards
from fastreid_ops.ops._shards import Shard
from fastreid_ops.ops.nearest import from_squared

_OP = "evaluate_shards"
# Queries listed at a time, frames pooled at a time.
_ROWS = 256
_FRAMES = 4096


class TrialShards(NamedTuple):
    """One trial, this rank's share of it.

    Attributes:
        query, gallery: own rows of (q, D) and (g, D) features.
        query_labels, gallery_labels: of all q and g entries, as are
        query_rows, gallery_rows: (q,) and (g,), the row that each stands for, of the columns that were drawn from.
    """

    query: Shard
    gallery: Shard
    query_labels: Labels
    gallery_labels: Labels
    query_rows: Tensor
    gallery_rows: Tensor


def evaluate_shards(
    drawn: Draws, query: Shard, gallery: Shard, *, metric: str = "euclidean", group: Any
) -> Result | Trials:
    """`evaluate_protocol` after its `draw`, of features that are spread over the ranks of ``group``. All ranks call,
    with the same draws; each gets the whole result, to the bits of one process with all features.

    Args:
        query, gallery: this rank's features of either side; ``place`` has their rows of the columns that were drawn
            from, ``total`` how many rows those have. A row that is on no rank has no feature.
        metric: as `evaluate_features`.
        group: a torch.distributed group for tensors on the CPU (gloo).

    *Shapes*, *NaN*, *Ties*, *Determinism*: as `fastreid_ops.rank_features`.
    *Memory*: of R ranks with equal shares, each has (n + m) / R features, those of one trial once more where it does
    not take all, packed ones of them as `rank_features`; a block of at most 2,048 queries, from whichever rank; labels
    of all rows. Where tracklets are pooled, blocks of 4,096 frames travel. No rank ever has the whole gallery.

    Raises:
        TypeError, ValueError: as `evaluate_protocol`, on every rank.
    """
    results = []
    for number, trial in enumerate(trial_shards(drawn, query, gallery, group)):
        try:
            given = arguments(drawn.protocol, trial.query_labels, trial.gallery_labels)
            sides, rules = _split(given)
            found = rank_shards(trial.query, trial.gallery, sides, rules, metric=metric, group=group)
            result = as_result(found, drawn.protocol, trial.gallery.total)
        except (TypeError, ValueError) as error:
            if len(drawn.trials) == 1:
                raise
            raise type(error)(f"{_OP}: trial {number}: {error}") from error
        results.append(replace(result, protocol=drawn.protocol))
    return results[0] if drawn.protocol.trials == 1 else Trials(tuple(results))


def trial_shards(drawn: Draws, query: Shard, gallery: Shard, group: Any) -> Iterator[TrialShards]:
    """What each trial compares with what, one trial at a time; arguments as `evaluate_shards`."""
    _shards.check_group(_OP, group, needed=True)
    entries = [
        _entries(name, drawn, side, shard, group)
        for name, side, shard in (("query", drawn.query, query), ("gallery", drawn.gallery, gallery))
    ]
    for number, trial in enumerate(drawn.trials):
        parts = []
        for name, side, (shard, there), index in zip(
            ("query", "gallery"), (drawn.query, drawn.gallery), entries, trial, strict=True
        ):
            index = index[there[index]]
            if not len(index):
                raise ValueError(f"{_OP}: {name}: got no row with a feature in trial {number}, expected some")
            row_of = torch.full((shard.total,), -1)
            row_of[shard.place] = torch.arange(len(shard.place))
            rows = row_of[index]
            place = (rows >= 0).nonzero().flatten()
            rows = rows[place]
            whole = len(rows) == len(shard.place) and bool((rows == torch.arange(len(rows))).all())
            values = shard.values if whole else shard.values[rows]
            labels = Labels(*(None if v is None else v[index] for v in side.labels))
            parts.append((Shard(values, place, len(index)), labels, side.first[index]))
        (q, q_labels, q_rows), (g, g_labels, g_rows) = parts
        yield TrialShards(q, g, q_labels, g_labels, q_rows, g_rows)


def ranked_lists_from_shards(
    trial: TrialShards, protocol: Protocol, k: int, *, metric: str, group: Any
) -> list[RankedList]:
    """`ranked_lists_from_features` of a trial, the same on every rank. Memory: as `evaluate_shards`, 256 queries at a
    time."""
    sides, rules = _split(arguments(protocol, trial.query_labels, trial.gallery_labels))
    sides = _relevance.as_int64("ranked_lists_from_shards", rules, sides)
    lists: dict[int, RankedList] = {}
    size = trial.gallery.total

    def dropped(place: Tensor) -> Tensor:
        return torch.stack([_relevance.dropped(q, rules, sides) for q in place.tolist()])

    def wide(place: Tensor) -> int:
        return min(size, k + int(dropped(place).sum(1).max()))

    found = neighbours_of_shards(trial.query, trial.gallery, wide, _ROWS, metric=metric, group=group)
    for place, near in found:
        part = listed(dropped(place), near.indices, from_squared(near.squared, metric), k)
        lists.update(zip(place.tolist(), part, strict=True))
    return [lists[q] for q in range(trial.query.total)]


def ranking_from_shards(
    trial: TrialShards,
    query_names: Sequence[str],
    gallery_names: Sequence[str],
    top: int,
    *,
    metric: str,
    group: Any,
) -> Ranking:
    """`ranking_from_features` of a trial, the same on every rank. Memory: as `evaluate_shards`, 256 queries at a time,
    and the result's indices."""
    wide = min(top, trial.gallery.total)
    indices = torch.empty(trial.query.total, wide, dtype=torch.int64)
    for place, near in neighbours_of_shards(
        trial.query, trial.gallery, lambda place: wide, _ROWS, metric=metric, group=group
    ):
        indices[place] = near.indices
    return ranking_from_indices(indices, query_names, gallery_names)


def _split(given: dict[str, Any]) -> tuple[_relevance.Sides, _relevance.Rules]:
    sides = _relevance.Sides(**{name: given.pop(name) for name in _relevance.Sides._fields})
    return sides, _relevance.Rules(**given)


def _entries(name: str, drawn: Draws, side: Side, shard: Shard, group: Any) -> tuple[Shard, Tensor]:
    """(own features of the entries, (T,) bool: whether some rank has one)."""
    count = len(side.first) if side.entry is None else len(side.entry)
    fault = None
    try:
        check_shard(_OP, name, shard)
        if shard.total != count:
            raise ValueError(
                _checks.message(_OP, name, f"total {shard.total}", f"{count}, the rows drawn from")
            )
        _checks.finite(_OP, name, shard.values)  # while rows still have the caller's numbers
    except (TypeError, ValueError) as error:
        fault = error
    _shards.all_raise(fault, group)
    holder = _holders(name, shard, group)
    if side.entry is None:
        return shard, holder >= 0
    there = torch.zeros(len(side.first), dtype=torch.bool)
    there[side.entry[holder >= 0]] = True
    return _pooled(shard, side.entry, holder, len(there), drawn.protocol, group), there


def _holders(name: str, shard: Shard, group: Any) -> Tensor:
    """(total,) the rank that has each row, -1 where none has."""
    holder = torch.full((shard.total,), -1)
    for rank, place in enumerate(_shards.gather_unequal(shard.place, group)):
        if bool((holder[place] >= 0).any()):
            raise ValueError(_checks.message(_OP, name, "a row on two ranks", "each row on one"))
        holder[place] = rank
    return holder


def _pooled(shard: Shard, entry: Tensor, holder: Tensor, count: int, rules: Protocol, group: Any) -> Shard:
    """Own tracklets. All frames of one come to one rank and are added up there in order, some tracklets at a time.
    Ranks get as many frames as they hold, and where frames of a tracklet lie side by side, few travel."""
    rank, ranks = dist.get_rank(group), dist.get_world_size(group)
    rows = (holder >= 0).nonzero().flatten()
    size = torch.bincount(entry[rows], minlength=count)
    before = size.cumsum(0) - size
    held = torch.bincount(holder[rows], minlength=ranks).cumsum(0)
    goal = torch.searchsorted(held, before + size // 2, right=True).clamp(max=ranks - 1)
    turn = (before // _FRAMES)[entry[rows]]
    row_of = torch.full((shard.total,), -1)
    row_of[shard.place] = torch.arange(len(shard.place))

    own = ((goal == rank) & (size > 0)).nonzero().flatten()
    found = shard.values.new_empty(len(own), shard.values.shape[1])
    for some in rows[torch.sort(turn, stable=True).indices].split(torch.bincount(turn).tolist()):
        source, target = holder[some], goal[entry[some]]
        stay = some[(source == rank) & (target == rank)]
        leaving = [some[(source == rank) & (target == other)] for other in range(ranks)]
        coming = [some[(source == other) & (target == rank)] for other in range(ranks)]
        leaving[rank] = coming[rank] = some[:0]
        values = shard.values[row_of[stay]]
        if bool((source != target).any()):
            sizes = [[len(part) for part in parts] for parts in (leaving, coming)]
            came = _shards.exchange(shard.values[row_of[torch.cat(leaving)]], *sizes, group)
            stay, order = torch.cat([stay, *coming]).sort()
            values = torch.cat([values, came])[order]
        tracklets, number = entry[stay].unique(return_inverse=True)
        pooled, _ = pool_tracklets(
            values, number, len(tracklets), rules.tracklets, normalise=rules.normalise_tracklets
        )
        found[torch.searchsorted(own, tracklets)] = pooled
    return Shard(found, own, count)
