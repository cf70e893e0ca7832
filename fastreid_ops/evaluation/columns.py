# SPDX-License-Identifier: Apache-2.0
"""What is known of the rows of one side, column by column, and the integers that the ranking ops want of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from fastreid_ops.evaluation._protocol import Protocol
from fastreid_ops.evaluation.evaluate import Labels

_IN_MANIFEST = {
    "pids": "pid",
    "camids": "camid",
    "clothes": "clothes",
    "modality": "modality",
    "tracklets": "tracklet",
    "names": "path",
}


@dataclass(frozen=True)
class Columns:
    """Columns of N rows, lists as long as there are rows; None for what nobody asks for.

    Attributes:
        pids, clothes, tracklets: ints or strings. Ints keep their value, so that a protocol's junk pids mean them.
        camids: ints from 0.
        modality: "visible", "infrared", or what else the protocol picks.
        names: file names, in whose sorted order draws go.
    """

    pids: Sequence[int | str]
    camids: Sequence[int] | None = None
    clothes: Sequence[int | str] | None = None
    modality: Sequence[str] | None = None
    tracklets: Sequence[int | str] | None = None
    names: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.pids)

    def _by_name(self) -> dict[str, Sequence | None]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def of(cls, source: Any) -> Columns:
        """Of a table with the columns pid, camid, path and perhaps clothes, modality, tracklet (a Manifest), of
        `Labels`, or of Columns, which are checked.

        Raises:
            TypeError: none of these. ValueError: columns of different lengths.
        """
        if isinstance(source, Labels):
            made = cls(*(None if value is None else value.tolist() for value in source))
        elif isinstance(source, cls):
            made = source
        elif hasattr(source, "pid"):
            made = cls(**{name: getattr(source, there, None) for name, there in _IN_MANIFEST.items()})
        else:
            got = type(source).__name__
            raise TypeError(f"Columns.of: source: got {got}, expected a Manifest, Labels or Columns")
        for name, values in made._by_name().items():
            if values is not None and len(values) != len(made):
                raise ValueError(
                    f"Columns.of: {name}: got {len(values)} values, expected {len(made)} as in pids"
                )
        return made

    def take(self, rows: Sequence[int]) -> Columns:
        """The columns of these rows."""
        return Columns(
            **{
                name: None if values is None else [values[row] for row in rows]
                for name, values in self._by_name().items()
            }
        )

    def need(self, side: str, name: str, why: str) -> Sequence:
        """A column that must be there; ValueError names side, column and reason."""
        values = getattr(self, name)
        if values is None:
            raise ValueError(f"draw: {side}.{name}: got None, expected a value for each row: {why}")
        return values


def in_order(values: Any) -> list:
    """The distinct ids, numbers by value before names by code point."""
    return sorted(set(values), key=lambda value: (isinstance(value, str), value))


def labels(rules: Protocol, query: Columns, gallery: Columns) -> tuple[Labels, Labels]:
    """The labels that the protocol looks at, as int64 tensors with one numbering for both sides.

    Raises:
        ValueError: the protocol needs a column that is not there.
    """
    made = [_numbers(query.pids, gallery.pids)]
    wanted = (
        (
            rules.needs_cameras,
            f"{rules.camera_column}s",
            f"{rules.name} looks at cameras ({rules.camera_column})",
        ),
        (rules.needs_clothes, "clothes", f"{rules.name} looks at clothes"),
    )
    for is_wanted, name, why in wanted:
        if is_wanted:
            sides = [side.need(word, name, why) for word, side in (("query", query), ("gallery", gallery))]
            made.append(_numbers(*sides))
        else:
            made.append((None, None))
    first, second = (Labels(*column) for column in zip(*made, strict=True))
    return first, second


def _numbers(query: Sequence[int | str], gallery: Sequence[int | str]) -> tuple[Tensor, Tensor]:
    """Ints as they are; names get the numbers above the largest int."""
    names = in_order(value for side in (query, gallery) for value in side if isinstance(value, str))
    if not names:
        return tuple(torch.tensor(side, dtype=torch.int64) for side in (query, gallery))
    ints = [value for side in (query, gallery) for value in side if not isinstance(value, str)]
    above = max(ints, default=-1) + 1
    number = {name: max(above, 0) + i for i, name in enumerate(names)}
    return tuple(
        torch.tensor([number.get(value, value) for value in side], dtype=torch.int64)
        for side in (query, gallery)
    )
