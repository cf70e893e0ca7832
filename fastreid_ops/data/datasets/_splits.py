# SPDX-License-Identifier: Apache-2.0
"""Which identities are trained on, where a data set fixes only how they are drawn.

torchreid (Zhou and Xiang, `Torchreid`, 2019) draws with an unseeded generator on first use and stores the result
with absolute file names in splits.json. Here such a file is used when it is there, its names mapped onto this
folder; otherwise splits are drawn from a seed, in memory, by the same calls that torchreid makes.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from fastreid_ops.data.checks import Finding
from fastreid_ops.data.datasets._layout import SPLITS, Row, Tree, choice, shortened
from fastreid_ops.data.manifest import ManifestError

DRAWS = 10


def shuffled(count: int, draw: int, seed: int) -> list[int]:
    """0 ... count - 1 in the order of the `draw`-th shuffle (from 0) after `numpy.random.seed(seed)`, each of
    them of a fresh `arange(count)`."""
    state = np.random.RandomState(seed)
    for _ in range(draw + 1):
        order = np.arange(count)
        state.shuffle(order)
    return order.tolist()


def generator(seed: int) -> random.Random:
    """Draws what `random.seed(seed)` followed by the functions of `random` would."""
    return random.Random(seed)


def split_file(tree: Tree, base: Path, file: str, seed: int | None) -> Path | None:
    """The data set's split file, beside its folders or one level up, but not above the folder the user named.

    None if there is none, or if the user asks for a seed and so for another split.

    Raises:
        ValueError, TypeError: for a seed that NumPy could not take.
    """
    if seed is not None:
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise TypeError(f"{tree.name}: seed: got {seed!r}, expected a whole number or None")
        if not 0 <= seed < 2**32:
            raise ValueError(f"{tree.name}: seed: got {seed}, expected 0 to 2**32 - 1")
        return None
    inside = [tree.root] if tree.root == base.expanduser() else [tree.root, tree.root.parent]
    return next((folder / file for folder in inside if (folder / file).is_file()), None)


def say_drawn(tree: Tree, split: int, number: int, seed: int | None) -> int:
    """Note that a split is drawn; returns the seed to use."""
    used = seed or 0
    text = f"split {split} of {number} drawn with seed {used}; publications that drew their own used other splits"
    tree.found.append(Finding("note", "drawn_split", text, 1))
    return used


def load(tree: Tree, file: Path, split: int) -> Mapping:
    """Split number `split` of a split file, a JSON list of objects.

    Raises:
        ManifestError: for a file that is something else. ValueError: for a number it does not have.
    """
    try:
        splits = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ManifestError(f"{tree.name}: {file}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ManifestError(f"{tree.name}: {file}: got no JSON text, expected splits: {error}") from error
    if not isinstance(splits, list) or not splits or not all(isinstance(one, dict) for one in splits):
        raise ManifestError(f"{tree.name}: {file}: got no list of objects, expected one object per split")
    choice(tree.name, "split", split, range(len(splits)))
    text = f"split {split} of {len(splits)} taken from {file}"
    tree.found.append(Finding("note", "split_file", text, 1))
    return splits[split]


def tail(path: str, parts: int) -> str:
    """The last parts of a file name from any system."""
    return "/".join(path.replace("\\", "/").split("/")[-parts:])


def from_file(tree: Tree, file: Path, split: int, images: Iterable[Row], parts: int = 2) -> None:
    """Fill a tree's rows from a split file that lists [name, pid, camid] under train, query and gallery.

    Labels are taken from the images, since the file's train pids are relabelled and so clash with its test
    pids. They must agree one to one with the file's; names are compared by their last parts.

    Args:
        images: all usable images of the folder; their split is not looked at.
        parts: how many components at the end of a name tell it from every other.

    Raises:
        ManifestError: for a split file of another shape.
    """
    known = {tail(image.path, parts): image for image in images}
    chosen = load(tree, file, split)
    trained, tested = Agreement(), Agreement()
    cameras = Agreement()
    for name in SPLITS:
        for entry in _entries(tree, file, chosen, name):
            key = tail(entry[0], parts)
            if key not in known:
                tree.missing.append(key)
                continue
            image = known[key]
            tree.rows.append(image._replace(split=name))
            (trained if name == "train" else tested).add(image.pid, entry[1], key)
            cameras.add(image.camid, entry[2], key)
    for what, pairs in (("identities", trained), ("identities", tested), ("cameras", cameras)):
        if pairs.broken:
            tree.broken.append(
                f"{tree.name}: {file}: got {what} that contradict the file names at "
                f"{shortened(pairs.broken)}, expected the split file of this data set"
            )
    refuse_overlap(tree, file)


def refuse_overlap(tree: Tree, file: Path) -> None:
    """A split that trains on its test identities is broken."""
    train = {row.pid for row in tree.rows if row.split == "train"}
    both = sorted({row.pid for row in tree.rows if row.split != "train"} & train, key=str)
    if both:
        tree.broken.append(
            f"{tree.name}: {file}: got {len(both)} identities in train and in query or gallery "
            f"({shortened(list(map(str, both)))}), expected none"
        )


class Agreement:
    """Whether two labellings are one up to their names; `broken` lists where they are not."""

    def __init__(self) -> None:
        self.there: dict[object, object] = {}
        self.back: dict[object, object] = {}
        self.broken: list[str] = []

    def add(self, one: object, other: object, place: str) -> None:
        """Take in one pair of labels."""
        if self.there.setdefault(one, other) != other or self.back.setdefault(other, one) != one:
            self.broken.append(place)


def _entries(tree: Tree, file: Path, chosen: Mapping, name: str) -> list[tuple[str, int, int]]:
    entries = chosen.get(name)
    if not isinstance(entries, list) or not all(
        isinstance(entry, list) and len(entry) == 3 and isinstance(entry[0], str) for entry in entries
    ):
        raise ManifestError(
            f"{tree.name}: {file}: {name}: got something else, expected a list of [name, pid, camid]"
        )
    return [tuple(entry) for entry in entries]


def require_pairs(tree: Tree, images: Iterable[Row], sides: Mapping[int, str]) -> dict[int, dict[int, Row]]:
    """{camid: {pid: image}} of a set with one image for each identity and camera; identities without one of
    them and images that share both make the tree broken.

    Args:
        sides: {camid: folder}, for messages.
    """
    by: dict[int, dict[int, Row]] = {camid: {} for camid in sides}
    doubled = []
    for image in images:
        if by[image.camid].setdefault(image.pid, image) is not image:
            doubled.append(image.path)
    if doubled:
        tree.broken.append(
            f"{tree.name}: {tree.root}: got a second image for an identity under one camera: "
            f"{shortened(doubled)}, expected one"
        )
    everyone = set().union(*by.values())
    for camid, folder in sides.items():
        lonely = [str(pid) for pid in sorted(everyone - by[camid].keys())]
        if lonely:
            tree.broken.append(
                f"{tree.name}: {tree.root / folder}: got no image of {len(lonely)} identities that the other "
                f"camera has ({shortened(lonely)}), expected one of each"
            )
    return by
