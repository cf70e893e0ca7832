# SPDX-License-Identifier: Apache-2.0
"""What the readers of published data sets share: finding the folder, listing it, and one tree of what lies there.

A reader's `scan(root, ...) -> Tree` sorts everything it finds into rows and into what cannot be used; `read`
is `scan(...).checked()`, which refuses a damaged tree, and `check_data` reports the same tree in full.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from fastreid_ops.data.checks import Finding, counts, finding
from fastreid_ops.data.manifest import Manifest, ManifestError
from fastreid_ops.data.manifest_csv import COLUMNS

SPLITS = ("train", "query", "gallery")
Published = Mapping[str, Mapping[str, int]]


class Row(NamedTuple):
    """One line of a manifest; an optional column is given in every row of a tree or in none."""

    path: str
    pid: int | str
    camid: int
    split: str
    modality: str | None = None
    clothes: int | str | None = None
    tracklet: int | str | None = None
    frame: int | None = None


@dataclass
class Tree:
    """What lies in a data set's folder.

    Attributes:
        name: of the data set, for messages. root: folder that the rows' paths start from.
        rows: what can be used. published: {split: {"images": n, "ids": n, "cameras": n}}, as far as published.
        passed: entries that are no images of this set and are not used (notes).
        unreadable: image files whose name does not hold the labels. expected: what the names look like.
        missing: files that a list or a split names and that are not there.
        broken: sentences about whatever else forbids to use this tree.
        found: further findings for `check_data`.
        seen_people: the test is meant to be of people who are trained on.
    """

    name: str
    root: Path
    expected: str
    published: Published = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    found: list[Finding] = field(default_factory=list)
    seen_people: bool = False

    def manifest(self) -> Manifest:
        """The rows as a manifest, whatever is wrong with the tree."""
        if not self.rows:
            return Manifest(self.root, path=[], pid=[], camid=[], split=[])
        columns = dict(zip(COLUMNS, map(list, zip(*map(_full, self.rows), strict=True)), strict=True))
        given = {name: values for name, values in columns.items() if values.count(None) < len(values)}
        return Manifest(root=self.root, **given)

    def checked(self, splits: Iterable[str] = SPLITS) -> Manifest:
        """The rows as a manifest.

        Args:
            splits: those that must have rows.

        Raises:
            ManifestError: for names without labels, listed files that are missing, a split without a row, and
                whatever the reader calls broken.
        """
        problems = list(self.broken)
        if self.unreadable:
            problems.append(
                f"{self.name}: {self.root}: got {shortened(self.unreadable)}, expected {self.expected}"
            )
        missing = list(dict.fromkeys(self.missing))
        if missing:
            problems.append(
                f"{self.name}: {self.root}: got no file for {len(missing)} listed names, expected "
                f"{shortened(missing)}"
            )
        if not problems:
            there = {row.split for row in self.rows}
            rest = (
                f"passed over: {shortened(self.passed)}" if self.passed else f"it holds {listing(self.root)}"
            )
            problems = [
                f"{self.name}: {self.root}: got no image to use for {split}, expected {self.expected}; {rest}"
                for split in splits
                if split not in there
            ]
        if problems:
            raise ManifestError(problems)
        return self.manifest()

    def findings(self) -> list[Finding]:
        """What differs from the published data set, and what lies in its folders without being used."""
        return [
            *published_findings(self.manifest(), self.published),
            *[Finding("problem", "broken", text, 1) for text in self.broken],
            *finding(
                "problem",
                "unreadable_names",
                "image files whose name does not hold the labels",
                self.unreadable,
            ),
            *finding(
                "problem",
                "listed_not_there",
                "files are listed and are not there",
                dict.fromkeys(self.missing),
            ),
            *self.found,
            *finding(
                "note", "not_used", "entries are no images of this data set and are not used", self.passed
            ),
        ]


def _full(row: Sequence) -> tuple:
    """A row with all its columns; readers and tests may leave out the optional ones."""
    return (*row, *[None] * (len(COLUMNS) - len(row)))


def find_root(
    name: str,
    root: str | os.PathLike[str],
    layouts: Sequence[str],
    needed: Sequence[str | tuple[str, ...]],
) -> Path:
    """The first of the layouts in which everything needed lies.

    Args:
        name: of the data set, for messages. root: the folder that the user names.
        layouts: folders relative to `root`, "." for itself, in the order of preference.
        needed: files or folders relative to the layout; a tuple means any one of these.

    Raises:
        ManifestError: a ValueError with what each layout lacks, what lies in `root`, and which names there
            differ from the wanted ones in capitals only.
    """
    base = Path(root).expanduser()
    if not base.is_dir():
        raise ManifestError(
            f"{name}: root: got {str(base)!r}, which is no folder, expected the folder of the data set"
        )
    groups = [(entry,) if isinstance(entry, str) else entry for entry in needed]
    looked, capitals = [], {}
    for layout in layouts:
        folder = base / layout
        missing = [group for group in groups if not any((folder / entry).exists() for entry in group)]
        if not missing:
            return folder
        for path in (layout, *(f"{layout}/{entry}" for group in missing for entry in group)):
            capitals |= _other_capitals(base, path)
        lacks = ", ".join(" or ".join(group) for group in missing)
        looked.append(f"{folder} ({f'without {lacks}' if folder.is_dir() else 'no such folder'})")
    wanted = ", ".join(" or ".join(group) for group in groups)
    hint = "".join(f"; {there} is {asked} in other capitals" for there, asked in capitals.items())
    raise ManifestError(
        f"{name}: root: got {str(base)!r}, expected {wanted} in one of: {'; '.join(looked)}. {base} holds "
        f"{listing(base)}{hint}"
    )


def _other_capitals(base: Path, path: str) -> dict[str, str]:
    """The first part of a path that is there in other capitals only: {what is there: what is asked for}."""
    folder = base
    for part in Path(path).parts:
        if not (folder / part).exists():
            alike = [entry for entry in _entries(folder) if entry.lower() == part.lower()]
            return {str(folder / entry): part for entry in alike}
        folder = folder / part
    return {}


def _entries(folder: Path) -> list[str]:
    return sorted(os.listdir(folder)) if folder.is_dir() else []


def listing(folder: Path) -> str:
    """The first ten names in a folder, for a message."""
    names = _entries(folder)
    if not names:
        return "nothing"
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def shortened(names: Sequence[str], most: int = 5) -> str:
    """The first few names of a list, for a message."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def files(
    folder: Path, extensions: str | tuple[str, ...], *, any_case: bool = False
) -> tuple[list[str], list[str]]:
    """The names in a folder, sorted: files with one of these extensions, and what is passed over.

    Extensions are compared with capitals, as most sources do, unless `any_case` (and then written small).
    Folders and hidden files are passed over: archives unpacked by a Mac hold a "._name.jpg" without pixels
    beside every "name.jpg".
    """
    used, passed = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name.lower() if any_case else entry.name
            good = name.endswith(extensions) and not name.startswith(".") and not entry.is_dir()
            (used if good else passed).append(entry.name)
    return sorted(used), sorted(passed)


