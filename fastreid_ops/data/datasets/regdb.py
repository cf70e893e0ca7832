# SPDX-License-Identifier: Apache-2.0
"""RegDB (Nguyen et al., "Person Recognition System Based on a Combination of Body Images from Visible Light and Thermal
Cameras", Sensors 2017): 412 people, ten visible and ten thermal pictures each, ten published halvings.

Lists `idx/{train,test}_{visible,thermal}_{trial}.txt` of lines `path label`. One model is trained for each trial. The
visible camera is 0, the thermal one 1; the protocol excludes no camera.
"""

from __future__ import annotations

import os

from fastreid_ops.data.datasets._layout import Row, Tree, absent, choice, find_root, shortened
from fastreid_ops.data.datasets._lists import identities, labelled_list
from fastreid_ops.data.manifest import Manifest

NAME = "regdb"
LAYOUTS = ("RegDB", "regdb", ".")
TRIALS = range(1, 11)
# Place of the kind: camera; word of the lists: word of the manifest.
KINDS = {"visible": "visible", "thermal": "infrared"}
EXPECTED = "lines like 'Visible/1/male_front_v_00007_1.bmp 0' in the lists"
PUBLISHED = {
    "train": {"images": 4120, "ids": 206, "cameras": 2},
    "query": {"images": 4120, "ids": 206, "cameras": 2},
    "gallery": {"images": 4120, "ids": 206, "cameras": 2},
}


def read(root: str | os.PathLike[str], *, trial: int = 1) -> Manifest:
    """Read one trial of RegDB from `root`/RegDB or `root` itself.

    Args:
        trial: 1 to 10, which of the published halvings.

    Returns:
        column modality "visible" or "infrared". Both directions are evaluated, so that every test image stands in a
        query row and in a gallery row; the protocol picks the modality of each side. An identity is the number of its
        folder where folders and labels are one to one, otherwise "train-<label>" or "test-<label>": the lists
        number both halves from 0.

    Raises:
        ManifestError: when no layout fits, a list is damaged, a file is in train and test, or a listed one is missing.
    """
    return scan(root, trial=trial).checked()


def scan(root: str | os.PathLike[str], *, trial: int = 1) -> Tree:
    """Everything the lists name and what is wrong with it; arguments as `read`."""
    choice(NAME, "trial", trial, TRIALS)
    lists = {(half, kind): f"idx/{half}_{kind}_{trial}.txt" for half in ("train", "test") for kind in KINDS}
    folder = find_root(NAME, root, LAYOUTS, ["Visible", "Thermal", *lists.values()])
    tree = Tree(NAME, folder, EXPECTED, PUBLISHED)
    rows = {key: labelled_list(folder / name, NAME) for key, name in lists.items()}
    people: dict[str, list[tuple[int, int]]] = {"train": [], "test": []}
    for (half, _), lines in rows.items():
        for line in lines:
            parts = line.path.split("/")
            if len(parts) != 3 or not parts[1].isdecimal():
                tree.unreadable.append(line.path)
            else:
                people[half].append((line.label, int(parts[1])))
    if tree.unreadable:
        return tree
    pids = identities(people)
    for split, half in (("train", "train"), ("query", "test"), ("gallery", "test")):
        for camid, (kind, modality) in enumerate(KINDS.items()):
            tree.rows += [
                Row(line.path, pids[half, line.label], camid, split, modality) for line in rows[half, kind]
            ]
    tree.missing = absent(folder, (row.path for row in tree.rows))
    both = sorted({row.path for row in tree.rows if row.split == "train"}
                  & {row.path for row in tree.rows if row.split == "query"})  # fmt: skip
    if both:
        tree.broken.append(
            f"{NAME}: trial {trial}: got {shortened(both)} in train and test, expected one of them"
        )
    return tree
