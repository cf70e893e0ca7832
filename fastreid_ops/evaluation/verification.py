# SPDX-License-Identifier: Apache-2.0
"""Verification: is this pair of images one person? Rates at given error rates, from a distance matrix, by counting
what lies beyond a few thresholds instead of sorting every pair."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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

    def chunks() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        return _chunks(distance.detach(), sides, op_rules)

    parts, impostor = [distance.new_empty(0, dtype=_wide(distance))], 0
    for values, genuine, other in chunks():
        parts.append(values[genuine])
        impostor += int(other.sum())
    ascending = torch.cat(parts).sort().values
    if ascending.numel() == 0 or impostor == 0:
        got = f"{ascending.numel()} genuine and {impostor} impostor pairs"
        raise ValueError(_checks.message(_OP, "distance", got, "at least one of each"))
    found = (_tar_at_far if convention == "tar_at_far" else _as_fastreid)(ascending, impostor, chunks, asked)
    fpr, tpr = zip(*found, strict=True)
    return Verification(convention, asked, fpr, tpr, ascending.numel(), impostor)


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


def _chunks(
    distance: Tensor, sides: _relevance.Sides, rules: _relevance.Rules
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Some rows at a time: (distances, which pairs are genuine, which are impostors)."""
    rows = max(1, _CHUNK // max(distance.shape[1], 1))
    for first in range(0, distance.shape[0], rows):
        part = slice(first, first + rows)
        here = _relevance.Sides(
            *(
                None if value is None else (value[part, None] if name.startswith("query") else value)
                for name, value in zip(sides._fields, sides, strict=True)
            )
        )
        same = here.query_pids == here.gallery_pids
        kept = ~_relevance.dropped(slice(None), rules, here)
        yield distance[part].to(_wide(distance)), same & kept, ~same & kept


_Chunks = Callable[[], Iterator[tuple[Tensor, Tensor, Tensor]]]


def _tar_at_far(
    ascending: Tensor, impostor: int, chunks: _Chunks, asked: tuple[float, ...]
) -> list[tuple[float, float]]:
    """The threshold is an impostor's distance, the first one too many; what lies below is accepted."""
    allowed = [min(int(rate * impostor), impostor) for rate in asked]
    needed = min(max(allowed) + 1, impostor)
    nearest = _nearest_impostors(needed, impostor, chunks)
    found = []
    for count in allowed:
        if count == impostor:
            found.append((1.0, 1.0))
            continue
        threshold = nearest[count]
        accepted = int(torch.searchsorted(nearest, threshold))
        genuine = int(torch.searchsorted(ascending, threshold))
        found.append((accepted / impostor, genuine / ascending.numel()))
    return found


def _nearest_impostors(needed: int, impostor: int, chunks: _Chunks) -> Tensor:
    """The smallest impostor distances in order, at least so many of them: those below a bound that a sample
    suggests."""
    sample = torch.cat([values[::64][other[::64]] for values, _, other in chunks()]).sort().values
    share = 1.5 * needed / impostor
    while True:
        place = int(share * sample.numel()) + 16
        bound = sample[place].item() if place < sample.numel() else float("inf")
        below = torch.cat([values[other & (values <= bound)] for values, _, other in chunks()])
        if below.numel() >= needed:
            return below.sort().values
        share *= 2


def _as_fastreid(
    ascending: Tensor, impostor: int, chunks: _Chunks, asked: tuple[float, ...]
) -> list[tuple[float, float]]:
    """The points of the curve that matter lie at genuine distances, descending: behind each of them, false positives
    stay the same until the next. Only those near the rates are counted out."""
    levels, ties = torch.unique_consecutive(ascending.flip(0), return_counts=True)
    rates = (ties.cumsum(0).to(torch.float64) / ascending.numel()).tolist()
    ties, found = ties.tolist(), []
    for rate in asked:
        middle, reach = sum(value < rate for value in rates), 8
        while True:
            first, last = max(0, middle - reach), min(len(rates), middle + reach)
            kept = _kept_points(levels, ties, first, last, impostor, chunks)
            low = first == 0 or any(rates[i] <= rate for i, _ in kept)
            high = last == len(rates) or any(rates[i] >= rate for i, _ in kept)
            if low and high:
                break
            reach *= 4
        points = [(rates[i], tpr) for i, tpr in kept]
        if first == 0:
            points.insert(0, (0.0, 0.0))  # roc_curve begins with it
        found.append(min(points, key=lambda point: abs(point[0] - rate)))
    return found


def _kept_points(
    levels: Tensor, ties: list[int], first: int, last: int, impostor: int, chunks: _Chunks
) -> list[tuple[int, float]]:
    """(level, tpr) of levels first to last - 1, without the points that roc_curve leaves out: those between two equal
    steps."""
    end = min(last + 1, len(ties))
    at_least, above = _impostors_from(levels[first:end], chunks)
    kept = []
    for i in range(first, last):
        here = i - first
        tied = at_least[here] - above[here]
        if i + 1 < len(ties):
            between = above[here + 1] - at_least[here]
            equal_step = (ties[i], tied) == (ties[i + 1], at_least[here + 1] - above[here + 1])
            middle = between == 0 and equal_step and (i > 0 or above[here] > 0)
        else:
            middle = False
        if not middle:
            kept.append((i, at_least[here] / impostor))
    return kept


def _impostors_from(levels: Tensor, chunks: _Chunks) -> tuple[list[int], list[int]]:
    """Impostor pairs at a distance of at least, and of more than, each of these descending levels."""
    infinity = torch.full((), float("inf"), dtype=levels.dtype, device=levels.device)
    edges = torch.stack([levels, torch.nextafter(levels, infinity)], 1).flatten().sort().values
    counts = torch.zeros(edges.numel() + 1, dtype=torch.int64, device=levels.device)
    for values, _, other in chunks():
        places = torch.bucketize(values, edges, right=True, out_int32=True)
        counts += torch.bincount(places[other], minlength=counts.numel())
    beyond = counts.flip(0).cumsum(0).flip(0)[1:]
    at_least = beyond[torch.searchsorted(edges, levels)]
    above = beyond[torch.searchsorted(edges, torch.nextafter(levels, infinity))]
    return at_least.tolist(), above.tolist()
