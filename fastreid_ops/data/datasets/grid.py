# SPDX-License-Identifier: Apache-2.0
"""GRID, QMUL underground re-identification (Loy et al., "Multi-Camera Activity Correlation Analysis", CVPR 2009).

250 people, one picture each in probe/ and gallery/, and 775 distractors of identity 0 in gallery/. Names are
`<id>_<camera>_....jpeg`. Ten fixed splits of 125 people to train on are in features_and_partitions.mat.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np

from fastreid_ops.data.checks import finding
from fastreid_ops.data.datasets._layout import (
    SPLITS,
    Row,
    Tree,
    choice,
    combined,
    find_root,
    named,
    shortened,
)
from fastreid_ops.data.datasets._matlab import load_mat
from fastreid_ops.data.datasets._splits import DRAWS, from_file, split_file
from fastreid_ops.data.manifest import Manifest, ManifestError

LAYOUTS = ("grid/underground_reid", "underground_reid", "grid", "GRID/underground_reid", "GRID", ".")
PARTITIONS = "features_and_partitions.mat"
EXPECTED = "*.jpeg files named like 0001_1_25004_107_32_106_221.jpeg (identity, camera)"
# The gallery's identities include 0.
PUBLISHED = {
    "train": {"images": 250, "ids": 125},
    "query": {"images": 125, "ids": 125},
    "gallery": {"images": 900, "ids": 126},
}
PUBLISHED_COMBINED = {"train": {"images": 500, "ids": 250}}
CAMERAS = 8
_NAME = re.compile(r"(\d+)_([1-9]\d*)_.*\.jpeg", re.ASCII)


def read(root: str | os.PathLike[str], *, split: int = 0, combineall: bool = False) -> Manifest:
    """Read one split of GRID from `root`/grid/underground_reid, any shortening of it, or `root` itself.

    Args:
        split: 0 to 9; from torchreid's splits.json if it is there, else from features_and_partitions.mat,
            which needs SciPy.
        combineall: train on all images but the distractors; no query and no gallery is left.

    Raises:
        ManifestError: a ValueError that says what is wrong.
    """
    return scan(root, split=split, combineall=combineall).checked(("train",) if combineall else SPLITS)


def scan(root: str | os.PathLike[str], *, split: int = 0, combineall: bool = False) -> Tree:
    """Everything in the two folders; arguments as `read`."""
    choice("grid", "split", split, range(DRAWS))
    tree = Tree("grid", find_root("grid", root, LAYOUTS, ["probe", "gallery"]), EXPECTED)
    images = [
        Row(path, int(match[1]), int(match[2]) - 1, split_name)
        for split_name, folder in (("query", "probe"), ("gallery", "gallery"))
        for path, match in named(tree, folder, ".jpeg", _NAME)
    ]
    file = split_file(tree, Path(root), "splits.json", None)
    if file is not None:
        from_file(tree, file, split, images)
    else:
        train = _train_ids(tree.root / PARTITIONS, split)
        lost = sorted(train - {image.pid for image in images})
        if lost:
            tree.broken.append(
                f"grid: {tree.root}: got no image of {len(lost)} identities of split {split} "
                f"({shortened(list(map(str, lost)))}), expected two of each"
            )
        tree.rows += [image._replace(split="train") if image.pid in train else image for image in images]
    tree.found += finding(
        "problem",
        "distractor_id",
        "images of identity 0 (distractors) are not in the gallery",
        [row.path for row in tree.rows if row.pid == 0 and row.split != "gallery"],
    )
    tree.found += finding(
        "problem",
        "outside_range",
        f"images have a camera over {CAMERAS}",
        [row.path for row in tree.rows if row.camid >= CAMERAS],
    )
    tree.published = PUBLISHED_COMBINED if combineall else PUBLISHED
    if combineall:
        tree.rows = combined(tree.rows, lambda pid: pid == 0)
    return tree


def _train_ids(file: Path, split: int) -> set[int]:
    """The identities in the third field of the structure in cell `split` of trainIdxAll."""
    if not file.is_file():
        raise ManifestError(f"grid: {file}: got no such file and no splits.json, expected one of them")
    try:
        record = load_mat(file, "grid")["trainIdxAll"][0][split][0][0]
        return {int(pid) for pid in np.ravel(record[2])}
    except (KeyError, IndexError, TypeError, ValueError) as error:
        if isinstance(error, ManifestError):
            raise
        raise ManifestError(
            f"grid: {file}: got no cell {split} with the identities to train on in trainIdxAll, expected "
            f"{DRAWS} cells"
        ) from error
