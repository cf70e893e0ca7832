# SPDX-License-Identifier: Apache-2.0
"""iLIDS-VID (Wang et al., "Person Re-Identification by Video Ranking", ECCV 2014): 300 people under two cameras.

Ten published splits: each row of the MATLAB table ls_set holds places in the sorted list of person folders, from 1.
The first half of a row is the test set, the second half the training set. Camera 1 is query, camera 2 gallery.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np

from fastreid_ops.data.datasets._layout import Tree, choice, files, find_root, folders, shortened
from fastreid_ops.data.datasets._matlab import load_mat
from fastreid_ops.data.datasets._tracklets import add_tracklet
from fastreid_ops.data.manifest import Manifest, ManifestError

NAME = "ilidsvid"
LAYOUTS = ("ilids-vid", "iLIDS-VID", ".")
CAMERAS = ("i-LIDS-VID/sequences/cam1", "i-LIDS-VID/sequences/cam2")
SPLITS_FILE = "train-test people splits/train_test_splits_ilidsvid.mat"
EXPECTED = "*.png frames in folders named like person001"
SPLITS = 10
PUBLISHED = {
    "train": {"tracklets": 300, "ids": 150, "cameras": 2},
    "query": {"tracklets": 150, "ids": 150, "cameras": 1},
    "gallery": {"tracklets": 150, "ids": 150, "cameras": 1},
}
_PERSON = re.compile(r"person_?(\d+)", re.ASCII)


def read(root: str | os.PathLike[str], *, split: int = 0) -> Manifest:
    """Read iLIDS-VID from `root`/ilids-vid or `root` itself.

    Args:
        split: 0 to 9, which of the published splits.

    Returns:
        one row for each frame in the order of the file names, with the columns tracklet and frame.

    Raises:
        ManifestError: when no layout fits, SciPy is not installed, the table does not fit the folders (a stray folder
            would shift every identity), or a person has no frames.
    """
    return scan(root, split=split).checked()


def scan(root: str | os.PathLike[str], *, split: int = 0) -> Tree:
    """Everything that lies there and what is wrong with it; arguments as `read`."""
    choice(NAME, "split", split, range(SPLITS))
    folder = find_root(NAME, root, LAYOUTS, [*CAMERAS, SPLITS_FILE])
    tree = Tree(NAME, folder, EXPECTED, PUBLISHED)
    people, other = folders(folder / CAMERAS[0])
    tree.passed += [f"{CAMERAS[0]}/{name}" for name in other]
    differing = sorted(set(people) ^ set(folders(folder / CAMERAS[1])[0]))
    if differing:
        tree.broken.append(
            f"{NAME}: {folder}: got {shortened(differing)} under one camera only, expected the same people under both"
        )
    row = _split(folder / SPLITS_FILE, split, len(people))
    half = len(row) // 2
    test, train = sorted(row[:half]), sorted(row[half:])
    add_people(tree, CAMERAS, [people[place] for place in train], [people[place] for place in test], _PERSON)
    return tree


def _split(file: Path, split: int, people: int) -> list[int]:
    table = load_mat(file, NAME).get("ls_set")
    if table is None or table.ndim != 2 or len(table) != SPLITS:
        raise ManifestError(
            f"{NAME}: {file}: got no table ls_set of {SPLITS} rows, expected one row for each split"
        )
    row = np.asarray(table[split], np.int64).tolist()
    if sorted(row) != list(range(1, people + 1)):
        raise ManifestError(
            f"{NAME}: {file}: split {split}: got {len(row)} numbers up to {max(row, default=0)}, expected each of "
            f"the {people} person folders once"
        )
    return [place - 1 for place in row]


def add_people(
    tree: Tree, cameras: tuple[str, str], train: list[str], test: list[str], person: re.Pattern[str]
) -> None:
    """Add person folders under two cameras: both train, the first query, the second gallery."""
    sides = [("train", train, (0, 1)), ("query", test, (0,)), ("gallery", test, (1,))]
    for split, people, under in sides:
        for name in people:
            for camid in under:
                folder = f"{cameras[camid]}/{name}"
                match = person.fullmatch(name)
                if not match:
                    tree.unreadable.append(folder)
                    continue
                if not (tree.root / folder).is_dir():
                    tree.missing.append(folder)
                    continue
                frames, other = files(tree.root / folder, ".png")
                tree.passed += [f"{folder}/{entry}" for entry in other]
                if not frames:
                    tree.broken.append(f"{tree.name}: {tree.root / folder}: got no *.png, expected frames")
                    continue
                add_tracklet(tree, [f"{folder}/{entry}" for entry in frames], int(match[1]), camid, split)
