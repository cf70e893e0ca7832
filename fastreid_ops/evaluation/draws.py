# SPDX-License-Identifier: Apache-2.0
"""Which rows a protocol puts on which side, trial by trial: the sources' draws to the last row, as indices only."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastreid_ops.evaluation._protocol import Protocol
from fastreid_ops.evaluation.columns import Columns, in_order, labels
from fastreid_ops.evaluation.evaluate import Labels
from fastreid_ops.evaluation.protocols import protocol as find_protocol
from fastreid_ops.evaluation.tracklets import grouped

# (pid, camid) -> for each trial the image numbers of that pid under that camera, permuted.
Permutations = Mapping[tuple[int, int], Any]


class Trial(NamedTuple):
    """One trial: entries of the query side and of the gallery side, (q,) and (g,) int64, in the order in which they
    stand there, which decides ties."""

    query: Tensor
    gallery: Tensor


class Side(NamedTuple):
    """Entries of one side: rows, or tracklets where the protocol pools them.

    Attributes:
        labels: of each entry.
        first: (T,) int64, the row that stands for each entry: itself, or its tracklet's first.
        entry: (N,) int64, the entry of each row; None where they are the same.
    """

    labels: Labels
    first: Tensor
    entry: Tensor | None


@dataclass(frozen=True)
class Draws:
    """What a protocol makes of the columns of a data set: all that an evaluation needs beside features.

    Attributes:
        protocol: the protocol as it was carried out; "official" seeding only where the table was there.
        query, gallery: entries of both sides with their labels.
        trials: one or more.
    """

    protocol: Protocol
    query: Side
    gallery: Side
    trials: tuple[Trial, ...]

    def rows(self) -> tuple[list[int], list[int]]:
        """The rows of either side that any trial looks at, ascending."""
        found = []
        for name in ("query", "gallery"):
            side = getattr(self, name)
            used = torch.zeros(len(side.first), dtype=torch.bool)
            for trial in self.trials:
                used[getattr(trial, name)] = True
            if side.entry is not None:
                used = used[side.entry]
            found.append(used.nonzero().flatten().tolist())
        return found[0], found[1]


def draw(
    protocol: str | Protocol, query: Any, gallery: Any, permutations: Permutations | None = None
) -> Draws:
    """Selects, draws and groups the rows of both sides as the protocol says.

    Args:
        query, gallery: a Manifest, `Columns` or `Labels` each; what the protocol looks at must be there.
        permutations: for "official" seeding (SYSU-MM01's rand_perm_cam): (pid, camid) -> (trials, n) image numbers,
            each row a permutation of 1 to n (of 0 to n - 1 is taken as well), n the images of that pid under that
            camera in the order of their names. None: drawn by Python's generator, and the result says so.

    Python's ``random.Random(seed).choice`` over sorted names, pids ascending and in each the cameras in the
    protocol's order, is what AGW, DEEN and LLCM's script do with the module's functions. More than one shot is
    ``sample`` of that generator; the public code for that takes NumPy's generator without a seed, which nobody can
    repeat.

    Memory: 8 bytes for each row of each trial, and the columns.

    Raises:
        ValueError: a side without rows, naming side and trial; a column that is needed and not there; a table that
            does not fit the images. TypeError: no columns.
    """
    rules = find_protocol(protocol)
    sides = {"query": Columns.of(query), "gallery": Columns.of(gallery)}
    if rules.draw_seeding == "official" and permutations is None:
        rules = replace(rules, draw_seeding="each_trial")
    entries: dict[str, tuple[Tensor, Tensor | None]] = {}
    for name, columns in sides.items():
        if rules.tracklets == "frames":
            entries[name] = torch.arange(len(columns)), None
        else:
            entries[name] = grouped(name, columns)
            sides[name] = columns.take(entries[name][0].tolist())
    chosen = {name: _selected(rules, name, columns) for name, columns in sides.items()}
    trials = []
    for number, (q, g) in enumerate(_trials(rules, sides, chosen, permutations)):
        for name, index in (("query", q), ("gallery", g)):
            if not len(index):
                wanted = "; ".join(rules._selection()) or "any row"
                raise ValueError(
                    f"draw: {name}: got no row in trial {number} of {rules.name} out of {len(sides[name])}, "
                    f"expected some ({wanted})"
                )
        trials.append(Trial(q, g))
    made = labels(rules, *sides.values())
    both = (Side(each, *entries[name]) for name, each in zip(sides, made, strict=True))
    return Draws(rules, *both, tuple(trials))


def _selected(rules: Protocol, name: str, columns: Columns) -> list[int]:
    """Rows of the wanted modality and cameras, in their order."""
    rows = range(len(columns))
    modality, cameras = getattr(rules, f"{name}_modality"), getattr(rules, f"{name}_cameras")
    if modality:
        given = columns.need(name, "modality", f"{rules.name} takes {modality} images on this side")
        rows = [row for row in rows if given[row] == modality]
    if cameras:
        given = columns.need(name, "camids", f"{rules.name} takes some cameras on this side")
        wanted = set(cameras)
        rows = [row for row in rows if given[row] in wanted]
    return list(rows)


def _trials(
    rules: Protocol,
    sides: Mapping[str, Columns],
    chosen: Mapping[str, list[int]],
    permutations: Permutations | None,
) -> Iterator[tuple[Tensor, Tensor]]:
    whole = {name: torch.tensor(rows, dtype=torch.int64) for name, rows in chosen.items()}
    if not rules.draws:
        yield whole["query"], whole["gallery"]
        return
    side = "query" if rules.query_draw != "all" else "gallery"
    by_camera = "pid_camera" in (rules.query_draw, rules.gallery_draw)
    groups = _groups(rules, side, sides[side], chosen[side], by_camera)
    generator = random.Random(rules.draw_seed)
    for number in range(rules.trials):
        if rules.draw_seeding == "each_trial":
            generator = random.Random(rules.draw_seed + number)
        picked = []
        for key, rows in groups:
            if rules.draw_seeding == "official":
                picked += _official(permutations, key, rows, number, rules.shots)
            elif rules.shots == 1:
                picked.append(generator.choice(rows))
            else:
                picked += generator.sample(rows, min(rules.shots, len(rows)))
        drawn = {**whole, side: torch.tensor(picked, dtype=torch.int64)}
        if rules.gallery_draw == "pid_rest_query":
            drawn["query"] = _rest(rules, sides, chosen["query"], picked)
        yield drawn["query"], drawn["gallery"]


def _groups(
    rules: Protocol, side: str, columns: Columns, rows: Sequence[int], by_camera: bool
) -> list[tuple[tuple[int | str, int], list[int]]]:
    """((pid, camid), rows by name), in the order in which they are drawn from; without by_camera the camid is -1."""
    names = columns.need(side, "names", f"{rules.name} draws from sorted names")
    camids = columns.need(side, "camids", f"{rules.name} draws under each camera") if by_camera else None
    found: dict[tuple[int | str, int], list[int]] = {}
    for row in sorted(rows, key=lambda row: (names[row], row)):
        found.setdefault((columns.pids[row], camids[row] if camids is not None else -1), []).append(row)
    cameras = getattr(rules, f"{side}_cameras") or sorted({camid for _, camid in found})
    if not by_camera:
        cameras = (-1,)
    keys = ((pid, camid) for pid in in_order(pid for pid, _ in found) for camid in cameras)
    return [(key, found[key]) for key in keys if key in found]


def _official(
    permutations: Permutations, key: tuple[int | str, int], rows: Sequence[int], trial: int, shots: int
) -> list[int]:
    what = f"draw: permutations[{key}]"
    if key not in permutations:
        raise ValueError(f"{what}: got nothing, expected the permutations of its {len(rows)} images")
    table = permutations[key]
    if trial >= len(table):
        raise ValueError(f"{what}: got {len(table)} trials, expected at least {trial + 1}")
    numbers = [int(number) for number in table[trial]]
    least = min(numbers, default=1)
    if sorted(numbers) != list(range(least, least + len(rows))) or least not in (0, 1):
        raise ValueError(
            f"{what}: trial {trial}: got {len(numbers)} numbers from {least} to {max(numbers, default=0)}, expected "
            f"a permutation of 1 to {len(rows)}, the images of this pid under this camera"
        )
    return [rows[number - least] for number in numbers[:shots]]


def _rest(
    rules: Protocol, sides: Mapping[str, Columns], queries: Sequence[int], picked: Sequence[int]
) -> Tensor:
    """The queries that are not in the gallery: one image may stand in a row of either side."""
    why = f"{rules.name} searches with all that was not drawn"
    names = [sides[name].need(name, "names", why) for name in ("query", "gallery")]
    taken = {names[1][row] for row in picked}
    return torch.tensor([row for row in queries if names[0][row] not in taken], dtype=torch.int64)
