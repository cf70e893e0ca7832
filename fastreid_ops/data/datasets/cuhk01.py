# SPDX-License-Identifier: Apache-2.0
"""CUHK01 (Li et al., "Human Reidentification with Transferred Metric Learning", ACCV 2012).

971 people, four pictures each, campus/<id of 4 digits><number of 3 digits>.png: 1 and 2 under one camera, 3 and 4
under the other. 485 people are trained on; ten draws times two directions make 20 splits: 2k has the first camera
as query, 2k + 1 the second, on the same people. The people of CUHK02's first camera pair are the same ones.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from fastreid_ops.data.datasets._layout import SPLITS, Row, Tree, choice, combined, find_root, named
from fastreid_ops.data.datasets._splits import DRAWS, from_file, say_drawn, shuffled, split_file
from fastreid_ops.data.manifest import Manifest

LAYOUTS = ("cuhk01", "CUHK01", "cuhk01/CUHK01", ".")
EXPECTED = "*.png files named like 0001003.png (identity of 4 digits, picture 001 to 004)"
PUBLISHED = {
    "train": {"images": 1940, "ids": 485, "cameras": 2},
    "query": {"images": 972, "ids": 486, "cameras": 1},
    "gallery": {"images": 972, "ids": 486, "cameras": 1},
}
PUBLISHED_COMBINED = {"train": {"images": 3884, "ids": 971, "cameras": 2}}
_NAME = re.compile(r"(\d{4})00([1-4])\.png", re.ASCII)


def read(
    root: str | os.PathLike[str], *, split: int = 0, seed: int | None = None, combineall: bool = False
) -> Manifest:
    """Read one split of CUHK01 from `root`/cuhk01 or `root` itself, where its archive has been unpacked.

    Args:
        split: 0 to 19.
        seed: of the ten draws; None takes torchreid's splits.json if it is there and seed 0 otherwise. The
            source fixes no seed.
        combineall: train on all images; no query and no gallery is left.

    Raises:
        ManifestError: a ValueError that says what is wrong.
    """
    tree = scan(root, split=split, seed=seed, combineall=combineall)
    return tree.checked(("train",) if combineall else SPLITS)


def scan(
    root: str | os.PathLike[str], *, split: int = 0, seed: int | None = None, combineall: bool = False
) -> Tree:
    """Everything in the folder campus; arguments as `read`."""
    choice("cuhk01", "split", split, range(2 * DRAWS))
    tree = Tree("cuhk01", find_root("cuhk01", root, LAYOUTS, ["campus"]), EXPECTED)
    images = [
        Row(path, int(match[1]), (int(match[2]) - 1) // 2, "train")
        for path, match in named(tree, "campus", ".png", _NAME)
    ]
    file = split_file(tree, Path(root), "splits.json", seed)
    if file is not None:
        from_file(tree, file, split, images)
    else:
        ids = sorted({image.pid for image in images})
        order = shuffled(len(ids), split // 2, say_drawn(tree, split, 2 * DRAWS, seed))
        train = {ids[place] for place in order[: len(ids) // 2]}
        tree.rows += [image for image in images if image.pid in train]
        for name, camid in (("query", split % 2), ("gallery", 1 - split % 2)):
            tree.rows += [
                image._replace(split=name)
                for image in images
                if image.pid not in train and image.camid == camid
            ]
    tree.published = PUBLISHED_COMBINED if combineall else PUBLISHED
    if combineall:
        tree.rows = combined(tree.rows)
    return tree
