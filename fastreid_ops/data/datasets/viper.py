# SPDX-License-Identifier: Apache-2.0
"""VIPeR (Gray et al., "Evaluating appearance models for recognition, reacquisition, and tracking", PETS 2007).

632 people, one *.bmp of each under either camera, called `<id>_<angle>.bmp`. Half of the people are trained on;
ten draws times two directions make 20 splits: 2k has cam_a as query, 2k + 1 cam_b, on the same people.
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

LAYOUTS = ("viper/VIPeR", "VIPeR", "viper", ".")
CAMERAS = {0: "cam_a", 1: "cam_b"}
EXPECTED = "*.bmp files named like 000_45.bmp (identity, angle)"
PUBLISHED = {
    "train": {"images": 632, "ids": 316, "cameras": 2},
    "query": {"images": 316, "ids": 316, "cameras": 1},
    "gallery": {"images": 316, "ids": 316, "cameras": 1},
}
PUBLISHED_COMBINED = {"train": {"images": 1264, "ids": 632, "cameras": 2}}
_NAME = re.compile(r"(\d+)_\d+\.bmp", re.ASCII)


def read(
    root: str | os.PathLike[str], *, split: int = 0, seed: int | None = None, combineall: bool = False
) -> Manifest:
    """Read one split of VIPeR from `root`/viper/VIPeR, any shortening of it, or `root` itself.

    Args:
        split: 0 to 19.
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
    choice("viper", "split", split, range(2 * DRAWS))
    tree = Tree("viper", find_root("viper", root, LAYOUTS, list(CAMERAS.values())), EXPECTED)
    images = [
        Row(path, int(match[1]), camid, "train")
        for camid, folder in CAMERAS.items()
        for path, match in named(tree, folder, ".bmp", _NAME)
    ]
    sides = require_pairs(tree, images, CAMERAS)
    file = split_file(tree, Path(root), "splits.json", seed)
    if file is not None:
        from_file(tree, file, split, images)
    else:
        ids = sorted(sides[0].keys() & sides[1].keys())
        order = shuffled(len(ids), split // 2, say_drawn(tree, split, 2 * DRAWS, seed))
        half = len(ids) // 2
        tree.rows += [sides[camid][ids[place]] for place in order[:half] for camid in CAMERAS]
        for name, camid in (("query", split % 2), ("gallery", 1 - split % 2)):
            tree.rows += [sides[camid][ids[place]]._replace(split=name) for place in order[half:]]
    tree.published = PUBLISHED_COMBINED if combineall else PUBLISHED
    if combineall:
        tree.rows = combined(tree.rows)
    return tree
