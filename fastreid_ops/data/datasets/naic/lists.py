# SPDX-License-Identifier: Apache-2.0
"""The lists of NAIC's rounds: one parser for every separator they were written with."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from fastreid_ops.data.checks import Finding, finding
from fastreid_ops.data.datasets._layout import Tree, absent, text_lines
from fastreid_ops.data.manifest import ManifestError

NAME = "naic"


class Source(NamedTuple):
    """One round: its folder, what stands before its labels, its lists by preference, where its pictures may lie."""

    folder: str
    prefix: str
    lists: tuple[str, ...]
    places: tuple[str, ...]


class Picture(NamedTuple):
    """One line of a training list."""

    path: str
    person: str
    source: str


# Lists called new_* are those from which duplicates of other rounds were removed.
SOURCES = {
    "2020_preliminary": Source(
        "train_2020_cs", "train_2020_cs_", ("new_train_list.txt", "train_list.txt"), ("images",)
    ),
    "2020_final": Source("train_2020_fs", "train_2020_fs_", ("train_list.txt",), ("images",)),
    "2019_preliminary": Source(
        "train_2019_cs", "train_2019_cs_", ("new_2019_cs_train_list.txt", "train_list.txt"), (".",)
    ),
    "2019_final": Source("train_2019_fs", "train_2019_fs_", ("train_list.txt",), (".",)),
    "unlabelled": Source("unlabel", "train_2020_fs_unlabel_", ("label.txt",), ("images",)),
    # Copies that keep one round only call it train; where its pictures lie differs between them.
    "single": Source("train", "train_", ("train_list.txt",), ("images", ".", "..")),
}
EQUAL_LIST = "cs_2020equal_path.txt"
MISLABELLED = ("train/105180993.png", "train/829283568.png", "train/943445997.png")
_CLEANED_OF = ("2019_final", "single")
_SEPARATOR = re.compile(r"[:,\s]+(?=[^:,\s]+$)")


def split_line(line: str) -> tuple[str, str] | None:
    """Name and label of a line: what stands before and behind its last colon, comma or run of spaces; None without."""
    # Most lines hold a single colon or space, which is quicker to find than the pattern.
    for sign in (":", " "):
        name, found, label = line.rpartition(sign)
        if found and name and label.isdigit() and name[-1] not in ":, \t":
            return name, label
    parts = _SEPARATOR.split(line)
    return (parts[0], parts[1]) if len(parts) == 2 and all(parts) else None


def read_source(tree: Tree, name: str, *, cleaned: bool) -> list[Picture]:
    """The pictures of one round, in the order of its list; missing ones are noted in the tree and kept.

    Args:
        cleaned: take the list from which duplicates were removed; where only the one before that is there, leave
            out what cs_2020equal_path.txt names. Otherwise the other way round, and nothing is left out.
    """
    source = SOURCES[name]
    folder = tree.root / source.folder
    lists = source.lists if cleaned else source.lists[::-1]
    file = next((folder / one for one in lists if (folder / one).is_file()), None)
    if file is None:
        raise ManifestError(
            f"{NAME}: {folder}: got none of {', '.join(source.lists)}, expected the list of this round"
        )
    pictures = _parse(file, source, name, tree)
    if not cleaned or file.name == source.lists[0]:
        return pictures
    equal = _equal_names(tree.root, folder) if name == "2020_preliminary" else None
    if equal is None:
        text = f"{source.folder}: {file.name} is taken, from which duplicates of other rounds are not removed"
        tree.found.append(Finding("note", "duplicates_kept", text, 1))
        return pictures
    kept = [picture for picture in pictures if picture.path.rpartition("/")[2] not in equal]
    text = f"{len(pictures) - len(kept)} pictures are left out, named by {EQUAL_LIST} (published: 33814)"
    tree.found.append(Finding("note", "duplicates", text, len(pictures) - len(kept)))
    return kept


def _parse(file: Path, source: Source, name: str, tree: Tree) -> list[Picture]:
    pairs: dict[str, str] = {}
    for number, line in enumerate(text_lines(file, NAME), 1):
        if not line:
            continue
        pair = split_line(line)
        if pair is None or not (pair[1].isascii() and pair[1].isdigit()):
            raise ManifestError(
                f"{NAME}: {file}:{number}: got {line!r}, expected a file name, a colon or space, a label"
            )
        picture = pair[0].replace("\\", "/")
        if picture in pairs:
            raise ManifestError(f"{NAME}: {file}:{number}: got {picture!r} again, expected each picture once")
        pairs[picture] = pair[1]
    if not pairs:
        raise ManifestError(f"{NAME}: {file}: got an empty list, expected a picture and a label on each line")
    if name in _CLEANED_OF:
        wrong = [pairs.pop(picture) for picture in MISLABELLED if picture in pairs]
        tree.found += finding(
            "note", "mislabelled", "pictures are left out, known to carry a wrong label", wrong
        )
    place = _place(tree.root, source, next(iter(pairs)))
    pictures = [Picture(place + picture, source.prefix + label, name) for picture, label in pairs.items()]
    tree.missing += absent(tree.root, (picture.path for picture in pictures))
    return pictures


def _place(root: Path, source: Source, picture: str) -> str:
    """What stands before the names of a list, with a slash at its end."""
    places = [_joined(source.folder, place) for place in source.places]
    return next((place for place in places if (root / place / picture).is_file()), places[0])


def _joined(folder: str, place: str) -> str:
    return {".": f"{folder}/", "..": ""}.get(place, f"{folder}/{place}/")


def _equal_names(root: Path, folder: Path) -> set[str] | None:
    for file in (folder / EQUAL_LIST, root / EQUAL_LIST):
        if file.is_file():
            return {line.replace("\\", "/").rpartition("/")[2] for line in text_lines(file, NAME) if line}
    return None


def read_names(tree: Tree, file: Path, home: str) -> list[str]:
    """The paths of a list of test pictures: the last word of each line, in the folder `home`."""
    words = [line.split()[-1] for line in text_lines(file, NAME) if line]
    paths = [f"{home}/{word}" for word in words]
    twice = len(paths) - len(set(paths))
    if twice or not paths:
        raise ManifestError(
            f"{NAME}: {file}: got {f'{twice} names twice' if twice else 'an empty list'}, expected each name once"
        )
    tree.missing += absent(tree.root, paths)
    return paths
