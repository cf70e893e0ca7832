# SPDX-License-Identifier: Apache-2.0
"""PRCC (Yang et al., "Person Re-identification by Contour Sketch under Moderate Clothing Change", TPAMI 2019).

rgb/{train,val}/IDENTITY/{A,B,C}*.jpg and rgb/test/{A,B,C}/IDENTITY/*.jpg. Cameras A and B see a person in the same
clothes, camera C in other ones. val holds further pictures of the training identities and is not trained on unless
asked for. The gallery is camera A; queries are camera B (same clothes) and camera C (other clothes): the protocol picks
one by its number, 1 or 2.
"""

from __future__ import annotations

import os

from fastreid_ops.data.datasets._layout import Row, Tree, files, find_root, folders
from fastreid_ops.data.manifest import Manifest

NAME = "prcc"
LAYOUTS = ("prcc/rgb", "PRCC/rgb", "prcc", "rgb", ".")
CAMERAS = "ABC"
EXPECTED = "*.jpg in folders like test/A/005, and in folders like train/005 with A, B or C before their names"
PUBLISHED = {
    "train": {"images": 17896, "ids": 150, "cameras": 3},
    "query": {"images": 3873 + 3543, "ids": 71, "cameras": 2},
    "gallery": {"images": 3384, "ids": 71, "cameras": 1},
}
PUBLISHED_WITH_VALIDATION = {**PUBLISHED, "train": {"images": 17896 + 5002, "ids": 150, "cameras": 3}}


def read(root: str | os.PathLike[str], *, validation: bool = False) -> Manifest:
    """Read PRCC from `root`/prcc/rgb, any shortening of it, or `root` itself.

    Args:
        validation: train on the pictures of val/ as well; its identities are those of train/.

    Returns:
        cameras 0 (A), 1 (B), 2 (C); column clothes, "<identity>AB" or "<identity>C".

    Raises:
        ManifestError: when no layout fits, an identity's folder is no number, a name in train/ or val/ begins with no
            camera, val/ holds an identity that train/ does not, or a split has no row.
    """
    return scan(root, validation=validation).checked()


def scan(root: str | os.PathLike[str], *, validation: bool = False) -> Tree:
    """Everything that lies there and what is wrong with it; arguments as `read`."""
    tests = [f"test/{camera}" for camera in CAMERAS]
    folder = find_root(NAME, root, LAYOUTS, ["train", *(["val"] if validation else []), *tests])
    tree = Tree(NAME, folder, EXPECTED, PUBLISHED_WITH_VALIDATION if validation else PUBLISHED)
    _add(tree, "train", "train")
    if validation:
        known = {row.pid for row in tree.rows}
        _add(tree, "val", "train")
        strange = sorted({row.pid for row in tree.rows} - known)
        if strange:
            tree.broken.append(
                f"{NAME}: {folder / 'val'}: got identity {strange[0]}, expected those of train only"
            )
    for camera, test in zip(CAMERAS, tests, strict=True):
        _add(tree, test, "gallery" if camera == "A" else "query", camera)
    return tree


def _add(tree: Tree, home: str, split: str, camera: str | None = None) -> None:
    people, other = folders(tree.root / home)
    tree.passed += [f"{home}/{name}" for name in other]
    for person in people:
        images, other = files(tree.root / home / person, ".jpg")
        tree.passed += [f"{home}/{person}/{entry}" for entry in other]
        for entry in images:
            seen = camera or entry[0]
            path = f"{home}/{person}/{entry}"
            if seen in CAMERAS and person.isascii() and person.isdigit():
                clothes = f"{int(person)}{'C' if seen == 'C' else 'AB'}"
                tree.rows.append(Row(path, int(person), CAMERAS.index(seen), split, clothes=clothes))
            else:
                tree.unreadable.append(path)
