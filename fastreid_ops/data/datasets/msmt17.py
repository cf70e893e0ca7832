# SPDX-License-Identifier: Apache-2.0
"""MSMT17 (Wei et al., "Person Transfer GAN to Bridge Domain Gap for Person Re-Identification", CVPR 2018).

Version 1 has train/ and test/, version 2, with blurred faces, mask_train_v2/ and mask_test_v2/; list_train.txt,
list_val.txt, list_query.txt and list_gallery.txt have lines `<id>/<name> <id>`, the third field of a name is the
camera from 1. Train and test people are counted from 0 both: here person n of the test set is 10000 + n.
"""

from __future__ import annotations

import os
import re

from fastreid_ops.data.checks import finding
from fastreid_ops.data.datasets._layout import (
    SPLITS,
    Row,
    Tree,
    absent,
    choice,
    combined,
    find_root,
    text_lines,
)
from fastreid_ops.data.datasets._splits import tail
from fastreid_ops.data.manifest import Manifest

MAIN = {"V1": "MSMT17_V1", "V2": "MSMT17_V2"}
FOLDERS = {"V1": ("train", "test"), "V2": ("mask_train_v2", "mask_test_v2")}
LISTS = {
    "train": "list_train.txt",
    "val": "list_val.txt",
    "query": "list_query.txt",
    "gallery": "list_gallery.txt",
}
EXPECTED = (
    "lines like `0000/0000_000_01_0303morning_0015_0.jpg 0` (name with the camera as third field, identity)"
)
PUBLISHED = {
    "train": {"images": 30248, "ids": 1041, "cameras": 15},
    "query": {"images": 11659, "ids": 3060, "cameras": 15},
    "gallery": {"images": 82161, "ids": 3060, "cameras": 15},
}
PUBLISHED_WITH_VAL = {**PUBLISHED, "train": {"images": 32621, "ids": 1041, "cameras": 15}}
PUBLISHED_COMBINED = {"train": {"images": 126441, "ids": 4101, "cameras": 15}}
CAMERAS = 15
TEST_IDS_FROM = 10_000
_LINE = re.compile(r"(\S.*?)\s+(\d{1,4})", re.ASCII)
_NAME = re.compile(r"[^_]*_[^_]*_0*([1-9]\d*)_[^/]*", re.ASCII)


def read(
    root: str | os.PathLike[str], *, version: str = "any", list_val: bool = False, combineall: bool = False
) -> Manifest:
    """Read MSMT17 from `root`/msmt17/MSMT17_V1 (or _V2), any shortening of it, or `root` itself.

    Args:
        version: "V1", "V2", or "any" for the first one that is there.
        list_val: train on the 2,373 images of list_val.txt as well; they are of the same people.
        combineall: train on all four lists; no query and no gallery is left.

    Raises:
        ManifestError: a ValueError that says what is wrong, listed files that are missing included.
    """
    tree = scan(root, version=version, list_val=list_val, combineall=combineall)
    return tree.checked(("train",) if combineall else SPLITS)


def scan(
    root: str | os.PathLike[str], *, version: str = "any", list_val: bool = False, combineall: bool = False
) -> Tree:
    """Everything that the lists name; arguments as `read`."""
    choice("msmt17", "version", version, ("any", *MAIN))
    wanted = list(MAIN) if version == "any" else [version]
    lists = [LISTS[name] for name in LISTS if name != "val" or list_val or combineall]
    layouts = [f"{outer}{MAIN[one]}" for one in wanted for outer in ("msmt17/", "MSMT17/", "")] + [
        "msmt17",
        "MSMT17",
        ".",
    ]
    sides = [tuple(FOLDERS[one][side] for one in wanted) for side in (0, 1)]
    base = find_root("msmt17", root, layouts, [*sides, *lists])
    there = next((one for one in wanted if all((base / name).is_dir() for name in FOLDERS[one])), wanted[0])
    tree = Tree("msmt17", base, EXPECTED)
    for name, file in LISTS.items():
        if file in lists:
            _listed(
                tree, file, FOLDERS[there][name in ("query", "gallery")], "train" if name == "val" else name
            )
    tree.missing += absent(base, (row.path for row in tree.rows))
    outside = [row.path for row in tree.rows if row.camid >= CAMERAS]
    tree.found += finding("problem", "outside_range", f"images have a camera over {CAMERAS}", outside)
    tree.published = PUBLISHED_COMBINED if combineall else PUBLISHED_WITH_VAL if list_val else PUBLISHED
    if combineall:
        tree.rows = combined(tree.rows)
    return tree


def _listed(tree: Tree, file: str, folder: str, split: str) -> None:
    first = 0 if split == "train" else TEST_IDS_FROM
    for number, line in enumerate(text_lines(tree.root / file, "msmt17"), 1):
        match = _LINE.fullmatch(line)
        # A list that somebody made may hold the absolute names of another machine.
        path = tail(match[1], 2) if match else ""
        name = _NAME.fullmatch(tail(path, 1))
        if match is None or name is None:
            tree.unreadable.append(f"{file}:{number} {line!r}")
        else:
            tree.rows.append(Row(f"{folder}/{path}", first + int(match[2]), int(name[1]) - 1, split))
