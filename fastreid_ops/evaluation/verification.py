# SPDX-License-Identifier: Apache-2.0
"""Verification: is this pair of images one person? Rates at given error rates, from a distance matrix, by counting
what lies beyond a few thresholds instead of sorting every pair."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastreid_ops.evaluation.evaluate import Labels, arguments
from fastreid_ops.evaluation.protocols import Protocol
from fastreid_ops.evaluation.protocols import protocol as find_protocol
from fastreid_ops.ops import _checks, _relevance

CONVENTIONS = ("tar_at_far", "fastreid")
_OP = "tpr_at_fpr"
# Entries of the matrix looked at together.
_CHUNK = 1 << 22


class Verification(NamedTuple):
    """What `tpr_at_fpr` returns; tuples with one entry for each rate asked for.

    Attributes:
        convention: "tar_at_far" or "fastreid".
        asked: the rates asked for.
        fpr: the rates they are read at.
        tpr: what they give.
        genuine, impostor: pairs of one person, pairs of two, that the protocol keeps.
    """

    convention: str
    asked: tuple[float, ...]
    fpr: tuple[float, ...]
    tpr: tuple[float, ...]
    genuine: int
    impostor: int


def tpr_at_fpr(
    distance: Tensor,
    query: Labels,
    gallery: Labels,
    protocol: str | Protocol = "market1501",
    *,
    fprs: Sequence[float] = (1e-4, 1e-3, 1e-2),
    convention: str = "tar_at_far",
) -> Verification:
    """True positive rates at false positive rates over all (query, gallery) pairs that the protocol keeps.

    ``convention`` says what is positive:

    * ``"tar_at_far"``, as in biometrics: a pair is accepted where its distance lies below a threshold. fpr is the
      fraction of impostor pairs that are accepted, tpr the fraction of genuine ones, at the largest threshold for
      which fpr does not exceed the rate asked for.
    * ``"fastreid"``, what fast-reid prints as TPR@FPR: an impostor pair counts as positive, and is found where its
      distance is at least a threshold. fpr is the fraction of genuine pairs found by mistake, tpr that of impostors
      found; both at the point of scikit-learn's ``roc_curve`` (which leaves out points on straight lines) whose fpr
      is nearest to the rate asked for. This is 1 - FAR at a false rejection rate, and another figure.

    Shapes: distance (Q, G), small = close, float32, float64, bfloat16 or float16; the labels that the protocol
        reads, as in `evaluate`. Only its rules about what is dropped count.
    NaN: refused, and Inf, counted and located.
    Ties: pairs at one distance are accepted together or not at all.
    Determinism: counts, so exact; the rates are quotients of two of them in float64.
    Memory: a few copies of 4 million entries; the genuine distances; for "tar_at_far" 1.5 to 3 times the largest
        rate of all distances.

    Raises:
        TypeError, ValueError: as `evaluate`; a rate outside of 0 to 1; no genuine or no impostor pair.
    """
    rules = find_protocol(protocol)
    _checks.choice(_OP, "convention", convention, CONVENTIONS)
    asked = _rates(fprs)
    _checks.floating(_OP, "distance", _checks.tensor(_OP, "distance", distance))
    _checks.rank(_OP, "distance", distance, 2, "(Q, G)")
    given = arguments(rules, query, gallery)
    sides = _relevance.Sides(**{name: given[name] for name in _relevance.Sides._fields})
    op_rules = _relevance.Rules(**rules.rules())
    sizes = distance.shape[0], distance.shape[1]
    _relevance.check_sides(_OP, op_rules, sides, sizes, "distance", distance)
    _checks.finite(_OP, "distance", distance)
    sides = _relevance.as_int64(_OP, op_rules, sides)

    pairs = _Pairs(distance.detach(), sides, op_rules)
    if pairs.genuine.numel() == 0 or pairs.impostors == 0:
        got = f"{pairs.genuine.numel()} genuine and {pairs.impostors} impostor pairs"
        raise ValueError(_checks.message(_OP, "distance", got, "at least one of each"))
    found = (_tar_at_far if convention == "tar_at_far" else _as_fastreid)(pairs, asked)
    fpr, tpr = zip(*found, strict=True)
    return Verification(convention, asked, fpr, tpr, pairs.genuine.numel(), pairs.impostors)


class _Pairs:
    """The matrix by kinds of pairs. Pairs of one person are few: they are listed; what is left are impostors.

    Attributes:
        genuine: distances of the kept pairs of one person, ascending.
        impostors: number of kept pairs of two.
    """

    def __init__(self, distance: Tensor, sides: _relevance.Sides, rules: _relevance.Rules) -> None:
        self.distance = distance
        native = _relevance.native(rules, sides)
        counts = native.end - native.begin
        self.offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
        self.row = torch.repeat_interleave(counts)
        place = torch.arange(self.row.shape[0], device=distance.device)
        self.column = native.members[place - self.offsets[self.row] + native.begin[self.row]]
        # Labels pair by pair: what `dropped` says of a query and a gallery, said of two columns.
        labels = [
            None if value is None else value[self.row if name.startswith("query") else self.column]
            for name, value in zip(sides._fields, sides, strict=True)
        ]
        kept = ~_relevance.dropped(slice(None), rules, _relevance.Sides(*labels))
        values = distance[self.row, self.column].to(_wide(distance))
        self.genuine = values[kept].sort().values
        self.query_class, self.gone = native.query_class, None
        self.impostors = distance.shape[0] * distance.shape[1] - self.row.shape[0]
        if native.excluded is not None:
            bits = native.excluded.view(torch.uint8)[:, :, None] >> torch.arange(
                8, dtype=torch.uint8, device=distance.device
            )
            self.gone = (bits & 1).bool().flatten(1)[:, : distance.shape[1]]
            self.impostors -= int(self.gone.sum(1)[self.query_class].sum())
            self.impostors += int(self.gone[self.query_class[self.row], self.column].sum())

    def chunks(self, fill: float, step: int = 1) -> Iterator[Tensor]:
        """Distances of all pairs, some rows at a time, every ``step``-th row, with ``fill`` where the pair is no
        kept pair of two."""
        queries, gallery = self.distance.shape
        rows = max(1, _CHUNK // gallery) if step == 1 else 1
        for first in range(0, queries, max(rows, step)):
            last = min(first + rows, queries)
            values = self.distance[first:last].to(_wide(self.distance), copy=True)
            here = slice(int(self.offsets[first]), int(self.offsets[last]))
            values[self.row[here] - first, self.column[here]] = fill
            if self.gone is not None:
                values.masked_fill_(self.gone[self.query_class[first:last]], fill)
            yield values.flatten()


def _rates(fprs: Sequence[float]) -> tuple[float, ...]:
    rates = tuple(fprs) if isinstance(fprs, Sequence) else ()
    numbers = all(isinstance(rate, float | int) and not isinstance(rate, bool) for rate in rates)
    if not rates or not numbers:
        raise TypeError(_checks.message(_OP, "fprs", repr(fprs), "a tuple or list of numbers"))
    if not all(0 <= rate <= 1 for rate in rates):
        raise ValueError(_checks.message(_OP, "fprs", repr(fprs), "rates from 0 to 1"))
    return tuple(map(float, rates))


def _wide(distance: Tensor) -> torch.dtype:
    """Where the half types are exact and every function exists."""
    return torch.float64 if distance.dtype == torch.float64 else torch.float32


def _tar_at_far(pairs: _Pairs, asked: tuple[float, ...]) -> list[tuple[float, float]]:
    """The threshold is an impostor's distance, the first one too many; what lies below is accepted."""
    impostor = pairs.impostors
    allowed = [min(int(rate * impostor), impostor) for rate in asked]
    needed = min(max(allowed) + 1, impostor)
    nearest = _nearest_impostors(needed, pairs)
    found = []
    for count in allowed:
        if count == impostor:
            found.append((1.0, 1.0))
            continue
        threshold = nearest[count]
        accepted = int(torch.searchsorted(nearest, threshold))
        genuine = int(torch.searchsorted(pairs.genuine, threshold))
        found.append((accepted / impostor, genuine / pairs.genuine.numel()))
    return found


