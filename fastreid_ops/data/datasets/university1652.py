# SPDX-License-Identifier: Apache-2.0
"""University-1652 (Zheng et al., "University-1652: A Multi-view Multi-source Benchmark for Drone-based
Geo-localization", ACM MM 2020): buildings instead of people.

train/<view>/<id>/*, test/query_<view>/<id>/* and test/gallery_<view>/<id>/*. There are no cameras: as in torchreid
every image is a camera of its own, so that no protocol drops anything. The usual task finds drone images among
satellite images; the others are options.
"""

from __future__ import annotations

import os

from fastreid_ops.data.datasets._layout import (
    SPLITS,
    Row,
    Tree,
    choice,
    combined,
    files,
    find_root,
    folders,
)
from fastreid_ops.data.manifest import Manifest

LAYOUTS = ("university1652/University-Release", "University-Release", "university1652", ".")
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
EXPECTED = "images in folders named like 0001 (a building)"
VIEWS = ("drone", "satellite", "street")
PUBLISHED_TRAIN = {"images": 50218, "ids": 701}
PUBLISHED_QUERY = {
    "drone": {"images": 37855, "ids": 701},
    "satellite": {"images": 701, "ids": 701},
    "street": {"images": 2579, "ids": 701},
}
PUBLISHED_GALLERY = {
    "drone": {"images": 51355, "ids": 951},
    "satellite": {"images": 951, "ids": 951},
    "street": {"images": 2921, "ids": 793},
}


def read(
    root: str | os.PathLike[str],
    *,
    query: str = "drone",
    gallery: str = "satellite",
    combineall: bool = False,
) -> Manifest:
    """Read University-1652 from `root`/university1652/University-Release, any shortening of it, or `root` itself.

    Args:
        query, gallery: which views, "drone", "satellite" or "street" (the ground).
        combineall: train on the test images of these views as well; no query and no gallery is left.

    Raises:
        ManifestError: a ValueError that says what is wrong.
    """
    tree = scan(root, query=query, gallery=gallery, combineall=combineall)
    return tree.checked(("train",) if combineall else SPLITS)


def scan(
    root: str | os.PathLike[str],
    *,
    query: str = "drone",
    gallery: str = "satellite",
    combineall: bool = False,
) -> Tree:
    """Everything in the folders of the train set and of these two views; arguments as `read`."""
    choice("university1652", "query", query, VIEWS)
    choice("university1652", "gallery", gallery, VIEWS)
    tested = {"query": f"test/query_{query}", "gallery": f"test/gallery_{gallery}"}
    base = find_root("university1652", root, LAYOUTS, ["train", *tested.values()])
    tree = Tree("university1652", base, EXPECTED)
    views, stray = folders(base / "train")
    tree.passed += [f"train/{entry}" for entry in stray]
    for view in views:
        _buildings(tree, f"train/{view}", "train")
    for split, folder in tested.items():
        _buildings(tree, folder, split)
    tree.published = (
        {}
        if combineall
        else {
            "train": PUBLISHED_TRAIN,
            "query": PUBLISHED_QUERY[query],
            "gallery": PUBLISHED_GALLERY[gallery],
        }
    )
    if combineall:
        tree.rows = combined(tree.rows)
    return tree


def _buildings(tree: Tree, folder: str, split: str) -> None:
    names, stray = folders(tree.root / folder)
    tree.passed += [f"{folder}/{entry}" for entry in stray]
    for name in names:
        images, passed = files(tree.root / folder / name, EXTENSIONS, any_case=True)
        tree.passed += [f"{folder}/{name}/{entry}" for entry in passed]
        paths = [f"{folder}/{name}/{entry}" for entry in images]
        if not (name.isascii() and name.isdigit()):
            tree.unreadable += paths
            continue
        tree.rows += [Row(path, int(name), len(tree.rows) + n, split) for n, path in enumerate(paths)]
