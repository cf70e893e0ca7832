# SPDX-License-Identifier: Apache-2.0
"""PRID-450S (Roth et al., "Mahalanobis Distance Learning for Person Re-Identification", 2014).

450 people, one picture `img_<id>.png` of each in cam_a and cam_b, ids from 1. Half of the people are trained on,
ten draws; query and gallery are both all pictures of the other half, and the protocol removes the query's own
camera. torchreid 0.x compared the ids of the names, from 1, with indices from 0: its draws that hold index 0 train
on 224 people, and person 450 is always tested. A splits.json from there is taken as it is; draws made here are of
ids.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from fastreid_ops.data.datasets._layout import SPLITS, Row, Tree, choice, combined, find_root, named
from fastreid_ops.data.datasets._splits import (
    DRAWS,
    from_file,
    require_pairs,
    say_drawn,
    shuffled,
    split_file,
)
from fastreid_ops.data.manifest import Manifest

LAYOUTS = ("prid450s", "prid_450s", "PRID450S", ".")
CAMERAS = {0: "cam_a", 1: "cam_b"}
EXPECTED = "*.png files named like img_001.png (identity)"
PUBLISHED = {
    "train": {"images": 450, "ids": 225, "cameras": 2},
    "query": {"images": 450, "ids": 225, "cameras": 2},
    "gallery": {"images": 450, "ids": 225, "cameras": 2},
}
PUBLISHED_COMBINED = {"train": {"images": 900, "ids": 450, "cameras": 2}}
_NAME = re.compile(r"img_(\d+)\.png", re.ASCII)


def read(
    root: str | os.PathLike[str], *, split: int = 0, seed: int | None = None, combineall: bool = False
) -> Manifest:
    """Read one split of PRID-450S from `root`/prid450s or `root` itself.

    Args:
        split: 0 to 9.
        seed: of the ten draws; None takes torchreid's splits.json if it is there and seed 0 otherwise. The
            source fixes no seed.
        combineall: train on all images; no query and no gallery is left.

    Raises:
        ManifestError: a ValueError that says what is wrong, a missing half of a pair included.
    """
    tree = scan(root, split=split, seed=seed, combineall=combineall)
    return tree.checked(("train",) if combineall else SPLITS)


def scan(
    root: str | os.PathLike[str], *, split: int = 0, seed: int | None = None, combineall: bool = False
) -> Tree:
    """Everything in the two folders; arguments as `read`."""
    choice("prid450s", "split", split, range(DRAWS))
    tree = Tree("prid450s", find_root("prid450s", root, LAYOUTS, list(CAMERAS.values())), EXPECTED)
    images = [
        Row(path, int(match[1]), camid, "train")
        for camid, folder in CAMERAS.items()
        for path, match in named(tree, folder, ".png", _NAME)
    ]
    sides = require_pairs(tree, images, CAMERAS)
    file = split_file(tree, Path(root), "splits.json", seed)
    if file is not None:
        from_file(tree, file, split, images)
    else:
        ids = sorted(sides[0].keys() & sides[1].keys())
        order = shuffled(len(ids), split, say_drawn(tree, split, DRAWS, seed))
        train = {ids[place] for place in order[: len(ids) // 2]}
        tree.rows += [image for image in images if image.pid in train]
        for name in ("query", "gallery"):
            tree.rows += [image._replace(split=name) for image in images if image.pid not in train]
    tree.published = PUBLISHED_COMBINED if combineall else PUBLISHED
    if combineall:
        tree.rows = combined(tree.rows)
    return tree