def _nearest_impostors(needed: int, pairs: _Pairs) -> Tensor:
    """The smallest impostor distances in order, at least so many of them: those below a bound that some rows
    suggest."""
    infinity = float("inf")
    step = 1 + pairs.distance.shape[0] // 64
    sample = torch.cat([values[values < infinity] for values in pairs.chunks(infinity, step)]).sort().values
    share = 1.5 * needed / pairs.impostors
    while True:
        place = int(share * sample.numel()) + 16
        bound = sample[place].item() if place < sample.numel() else torch.finfo(sample.dtype).max
        below = torch.cat([values[values <= bound] for values in pairs.chunks(infinity)])
        if below.numel() >= needed:
            return below.sort().values
        share *= 2


def _as_fastreid(pairs: _Pairs, asked: tuple[float, ...]) -> list[tuple[float, float]]:
    """The points of the curve that matter lie at genuine distances, descending: behind each of them, false positives
    stay the same until the next. Only those near the rates are counted out."""
    levels, ties = torch.unique_consecutive(pairs.genuine.flip(0), return_counts=True)
    rates = (ties.cumsum(0).to(torch.float64) / pairs.genuine.numel()).tolist()
    ties, reach = ties.tolist(), 4
    while True:
        windows = []
        for rate in asked:
            middle = sum(value < rate for value in rates)
            windows.append(range(max(0, middle - reach), min(len(rates), middle + reach)))
        kept = _kept_points(levels, ties, sorted({i for window in windows for i in window}), pairs)
        found = []
        for rate, window in zip(asked, windows, strict=True):
            points = [(rates[i], kept[i]) for i in window if i in kept]
            low = window.start == 0 or any(point[0] <= rate for point in points)
            high = window.stop == len(rates) or any(point[0] >= rate for point in points)
            if not (low and high):
                break
            if window.start == 0:
                points.insert(0, (0.0, 0.0))  # roc_curve begins with it
            found.append(min(points, key=lambda point, rate=rate: abs(point[0] - rate)))
        if len(found) == len(asked):
            return found
        reach *= 4


