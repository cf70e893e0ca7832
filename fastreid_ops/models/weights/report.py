# SPDX-License-Identifier: Apache-2.0
"""What became of every entry of a file and of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

_COUNTER = "num_batches_tracked"


class Used(NamedTuple):
    """An entry of the file and the model's entry that it was copied to."""

    file: str
    model: str


class Skipped(NamedTuple):
    """An entry of the file that was not used, or not at the place ``model``.

    ``reason``: ``"shape"``, ``"no place"``, or why the value is of no use. ``model`` is empty where the model has no
    such entry; shapes are empty where there is nothing to compare.
    """

    file: str
    reason: str
    model: str = ""
    file_shape: tuple[int, ...] = ()
    model_shape: tuple[int, ...] = ()


class Resized(NamedTuple):
    """Positions laid out for another grid (rows, columns) of patches than the file's."""

    file: str
    model: str
    file_grid: tuple[int, int]
    model_grid: tuple[int, int]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


@dataclass(frozen=True)
class LoadReport:
    """What `load_weights` did.

    Attributes:
        keymap: the table that translated the file's names, and the place in the model.
        used: (entry of the file, entry of the model), one for each of the model's that received a value, in the model's
            order; an entry of the file may serve several.
        skipped: entries of the file that were left out, each with its reason.
        missing: entries of the model for which the file holds nothing that fits; they keep their value.
        resized: position embeddings that were interpolated.
        beside: what else the file holds (epoch, optimizer); of no interest here.
        notes: what to know about these weights in this model, in words.
    """

    keymap: str
    used: tuple[Used, ...]
    skipped: tuple[Skipped, ...]
    missing: tuple[str, ...]
    resized: tuple[Resized, ...] = ()
    beside: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def loaded(self) -> tuple[str, ...]:
        """Entries of the model that received a value."""
        return tuple(pair.model for pair in self.used)

    @property
    def renamed(self) -> tuple[Used, ...]:
        """Those of ``used`` with two different names."""
        return tuple(pair for pair in self.used if pair.file != pair.model)

    @property
    def misfits(self) -> tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]:
        """(entry of the model, shape in the file, shape in the model), left out; a classifier of other identities, as a
        rule."""
        return tuple((s.model, s.file_shape, s.model_shape) for s in self.skipped if s.reason == "shape")

    @property
    def unexpected(self) -> tuple[str, ...]:
        """Entries of the file that the model has no place for."""
        return tuple(s.file for s in self.skipped if s.reason == "no place")

    def describe(self) -> str:
        """The report as a few lines of text."""
        lines = [
            f"loaded {len(self.used)} of {len(self.used) + len(self.missing)} entries, names: {self.keymap}"
        ]
        if self.renamed:
            pairs = [f"{pair.file} -> {pair.model}" for pair in self.renamed]
            lines.append(f"renamed {len(pairs)}: {_some(pairs)}")
        for item in self.resized:
            (rows, columns), (new_rows, new_columns) = item.file_grid, item.model_grid
            lines.append(
                f"resized: {item.file}, positions of {rows} x {columns} patches to {new_rows} x {new_columns}"
            )
        for name, got, expected in self.misfits:
            lines.append(f"left out for its shape: {name}, file {list(got)}, model {list(expected)}")
        others = [s for s in self.skipped if s.reason not in ("shape", "no place")]
        lines += [f"left out: {s.file}, {s.reason}" for s in others]
        kept = [name for name in self.missing if not name.endswith(_COUNTER)]
        counters = len(self.missing) - len(kept)
        if kept:
            lines.append(f"kept as they were: {_some(kept)}")
        if counters:
            lines.append(f"kept as they were: {counters} counters {_COUNTER}, which change no result")
        if self.unexpected:
            lines.append(f"of no use in the file: {_some(self.unexpected)}")
        if self.beside:
            lines.append(f"not looked at: {_some(self.beside)}")
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)
