# SPDX-License-Identifier: Apache-2.0
"""LTCC (Qian et al., "Long-Term Cloth-Changing Person Re-identification", ACCV 2020).

Folders train, query and test (gallery in some copies) of *.png files called IDENTITY_CLOTHES_cCAMERA_FRAME, cameras 1
to 12. Clothes count from 1 for each identity anew. Lists in info/ name the identities that change their clothes.
"""

from __future__ import annotations

import os
import re

from fastreid_ops.data.datasets._layout import Row, Tree, choice, files, find_root, shortened
from fastreid_ops.data.datasets._lists import id_list
from fastreid_ops.data.manifest import Manifest

NAME = "ltcc"
LAYOUTS = ("LTCC_ReID", "LTCC_ReID/rgb", "ltcc", "ltcc/rgb", "rgb", ".")
GALLERY = ("test", "gallery")
# Which identities: the list for the training set, the list for the test set.
LISTS = {
    "all": (),
    "changing": ("info/cloth-change_id_train.txt", "info/cloth-change_id_test.txt"),
    "constant": ("info/cloth-unchange_id_train.txt", "info/cloth-unchange_id_test.txt"),
}
EXPECTED = "*.png files named like 094_1_c9_015833.png (identity, clothes, camera, frame)"
PUBLISHED = {
    "train": {"images": 9576, "ids": 77},
    "query": {"images": 493, "ids": 75},
    "gallery": {"images": 7050, "ids": 75},
}
_NAME = re.compile(r"(\d+)_(\d+)_c([1-9]|1[0-2])(?!\d)", re.ASCII)


def read(root: str | os.PathLike[str], *, identities: str = "all") -> Manifest:
    """Read LTCC from `root`/LTCC_ReID, with or without a folder rgb in it, or `root` itself.

    Args:
        identities: "all", or only those of the lists in info/: "changing" their clothes or "constant".

    Returns:
        column clothes, "<identity>_<clothes>".

    Raises:
        ManifestError: when no layout fits, a *.png name holds no identity, clothes and camera, a list is missing or
            names an identity without an image, or a split has no row.
    """
    return scan(root, identities=identities).checked()


def scan(root: str | os.PathLike[str], *, identities: str = "all") -> Tree:
    """Everything that lies there and what is wrong with it; arguments as `read`."""
    choice(NAME, "identities", identities, list(LISTS))
    folder = find_root(NAME, root, LAYOUTS, ["train", "query", GALLERY, *LISTS[identities]])
    tree = Tree(NAME, folder, EXPECTED, PUBLISHED if identities == "all" else {})
    gallery = next(name for name in GALLERY if (folder / name).is_dir())
    for split, home in (("train", "train"), ("query", "query"), ("gallery", gallery)):
        add_named(tree, split, home, ".png", _NAME, ("pid", "clothes", "camera"), "_")
    if identities != "all":
        train, test = (set(id_list(folder / name, NAME)) for name in LISTS[identities])
        lost = sorted((train - {row.pid for row in tree.rows if row.split == "train"})
                      | (test - {row.pid for row in tree.rows if row.split != "train"}))  # fmt: skip
        if lost:
            tree.broken.append(
                f"{NAME}: {folder / 'info'}: got {shortened(list(map(str, lost)))}, expected identities with images"
            )
        tree.rows = [row for row in tree.rows if row.pid in (train if row.split == "train" else test)]
    return tree


def add_named(
    tree: Tree,
    split: str,
    home: str,
    extension: str,
    name: re.Pattern[str],
    order: tuple[str, ...],
    sign: str,
) -> None:
    """Add the files of one folder whose names hold identity, clothes and camera, the camera counted from 1.

    Args:
        order: what the groups of `name` are: "pid", "clothes", "camera" in some order.
        sign: stands between identity and clothes in the clothes' name.
    """
    images, other = files(tree.root / home, extension)
    tree.passed += [f"{home}/{entry}" for entry in other]
    for entry in images:
        match = name.match(entry)
        if not match:
            tree.unreadable.append(f"{home}/{entry}")
            continue
        part = dict(zip(order, match.groups(), strict=True))
        # Clothes are numbered for each identity anew.
        clothes = f"{int(part['pid'])}{sign}{int(part['clothes'])}"
        tree.rows.append(
            Row(f"{home}/{entry}", int(part["pid"]), int(part["camera"]) - 1, split, clothes=clothes)
        )