def _kept_points(levels: Tensor, ties: list[int], wanted: list[int], pairs: _Pairs) -> dict[int, float]:
    """tpr at these levels, without the points that roc_curve leaves out: those between two equal steps."""
    last = len(ties) - 1
    needed = sorted({i for at in wanted for i in (at, min(at + 1, last))})
    counts = _impostors_from(levels[torch.tensor(needed, device=levels.device)], pairs)
    at_least, above = (dict(zip(needed, values, strict=True)) for values in counts)
    kept = {}
    for i in wanted:
        step = ties[i], at_least[i] - above[i]
        starts = i == 0 and above[i] == 0
        if i < last and not starts and above[i + 1] == at_least[i]:
            next_step = ties[i + 1], at_least[i + 1] - above[i + 1]
            if step == next_step:
                continue
        kept[i] = at_least[i] / pairs.impostors
    return kept


def _impostors_from(levels: Tensor, pairs: _Pairs) -> tuple[list[int], list[int]]:
    """Impostor pairs at a distance of at least, and of more than, each of these levels."""
    infinity = torch.full((), float("inf"), dtype=levels.dtype, device=levels.device)
    over = torch.nextafter(levels, infinity)
    edges = torch.cat([levels, over]).unique()
    counts = torch.zeros(edges.numel() + 1, dtype=torch.int64, device=levels.device)
    for values in pairs.chunks(-float("inf")):
        places = torch.bucketize(values, edges, right=True, out_int32=True)
        counts += torch.bincount(places, minlength=counts.numel())
    beyond = counts.flip(0).cumsum(0).flip(0)[1:]
    return tuple(beyond[torch.searchsorted(edges, edge)].tolist() for edge in (levels, over))
