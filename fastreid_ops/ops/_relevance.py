# SPDX-License-Identifier: Apache-2.0
"""Which gallery entries count for a query: the rules of the ranking ops, checked, and as the tensors that
csrc/common/relevance.h describes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastreid_ops.ops import _checks

CAMERA_RULES = ("same_pid", "none", "same_camera")
CLOTHES_RULES = ("any", "cross", "same")
AP_RULES = ("step", "trapezoid")
CMC_RULES = ("first_hit", "unique_pid", "all_hits", "single_gallery_shot")
INVALID_RULES = ("skip", "zero")
# A query adds to more than one rank: its share is a row of its own.
BY_QUERY = ("all_hits", "single_gallery_shot")
# RankMetrics.status
VALID, ABSENT_PID, ALL_DROPPED = 0, 1, 2
SAME_CAMERA_ONLY = ALL_DROPPED  # what the rules of Market-1501 drop

LABELS = (*_checks.INTEGERS, torch.uint16, torch.uint32, torch.uint64)


class Rules(NamedTuple):
    """The keyword-only arguments that say how ranks become figures, all but the clothes labels."""

    camera_rule: str = "same_pid"
    clothes_rule: str = "any"
    junk_pids: Sequence[int] = ()
    ap: str = "step"
    cmc: str = "first_hit"
    repeats: int | None = None
    seed: int = 0
    invalid: str = "skip"
    max_rank: int = 50

    @property
    def by_identity(self) -> bool:
        return self.cmc in ("unique_pid", "single_gallery_shot")

    def codes(self) -> tuple[int, ...]:
        """As the native op takes them: camera_rule, clothes_rule, ap, cmc, invalid, max_rank, repeats,
        seed."""
        return (
            int(self.camera_rule != "same_pid"),  # same_camera is a matter of the excluded bits
            CLOTHES_RULES.index(self.clothes_rule),
            AP_RULES.index(self.ap),
            CMC_RULES.index(self.cmc),
            INVALID_RULES.index(self.invalid),
            self.max_rank,
            self.repeats or 0,
            self.seed,
        )


class Sides(NamedTuple):
    """Labels of the queries and of the gallery."""

    query_pids: Tensor
    gallery_pids: Tensor
    query_camids: Tensor | None = None
    gallery_camids: Tensor | None = None
    query_clothes: Tensor | None = None
    gallery_clothes: Tensor | None = None


class NativeRelevance(NamedTuple):
    """csrc/common/relevance.h; None where no rule reads it."""

    members: Tensor
    begin: Tensor
    end: Tensor
    query_camids: Tensor | None
    gallery_camids: Tensor | None
    query_clothes: Tensor | None
    gallery_clothes: Tensor | None
    query_class: Tensor | None
    excluded: Tensor | None
    gallery_identity: Tensor | None


def check_rules(op: str, rules: Rules) -> None:
    _checks.choice(op, "camera_rule", rules.camera_rule, CAMERA_RULES)
    _checks.choice(op, "clothes_rule", rules.clothes_rule, CLOTHES_RULES)
    _checks.choice(op, "ap", rules.ap, AP_RULES)
    _checks.choice(op, "cmc", rules.cmc, CMC_RULES)
    _checks.choice(op, "invalid", rules.invalid, INVALID_RULES)
    _checks.positive_int(op, "max_rank", rules.max_rank)
    if not isinstance(rules.junk_pids, tuple | list):
        got = type(rules.junk_pids).__name__
        raise TypeError(_checks.message(op, "junk_pids", got, "a tuple or list of ints"))
    for pid in rules.junk_pids:
        if isinstance(pid, bool) or not isinstance(pid, int):
            got = f"a {type(pid).__name__} in it"
            raise TypeError(_checks.message(op, "junk_pids", got, "a tuple or list of ints"))
        if not -(2**63) <= pid < 2**63:
            raise ValueError(_checks.message(op, "junk_pids", pid, "pids that fit int64"))
    if rules.repeats is not None:
        _checks.positive_int(op, "repeats", rules.repeats)
        if rules.cmc != "single_gallery_shot":
            expected = f'None for cmc="{rules.cmc}", which draws nothing'
            raise ValueError(_checks.message(op, "repeats", rules.repeats, expected))
    if isinstance(rules.seed, bool) or not isinstance(rules.seed, int):
        raise TypeError(_checks.message(op, "seed", type(rules.seed).__name__, "an int"))
    if not 0 <= rules.seed < 2**63:
        raise ValueError(_checks.message(op, "seed", rules.seed, "an int from 0 to 2**63 - 1"))


def check_sides(
    op: str, rules: Rules, sides: object, sizes: tuple[int, int], like: str, than: Tensor
) -> None:
    """``sides``: the six labels in the order of `Sides`, whatever they are; ``sizes``: Q and G; ``than``: the
    tensor, called ``like``, whose device they share."""
    given = dict(zip(Sides._fields, sides, strict=True))
    needed = {
        "pids": True,
        "camids": rules.camera_rule != "none",
        "clothes": rules.clothes_rule != "any",
    }
    for kind, is_needed in needed.items():
        names = f"query_{kind}", f"gallery_{kind}"
        if not is_needed and all(given[name] is None for name in names):
            continue
        for side, name in enumerate(names):
            value = given[name]
            if value is None and kind != "pids":
                rule = {"camids": 'camera_rule="none"', "clothes": 'clothes_rule="any"'}[kind]
                expected = f"a tensor (or no {kind} on either side and {rule})"
                raise TypeError(_checks.message(op, name, "None", expected))
            value = _checks.tensor(op, name, value)
            _checks.dtype(op, name, value, LABELS)
            _checks.rank(op, name, value, 1, ("(Q,)", "(G,)")[side])
            why = f"one label for each {('query', 'gallery entry')[side]}"
            _checks.size(op, name, value, 0, sizes[side], why)
            _checks.same_device(op, name, value, like, than)


def as_int64(op: str, rules: Rules, sides: Sides) -> Sides:
    """The labels that the rules read as contiguous int64; None for the others."""
    wanted = {"pids": True, "camids": rules.camera_rule != "none", "clothes": rules.clothes_rule != "any"}
    labels = []
    for name, value in zip(Sides._fields, sides, strict=True):
        use = value is not None and wanted[name.rpartition("_")[2]]
        labels.append(_label(op, name, value) if use else None)
    return Sides(*labels)


def _label(op: str, name: str, value: Tensor) -> Tensor:
    label = value.to(torch.int64).contiguous()
    # Only uint64 holds numbers that do not fit.
    if value.dtype == torch.uint64 and _checks.has_values(value) and bool((label < 0).any()):
        count = int((label < 0).sum())
        got = f"{count} labels above 2**63 - 1"
        raise ValueError(_checks.message(op, name, got, "labels that fit int64"))
    return label


def native(rules: Rules, sides: Sides) -> NativeRelevance:
    """``sides`` as `as_int64` returns them."""
    # Gallery indices, those of one pid side by side; a query's matches are members[begin:end].
    values, members = _sorted(sides.gallery_pids)
    begin = torch.searchsorted(values, sides.query_pids)
    end = torch.searchsorted(values, sides.query_pids, right=True)
    identity = None
    if rules.by_identity:
        place = torch.nn.functional.pad(torch.cumsum(values[1:] != values[:-1], 0), (1, 0))
        identity = torch.zeros_like(place).index_copy(0, members, place)
    cameras = sides[2:4] if rules.camera_rule == "same_pid" else (None, None)
    query_class, excluded = excluded_bits(rules, sides)
    return NativeRelevance(members, begin, end, *cameras, *sides[4:6], query_class, excluded, identity)


def of_queries(relevance: NativeRelevance, rows: slice) -> NativeRelevance:
    """The same gallery for some of the queries."""
    mine = ("begin", "end", "query_camids", "query_clothes", "query_class")
    given = ((name, getattr(relevance, name)) for name in mine)
    return relevance._replace(**{name: value[rows] for name, value in given if value is not None})


def _sorted(pids: Tensor) -> tuple[Tensor, Tensor]:
    """torch.sort(pids, stable=True). On a CPU it goes by digits, five times faster, from 2**15 elements on: a gallery
    almost as large is padded."""
    size, enough = pids.shape[0], 1 << 15
    if pids.device.type != "cpu" or not _checks.has_values(pids) or not enough // 8 <= size < enough:
        return torch.sort(pids, stable=True)
    padding = pids.new_full((enough - size,), torch.iinfo(torch.int64).max)  # behind its equals
    values, members = torch.sort(torch.cat([pids, padding]), stable=True)
    return values[:size], members[:size]


def excluded_bits(rules: Rules, sides: Sides) -> tuple[Tensor | None, Tensor | None]:
    """What is dropped whatever its pid: (the row of each query, the rows as int64 words of 64 entries). One row
    for each camera of the queries, so never Q x G."""
    if rules.camera_rule != "same_camera" and not rules.junk_pids:
        return None, None
    pids = sides.gallery_pids
    if rules.camera_rule == "same_camera":
        cameras, query_class = torch.unique(sides.query_camids, return_inverse=True)
        out = cameras[:, None] == sides.gallery_camids
    else:
        query_class = torch.zeros_like(sides.query_pids)
        out = pids.new_zeros((1, pids.shape[0]), dtype=torch.bool)
    for pid in rules.junk_pids:
        out = out | (pids == pid)
    rows, size = out.shape
    eights = torch.nn.functional.pad(out, (0, -size % 64)).view(rows, -1, 8)
    shift = torch.arange(8, dtype=torch.uint8, device=pids.device)
    return query_class, (eights.to(torch.uint8) << shift).sum(2, dtype=torch.uint8).view(torch.int64)


def dropped(q: int | slice, rules: Rules, sides: Sides) -> Tensor:
    """(G,) bool: what the rules drop for query q; (R, G) for a slice, where the queries' labels are columns. The
    definition; the kernels never build it."""
    match = sides.gallery_pids == sides.query_pids[q]
    found = torch.zeros_like(match)
    if rules.camera_rule != "none":
        same = sides.gallery_camids == sides.query_camids[q]
        found = same & match if rules.camera_rule == "same_pid" else same
    if rules.clothes_rule != "any":
        same = sides.gallery_clothes == sides.query_clothes[q]
        found = found | (match & (same if rules.clothes_rule == "cross" else ~same))
    for pid in rules.junk_pids:
        found = found | (sides.gallery_pids == pid)
    return found


def check_matches(op: str, rules: Rules, status: Tensor) -> None:
    """No mean is defined where every query is invalid; says how many are, and why."""
    if status.shape[0] == 0 or not _checks.has_values(status) or bool((status == VALID).any()):
        return
    absent, gone = (int((status == code).sum()) for code in (ABSENT_PID, ALL_DROPPED))
    reasons = [f"{absent} have a pid that is not in the gallery"]
    advice = "; check that both sides use the same pid numbering"
    plain = rules.camera_rule == "same_pid" and rules.clothes_rule == "any" and not rules.junk_pids
    if plain:
        reasons.append(f"{gone} have theirs only under their own camera")
        if gone:
            advice = '; camera_rule="none" (protocol "no_camera") keeps matches of the same camera'
    elif gone:
        reasons.append(f"the rules drop every match of {gone}")
        advice = f"; camera_rule is {rules.camera_rule!r}, clothes_rule {rules.clothes_rule!r}, "
        advice += f"junk_pids {tuple(rules.junk_pids)}"
    got = f"{status.shape[0]} queries without a match ({', '.join(reasons)})"
    raise ValueError(_checks.message(op, "query_pids", got, f"at least one query with a match{advice}"))
