# SPDX-License-Identifier: Apache-2.0
"""Lists that published splits come as: identities, and image names with labels."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from fastreid_ops.data.datasets._layout import shortened, text_lines
from fastreid_ops.data.manifest import ManifestError


class Labelled(NamedTuple):
    """One line of a list: a relative path with forward slashes, and the label the list gives it."""

    path: str
    label: int


def id_list(file: Path, name: str) -> list[int]:
    """The identities of a list, in its order: whole numbers separated by commas, spaces or line ends.

    Args:
        name: of the data set, for messages.

    Raises:
        ManifestError: if it cannot be read, is empty, holds anything else, or names an identity twice.
    """
    words = [word for word in re.split(r"[,\s]+", ",".join(text_lines(file, name))) if word]
    wrong = [word for word in words if not (word.isascii() and word.isdigit())]
    if wrong or not words:
        raise ManifestError(
            f"{name}: {file}: got {shortened(wrong) or 'nothing'}, expected identities separated by commas"
        )
    numbers = [int(word) for word in words]
    twice = sorted({number for number in numbers if numbers.count(number) > 1})
    if twice:
        raise ManifestError(f"{name}: {file}: got {twice[0]} more than once, expected each identity once")
    return numbers


def labelled_list(file: Path, name: str) -> list[Labelled]:
    """The lines `path label` of a list; blank lines are skipped, back slashes become forward ones.

    Raises:
        ManifestError: if it cannot be read, is empty, a line is of another form, or a path stands twice; with line.
    """
    rows: list[Labelled] = []
    first: dict[str, int] = {}
    for number, line in enumerate(text_lines(file, name), 1):
        if not line:
            continue
        path, _, label = line.replace("\t", " ").rpartition(" ")
        if not path or not (label.isascii() and label.isdigit()):
            raise ManifestError(
                f"{name}: {file}:{number}: got {line!r}, expected a path, a space and a label"
            )
        path = path.strip().replace("\\", "/").removeprefix("./")
        if first.setdefault(path, number) != number:
            raise ManifestError(f"{name}: {file}:{number}: got {path!r} again, first on line {first[path]}")
        rows.append(Labelled(path, int(label)))
    if not rows:
        raise ManifestError(f"{name}: {file}: got an empty list, expected a path and a label on each line")
    return rows


def identities(halves: Mapping[str, Sequence[tuple[int, int]]]) -> dict[tuple[str, int], int | str]:
    """One identity for each label of each half of a data set, whose lists number train and test each from 0.

    Args:
        halves: half -> (label, number of the person that the path names) of every row.

    Returns:
        (half, label) -> the person's number of the paths, if labels and numbers are one to one over both halves;
        otherwise "half-label", since it is the labels that the sources train and evaluate with.
    """
    pairs = {((half, label), person) for half, rows in halves.items() for label, person in rows}
    labels, people = {key for key, _ in pairs}, {person for _, person in pairs}
    if len(pairs) == len(labels) == len(people):
        return dict(pairs)
    return {(half, label): f"{half}-{label}" for half, label in labels}
