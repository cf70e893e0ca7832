# SPDX-License-Identifier: Apache-2.0
"""Ranking and search where neither the queries nor the gallery lie on one rank.

Rows stay where they are; queries travel, a block at a time, to all ranks. A rank of a query's match is a number of
gallery entries, and numbers of parts add up: the ranks tell each other the distances of the matches (few), count their
own entries in front of each, and add the counts. So the bits are those of one process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from fastreid_ops import _library
from fastreid_ops.ops import _checks, _rank_rows, _ranking_reference, _relevance, _shards, nearest
from fastreid_ops.ops._relevance import Rules, Sides
from fastreid_ops.ops._shards import Shard
from fastreid_ops.ops.distance import METRICS
from fastreid_ops.ops.ranking import RankMetrics

_OP = "rank_shards"
_LIBRARY = _library.load()
# Queries that travel at a time: packing the own rows for a block costs as much as some hundred queries of it.
_QUERIES = 2048
# Multiplications for a block, as in feature_ranking.py, and listed pairs of one person.
_PART = 5e11
_PAIRS = 2**22
# Bytes of the blocks of distances where the rules need whole rows of them.
_BLOCK = 256 * 2**20


class Block(NamedTuple):
    """Some queries, on every rank: ``place`` (q,) in their order and ``values`` (q, D)."""

    place: Tensor
    values: Tensor


def rank_shards(
    query: Shard, gallery: Shard, sides: Sides, rules: Rules, *, metric: str = "euclidean", group: Any
) -> RankMetrics:
    """`rank_features` of rows that are spread over the ranks of ``group``; every rank gets the whole result.

    Args:
        query, gallery: this rank's rows of either; together the ranks have all of them.
        sides: the labels of all queries and of the whole gallery, the same on every rank.
        metric: as `rank_features`.
        group: a torch.distributed group for tensors on the CPU (gloo).

    *Shapes*: query.values (q, D) and gallery.values (g, D) on the CPU, of one dtype and D on all
    ranks; q or g may be 0.

    *NaN*: NaN and Inf are refused, on every rank.

    *Ties*, *Determinism*: as `rank_features`: the same bits for any number of ranks and any way to share out the rows.

    *Memory*: own rows, packed as by `rank_features`, (2 D + 28) bytes each; a block of at most 2,048 queries from
    whichever rank; labels, 8 bytes for each of all rows; 4 million pairs of one person at a time.
    ``cmc="single_gallery_shot"``: a float64 copy of the own rows and, of R ranks, 3 x 256 / R MiB of distances.

    Raises:
        TypeError, ValueError: as `rank_features`, on every rank: the ranks without the error name the one that has it.
    """
    _shards.check_group(_OP, group, needed=True)
    _shards.all_raise(_fault(query, gallery, sides, rules, metric), group)
    places = places_of(_OP, {"query": query, "gallery": gallery}, group)
    sides = _relevance.as_int64(_OP, rules, sides)
    if rules.cmc == "single_gallery_shot" or not _LIBRARY.native:
        reals, counts, shares = _by_rows(query, gallery, places, sides, rules, metric, group)
    else:
        angular = metric in nearest.ANGULAR
        reals, counts, shares = _by_counts(query, gallery, places[0], sides, rules, angular, group)
    _relevance.check_matches(_OP, rules, counts[3])
    if not _LIBRARY.native:
        return RankMetrics(*_ranking_reference.summary(reals, counts, shares, rules))
    if rules.cmc not in _relevance.BY_QUERY:
        shares = shares.new_empty(0, rules.max_rank)
    invalid = _relevance.INVALID_RULES.index(rules.invalid)
    curve, means = torch.ops.fastreid.ranking_summary(reals, counts, shares, invalid, rules.max_rank)
    first_rank, cmc_rank, num_relevant, status, _ = counts.unbind()
    return RankMetrics(curve, *means.unbind(), *reals.unbind(), first_rank, num_relevant, status, cmc_rank)


def neighbours_of_shards(
    query: Shard, gallery: Shard, k: Callable[[Tensor], int], rows: int, *, metric: str, group: Any
) -> Iterator[tuple[Tensor, nearest.Neighbours]]:
    """`neighbours` of rows that are spread over the ranks: (places of some queries, theirs) on every rank, until all
    queries have come. Indices are places in the whole gallery.

    Args:
        k: neighbours for the queries of a block, at most all there are; the same on every rank.
        rows: queries of a block.

    *Shapes*, *NaN*, errors: as `rank_shards`. *Ties*, *Determinism*: as `neighbours`. *Memory*: as `nearest` of one
    block against the own rows, and 16 k bytes for each of its queries and each rank.
    """
    _shards.check_group(_OP, group, needed=True)
    places, _ = places_of(_OP, {"query": query, "gallery": gallery}, group)
    for place, values in blocks(query, places, rows, group):
        wide = k(place)
        own = min(wide, len(gallery.place))
        squared, indices = (
            values.new_empty(len(place), own, dtype=torch.float64),
            place.new_empty(len(place), own),
        )
        if own:
            found = nearest.neighbours(values, gallery.values, own, metric=metric, check_finite=False)
            squared, indices = found.squared, gallery.place[found.indices]
        # Lists of unequal length: one row for each neighbour, so that ranks differ in their number of rows.
        squared, indices = (torch.cat(_shards.gather_unequal(part.T, group)).T for part in (squared, indices))
        by_place = torch.sort(indices, dim=1)
        order = torch.sort(squared.gather(1, by_place.indices), dim=1, stable=True)
        first = order.indices[:, :wide]
        yield (
            place,
            nearest.Neighbours(
                order.values[:, :wide], by_place.values.gather(1, first), squared.new_empty(0)
            ),
        )


def blocks(query: Shard, places: list[Tensor], rows: int, group: Any) -> Iterator[Block]:
    """All queries, those of one rank after those of another, at most ``rows`` at a time; every rank gets each block."""
    rank, depth, dtype = dist.get_rank(group), query.values.shape[1], query.values.dtype
    for source, theirs in enumerate(places):
        for first in range(0, len(theirs), rows):
            place = theirs[first : first + rows]
            mine = query.values[first : first + rows] if source == rank else None
            yield Block(place, _shards.from_rank(source, mine, (len(place), depth), dtype, group))


def _by_counts(
    query: Shard, gallery: Shard, places: list[Tensor], sides: Sides, rules: Rules, angular: bool, group: Any
) -> tuple[Tensor, Tensor, Tensor]:
    matches = _Matches(sides, rules)
    own = _own_relevance(sides, gallery, rules)
    pids, identity = torch.unique(sides.gallery_pids, return_inverse=True)
    identities = len(pids) if rules.by_identity else 0
    row_of = torch.full((gallery.total,), -1)
    row_of[gallery.place] = torch.arange(len(gallery.place))
    reals, counts, shares = _rank_rows.empty(query.total, rules)
    depth, world = query.values.shape[1], dist.get_world_size(group)
    rows = int(min(_QUERIES, _PART * world / (gallery.total * depth), _PAIRS / max(1, matches.most)))
    for place, values in blocks(query, places, max(1, rows), group):
        row, column = matches.of(place)
        squared = _distances(values, gallery.values, angular, row, row_of[column])
        _shards.total(squared, group)
        order = torch.sort(squared, stable=True).indices
        order = order[torch.sort(row[order], stable=True).indices]
        column, squared = column[order], squared[order]
        offsets = _offsets(row, len(place))
        ranks, seen = _counts(
            values,
            gallery,
            angular,
            None if own is None else _relevance.of_queries(own, place),
            rules,
            (offsets, column, squared),
            (identity, identities),
        )
        _shards.total(ranks, group)
        others = None
        if identities:
            _shards.any_bits(seen, group)
            others = _others(
                seen, torch.searchsorted(pids, sides.query_pids[place]).clamp(max=identities - 1)
            )
        found = _rank_rows.of_ranks(offsets, ranks, matches.present(place), rules, others)
        reals[:, place], counts[:, place] = found[0], found[1]
        if rules.cmc in _relevance.BY_QUERY:
            shares[place] = found[2]
    return reals, counts, shares


def _own_relevance(sides: Sides, gallery: Shard, rules: Rules) -> _relevance.NativeRelevance | None:
    """Of the own rows as if they were a gallery; None where there are none."""
    if not len(gallery.place):
        return None
    labels = [
        value[gallery.place] if name.startswith("gallery") and value is not None else value
        for name, value in sides._asdict().items()
    ]
    # Identities have the numbers of the whole gallery.
    return _relevance.native(rules._replace(cmc="first_hit"), Sides(*labels))


class _Matches:
    """Pairs of one person that the rules keep: few, and listed for some queries at a time."""

    def __init__(self, sides: Sides, rules: Rules) -> None:
        self._sides, self._rules = sides, rules
        values, self._members = torch.sort(sides.gallery_pids, stable=True)
        self._begin = torch.searchsorted(values, sides.query_pids)
        self._count = torch.searchsorted(values, sides.query_pids, right=True) - self._begin
        self.most = int(self._count.max()) if len(self._count) else 0

    def present(self, queries: Tensor) -> Tensor:
        """Whether the gallery has their pids, kept or not."""
        return self._count[queries] > 0

    def of(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """(number among these queries, place in the gallery) of each pair, ascending."""
        count = self._count[queries]
        row = torch.repeat_interleave(count)
        inside = torch.arange(len(row)) - (count.cumsum(0) - count)[row]
        column = self._members[self._begin[queries][row] + inside]
        # Labels pair by pair: what `dropped` says of a query and a gallery, said of two columns.
        labels = [
            None if value is None else value[queries[row] if name.startswith("query") else column]
            for name, value in self._sides._asdict().items()
        ]
        kept = ~_relevance.dropped(slice(None), self._rules, Sides(*labels))
        return row[kept], column[kept]


def _offsets(row: Tensor, queries: int) -> Tensor:
    return torch.nn.functional.pad(torch.bincount(row, minlength=queries).cumsum(0), (1, 0))


def _distances(query: Tensor, rows: Tensor, angular: bool, row: Tensor, at: Tensor) -> Tensor:
    """Squared distances of the pairs whose gallery row ``at`` is here; 0 for the others (-1)."""
    here = at >= 0
    squared = torch.zeros(len(at), dtype=torch.float64)
    if len(rows):
        offsets = _offsets(row[here], len(query))
        squared[here] = torch.ops.fastreid.rank_distances(query, rows, angular, offsets, at[here])
    return squared


def _counts(
    query: Tensor,
    gallery: Shard,
    angular: bool,
    relevance: _relevance.NativeRelevance | None,
    rules: Rules,
    matches: tuple[Tensor, Tensor, Tensor],
    identities: tuple[Tensor, int],
) -> tuple[Tensor, Tensor]:
    """Own kept entries up to each match, and the bits of the identities ahead of each query's first."""
    identity, number = identities
    offsets, place, squared = matches
    if relevance is None:
        return torch.zeros_like(place), place.new_zeros(len(query), -(-number // 64))
    return torch.ops.fastreid.rank_part(
        query,
        gallery.values,
        angular,
        *relevance[:-1],
        *rules.codes()[:2],
        offsets,
        place,
        squared,
        gallery.place,
        identity[gallery.place] if number else None,
        number,
    )


def _others(seen: Tensor, own: Tensor) -> Tensor:
    """(q,) the number of bits set in each row, without the query's own."""
    row = torch.arange(len(seen))
    seen[row, own >> 6] &= ~(torch.ones_like(own) << (own & 63))
    bytes_ = seen.contiguous().view(torch.uint8).to(torch.int64)
    ones = torch.tensor([value.bit_count() for value in range(256)])
    return ones[bytes_].sum(1)


def _by_rows(
    query: Shard,
    gallery: Shard,
    places: list[list[Tensor]],
    sides: Sides,
    rules: Rules,
    metric: str,
    group: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """By way of whole rows of distances, of some queries at a time, each query's on one rank: random galleries look at
    every entry. Also what runs without the native library."""
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    of_query, of_gallery = places
    relevance = _relevance.native(rules, sides)
    wide = gallery.values.double() if _LIBRARY.native else gallery.values
    reals, counts, shares = _rank_rows.empty(query.total, rules)
    if not _LIBRARY.native:
        counts, shares = counts[:4], shares.new_zeros(query.total, rules.max_rank)
    for place, values in blocks(query, of_query, max(1, _BLOCK // (8 * gallery.total)), group):
        cuts = [len(place) * each // world for each in range(world + 1)]
        own = place[cuts[rank] : cuts[rank + 1]]
        squared = _squared(values, wide, metric)
        sent = [(b - a) * squared.shape[1] for a, b in pairwise(cuts)]
        received = [len(own) * len(each) for each in of_gallery]
        parts = _shards.exchange(squared.flatten(), sent, received, group).split(received)
        whole = squared.new_empty(len(own), gallery.total)
        for columns, part in zip(of_gallery, parts, strict=True):
            whole[:, columns] = part.view(len(own), len(columns))
        for rows in _runs(own):  # random galleries follow from the number of the query
            which = own[rows]
            if _LIBRARY.native:
                some = _relevance.of_queries(relevance, slice(int(which[0]), int(which[-1]) + 1))
                _, _, *found = torch.ops.fastreid.rank_metrics(
                    whole[rows], *some, *rules.codes(), int(which[0])
                )
            else:
                found = _ranking_reference.rows(whole[rows], sides, rules, which.tolist())
            reals[:, which], counts[:, which], shares[which] = found
    for part in (reals, counts, shares):  # 0 everywhere but on one rank
        _shards.total(part, group)
    return reals, counts, shares


def _squared(query: Tensor, rows: Tensor, metric: str) -> Tensor:
    if not len(rows):
        return torch.empty(len(query), 0, dtype=torch.float64)
    if not _LIBRARY.native:
        return nearest.squared_rows(query, rows, metric)
    code = METRICS.index("cosine" if metric in nearest.ANGULAR else "sqeuclidean")
    return torch.ops.fastreid.pairwise_distance(query.double(), rows, code)


def _runs(place: Tensor) -> list[slice]:
    """Stretches of consecutive numbers."""
    if not len(place):
        return []
    edges = [0, *((place.diff() != 1).nonzero().flatten() + 1).tolist(), len(place)]
    return [slice(a, b) for a, b in pairwise(edges)]


def places_of(op: str, shards: dict[str, Shard], group: Any) -> list[list[Tensor]]:
    """The places that each rank has, of each of these. Errors, the same on every rank: ValueError for rows of different
    lengths, dtypes or totals, and for one that lies on no rank or on two."""
    mine = torch.tensor([(s.values.shape[1], s.values.element_size(), s.total) for s in shards.values()])
    every = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
    dist.all_gather(every, mine, group=group)
    found = []
    for number, (name, shard) in enumerate(shards.items()):
        alike = [each[number].tolist() for each in every]
        if any(each != alike[0] for each in alike):
            got = f"(length, bytes of an element, rows) {alike} by rank"
            raise ValueError(_checks.message(op, name, got, "the same on all of them"))
        found.append(_shards.gather_unequal(shard.place, group))
        held = torch.cat(found[-1])
        if len(held) != shard.total or len(held.unique()) != len(held):
            got = f"{len(held)} rows, {len(held.unique())} different ones"
            raise ValueError(_checks.message(op, name, got, f"each of {shard.total} on one rank"))
    return found


def _fault(
    query: Shard, gallery: Shard, sides: Sides, rules: Rules, metric: str
) -> TypeError | ValueError | None:
    """What is wrong with this rank's arguments."""
    try:
        _checks.choice(_OP, "metric", metric, METRICS)
        for name, shard in (("query", query), ("gallery", gallery)):
            check_shard(_OP, name, shard)
            _checks.same_dtype(_OP, name, shard.values, "query", query.values)
            _checks.finite(_OP, name, shard.values)
            _checks.finite_length(_OP, name, shard.values)
        _checks.size(
            _OP, "gallery", gallery.values, 1, query.values.shape[1], "the length of the rows of query"
        )
        if not gallery.total:
            raise ValueError(_checks.message(_OP, "gallery", "no row", "at least one on some rank"))
        _relevance.check_rules(_OP, rules)
        sizes = query.total, gallery.total
        _relevance.check_sides(_OP, rules, sides, sizes, "query", query.values)
    except (TypeError, ValueError) as error:
        return error
    return None


def check_shard(op: str, name: str, shard: Shard) -> None:
    """Rows on the CPU with ascending numbers below their total."""
    values, place = (_checks.tensor(op, name, part) for part in shard[:2])
    _checks.floating(op, name, values)
    _checks.rank(op, name, values, 2, "(n, D)")
    _checks.not_empty(op, name, values, 1, "the length of the rows")
    if values.device.type != "cpu":
        raise ValueError(_checks.message(op, name, f"device {values.device}", "rows on the CPU"))
    _checks.dtype(op, name, place, (torch.int64,))
    _checks.rank(op, name, place, 1, "the number of each row")
    _checks.size(op, name, place, 0, len(values), "one number for each row")
    if len(place) and not (
        int(place[0]) >= 0 and int(place[-1]) < shard.total and bool((place.diff() > 0).all())
    ):
        raise ValueError(
            _checks.message(op, name, "other numbers of rows", f"ascending ones below {shard.total}")
        )