def named(
    tree: Tree, folder: str, extensions: str | tuple[str, ...], pattern: re.Pattern[str]
) -> list[tuple[str, re.Match[str]]]:
    """(path, match) of the images in a folder of a tree whose whole name fits, in sorted order; the tree takes
    note of the others and of what is no image."""
    names, passed = files(tree.root / folder, extensions)
    tree.passed += [f"{folder}/{entry}" for entry in passed]
    matches = [(f"{folder}/{entry}", pattern.fullmatch(entry)) for entry in names]
    tree.unreadable += [path for path, match in matches if match is None]
    return [(path, match) for path, match in matches if match is not None]


def folders(folder: Path) -> tuple[list[str], list[str]]:
    """The names in a folder, sorted: its folders that are not hidden, and what is passed over."""
    used, passed = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            good = entry.is_dir() and not entry.name.startswith(".")
            (used if good else passed).append(entry.name)
    return sorted(used), sorted(passed)


def absent(root: Path, paths: Iterable[str]) -> list[str]:
    """Those of the relative paths that are no entry of their folder, in order; each folder is read once."""
    known: dict[str, set[str]] = {}
    gone = []
    for path in dict.fromkeys(paths):
        folder, entry = os.path.split(path)
        if folder not in known:
            known[folder] = set(_entries(root / folder))
        if entry not in known[folder]:
            gone.append(path)
    return gone


def text_lines(file: Path, name: str) -> list[str]:
    """The lines of a list file, without line ends of any system, a byte-order mark, and blank lines at the end.

    Raises:
        ManifestError: if it is missing or no UTF-8 text.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ManifestError(f"{name}: {file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"{name}: {file}: got bytes that are no UTF-8 text, expected a list") from error
    lines = [line.strip() for line in text.splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def published_findings(manifest: Manifest, published: Published) -> list[Finding]:
    """One problem for each split whose counts differ from the published ones."""
    there = counts(manifest)
    found = []
    for split, numbers in published.items():
        got = there.get(split, {})
        wrong = [
            f"{got.get(key, 0)} {key} (published: {n})" for key, n in numbers.items() if got.get(key, 0) != n
        ]
        if wrong:
            text = f"{split}: {', '.join(wrong)}; figures from it are not comparable with published ones"
            found.append(Finding("problem", "differs_from_published", text, len(wrong)))
    return found


def combined(rows: Iterable[Row], is_junk: Callable[[int | str], bool] = lambda pid: False) -> list[Row]:
    """All images of a set as train rows (`combineall`): query and gallery join, without the identities that
    `is_junk` names, and every file stands once.

    No query and no gallery is left: figures on what was trained on would be worth nothing. The sources keep
    them.
    """
    kept = (row for row in rows if row.split == "train" or not is_junk(row.pid))
    return list({row.path: row._replace(split="train") for row in kept}.values())


def choice(name: str, argument: str, value: object, allowed: Sequence[object]) -> None:
    """Refuse a value that is none of those allowed; True is no 1 and False no 0."""
    if not any(value == one and type(value) is type(one) for one in allowed):
        whole = isinstance(allowed, range)
        words = f"{allowed[0]} to {allowed[-1]}" if whole else ", ".join(map(repr, allowed))
        raise ValueError(f"{name}: {argument}: got {value!r}, expected {words}")
