# SPDX-License-Identifier: Apache-2.0
"""The table every data set becomes: one row for each use of an image as train, query or gallery."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from fastreid_ops.data import checks, ids, manifest_csv
from fastreid_ops.data.manifest_csv import ManifestError

__all__ = ["Manifest", "ManifestError"]


@dataclass(frozen=True)
class Manifest:
    """Images with their labels, column by column; all columns have the same length.

    One file may stand in several rows with different splits: in small data sets every image is both query and
    gallery, and the protocol removes what must not be matched.

    Attributes:
        root: folder that relative paths start from.
        path: file names relative to `root`, or absolute.
        pid: identity, a whole number or a name; plain decimal text is that number.
        camid: camera, a whole number from 0.
        split: "train", "query" or "gallery".
        modality, clothes, tracklet, frame: optional columns; None where the data set has none.

    Raises:
        ValueError, TypeError: `Manifest: column[row]: got X, expected Y` for the first cell that breaks a
            rule.
    """

    root: Path
    path: list[str]
    pid: list[int | str]
    camid: list[int]
    split: list[str]
    modality: list[str] | None = None
    clothes: list[int | str] | None = None
    tracklet: list[int | str] | None = None
    frame: list[int] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Path(self.root))
        for name, rule in manifest_csv.COLUMNS.items():
            values = getattr(self, name)
            if values is None and name in manifest_csv.OPTIONAL:
                continue
            checked = _checked(name, rule, values)
            if len(checked) != len(self.path):
                raise ValueError(
                    f"Manifest: {name}: got {len(checked)} values, expected {len(self.path)} as in path"
                )
            object.__setattr__(self, name, checked)

    def __len__(self) -> int:
        return len(self.path)

    def columns(self) -> dict[str, list]:
        """The columns that are there, by name, in the order they are written in."""
        named = {name: getattr(self, name) for name in manifest_csv.COLUMNS}
        return {name: values for name, values in named.items() if values is not None}

    def take(self, indices: Iterable[int]) -> Manifest:
        """The rows with these numbers, in this order."""
        rows = [int(index) for index in indices]
        outside = [row for row in rows if not 0 <= row < len(self)]
        if outside:
            raise ValueError(f"Manifest.take: indices: got {outside[0]}, expected 0 to {len(self) - 1}")
        # The cells were checked when this manifest was made; checking 880,000 again takes seconds.
        part = copy.copy(self)
        for name, values in self.columns().items():
            object.__setattr__(part, name, [values[row] for row in rows])
        return part

    def select(self, split: str) -> Manifest:
        """The rows of one split, in order; may be empty."""
        if split not in ids.SPLITS:
            raise ValueError(
                f"Manifest.select: split: got {split!r}, expected one of {', '.join(ids.SPLITS)}"
            )
        return self.take(row for row, name in enumerate(self.split) if name == split)

    def pids(self) -> list[int | str]:
        """The distinct identities, numbers by value before names by code point."""
        return ids.in_order(self.pid)

    def label_map(self) -> dict[int | str, int]:
        """Identity -> class label 0 ... n-1 in the order of `pids()`: the same for every process and every
        run."""
        return {pid: label for label, pid in enumerate(self.pids())}

    def labels(self, label_map: Mapping[int | str, int]) -> list[int]:
        """The class label of every row.

        Raises:
            ValueError: if an identity is not in the map, naming it and the number of such identities.
        """
        unknown = [pid for pid in self.pids() if pid not in label_map]
        if unknown:
            raise ValueError(
                f"Manifest.labels: label_map: got no label for {len(unknown)} identities such as "
                f"{unknown[0]!r}, expected all {len(self.pids())}"
            )
        return [label_map[pid] for pid in self.pid]

    def file(self, index: int) -> Path:
        """Where the image of one row lies."""
        return self.root / self.path[index]

    def problems(self) -> list[str]:
        """What is wrong with the labels, a sentence each, without touching a file. `check_data` adds the
        files."""
        return [finding.text for finding in checks.label_findings(self) if finding.level == "problem"]

    @classmethod
    def read_csv(cls, path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None) -> Manifest:
        """Read a manifest: UTF-8, commas, header with path,pid,camid,split and any of
        modality,clothes,tracklet,frame.

        Args:
            path: the CSV file.
            root: folder that relative paths start from; the CSV file's own folder when None.

        Raises:
            ManifestError: a ValueError listing what is wrong as `file:line: column: got X, expected Y`.
                Refused as
                well: one path twice in the same split, one path with two identities or cameras, and ids that
                differ only by leading zeros. Files are not looked for; `datasets.csv_file.read` does that.
        """
        file = Path(path)
        columns, lines = manifest_csv.parse(file)
        problems = _contradictions(file, columns, lines)
        if problems:
            raise ManifestError(problems)
        return cls(root=Path(root) if root is not None else file.parent, **columns)

    def write_csv(self, path: str | os.PathLike[str], *, absolute: bool = False) -> None:
        """Write the manifest atomically; `read_csv` gives back the same rows.

        Args:
            path: the CSV file; its folder must exist.
            absolute: write full file names, for a manifest that is kept away from its images.

        Raises:
            ValueError: if a name is no valid Unicode text. OSError: if the folder cannot be written to.
        """
        columns = self.columns()
        if absolute:
            columns["path"] = [os.path.abspath(self.file(row)) for row in range(len(self))]
        manifest_csv.write(Path(path), columns)


def _checked(name: str, rule: Callable[[object], object], values: Iterable[object]) -> list:
    """Every cell of a column through its rule; equal texts and equal integers of a label are looked at once."""
    known: dict[int | str, object] = {}
    labels = name != "path"
    checked = []
    for row, value in enumerate(values):
        try:
            # Exactly these types: True and 1.0 equal 1 and are refused.
            if labels and type(value) in (int, str):
                if value not in known:
                    known[value] = rule(value)
                checked.append(known[value])
            else:
                checked.append(rule(os.fspath(value) if name == "path" else value))
        except (ValueError, TypeError) as error:
            raise type(error)(f"Manifest: {name}[{row}]: {error}") from None
    return checked


def _contradictions(file: Path, columns: dict[str, list], lines: list[int]) -> list[str]:
    seen: dict[str, int] = {}
    used: dict[tuple[str, str], int] = {}
    names: dict[str, tuple[int | str, int]] = {}
    problems: list[str] = []
    for row, path in enumerate(columns["path"]):
        line, pid, split = lines[row], columns["pid"][row], columns["split"][row]
        path = os.path.normpath(path)
        first = seen.setdefault(path, row)
        earlier = used.setdefault((path, split), line)
        if earlier != line:
            problems.append(
                f"{file}:{line}: path: got {path!r} again in split {split}, first on line {earlier}"
            )
        for name in ("pid", "camid"):
            if columns[name][first] != columns[name][row]:
                was, now = columns[name][first], columns[name][row]
                problems.append(
                    f"{file}:{line}: {name}: got {now!r}, but line {lines[first]} gives {path!r} {was!r}"
                )
        other, place = names.setdefault(checks.bare_id(pid), (pid, line))
        if other != pid:
            problems.append(
                f"{file}:{line}: pid: got {pid!r}, but line {place} writes {other!r}; expected one writing"
            )
        if len(problems) >= manifest_csv.MOST_PROBLEMS:
            break
    return problems


# A column added to the CSV and not here, or the other way round, would be lost in silence.
if [field.name for field in fields(Manifest)][1:] != list(manifest_csv.COLUMNS):
    raise ImportError("fastreid_ops.data.manifest: the fields of Manifest differ from manifest_csv.COLUMNS")
