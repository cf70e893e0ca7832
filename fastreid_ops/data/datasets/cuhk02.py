# SPDX-License-Identifier: Apache-2.0
"""CUHK02 (Li and Wang, "Locally Aligned Feature Transforms across Views", CVPR 2013).

Five pairs of cameras P1 ... P5, each with cam1/*.png and cam2/*.png called `<id>_...`. P1 to P4 are trained on;
P5 is tested on, cam1 against cam2. Ids are counted anew in each pair: here person n of pair p is p * 10000 + n.
P1 shows the people of CUHK01.
"""

from __future__ import annotations

import os
import re

from fastreid_ops.data.datasets._layout import SPLITS, Row, Tree, combined, find_root, named
from fastreid_ops.data.manifest import Manifest

LAYOUTS = ("cuhk02/Dataset", "CUHK02/Dataset", "Dataset", "cuhk02", "CUHK02", ".")
PAIRS, TESTED = (1, 2, 3, 4, 5), 5
EXPECTED = "*.png files named like 001_1.png (identity of at most 4 digits before the first _)"
PUBLISHED = {
    "train": {"ids": 1577, "cameras": 8},
    "query": {"ids": 239, "cameras": 1},
    "gallery": {"ids": 239, "cameras": 1},
}
PUBLISHED_COMBINED = {"train": {"ids": 1816, "cameras": 10}}
PAIR_FACTOR = 10_000
_NAME = re.compile(r"(\d{1,4})_.*\.png", re.ASCII)


def read(root: str | os.PathLike[str], *, combineall: bool = False) -> Manifest:
    """Read CUHK02 from `root`/cuhk02/Dataset, any shortening of it, or `root` itself.

    Args:
        combineall: train on the fifth pair as well; no query and no gallery is left.

    Raises:
        ManifestError: a ValueError that says what is wrong.
    """
    return scan(root, combineall=combineall).checked(("train",) if combineall else SPLITS)


def scan(root: str | os.PathLike[str], *, combineall: bool = False) -> Tree:
    """Everything in the ten folders; arguments as `read`."""
    folders = [f"P{pair}/cam{side}" for pair in PAIRS for side in (1, 2)]
    tree = Tree("cuhk02", find_root("cuhk02", root, LAYOUTS, folders), EXPECTED)
    for camid, folder in enumerate(folders):
        pair, side = PAIRS[camid // 2], camid % 2
        split = "train" if pair != TESTED else ("query", "gallery")[side]
        tree.rows += [
            Row(path, pair * PAIR_FACTOR + int(match[1]), camid, split)
            for path, match in named(tree, folder, ".png", _NAME)
        ]
    tree.published = PUBLISHED_COMBINED if combineall else PUBLISHED
    if combineall:
        tree.rows = combined(tree.rows)
    return tree
