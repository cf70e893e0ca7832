# SPDX-License-Identifier: Apache-2.0
"""CUHK-SYSU as crops (Xiao et al., "Joint Detection and Identification Feature Learning for Person Search", CVPR
2017): to train on, not to test on.

cropped_images/p<id>_s<scene>_<number>.jpg. Cameras are not told; all images are under camera 0. torchreid puts the
first image into query and gallery as a placeholder; here there is neither.
"""

from __future__ import annotations

import os
import re

from fastreid_ops.data.datasets._layout import Row, Tree, find_root, named
from fastreid_ops.data.manifest import Manifest

LAYOUTS = ("cuhksysu", "CUHK-SYSU", "cuhk_sysu", ".")
FOLDER = "cropped_images"
EXPECTED = "*.jpg files named like p11422_s16929_1.jpg (identity, scene, number)"
PUBLISHED = {"train": {"images": 34574, "ids": 11934, "cameras": 1}}
_NAME = re.compile(r"p(\d+)_s\d+_\d+\.jpg", re.ASCII)


def read(root: str | os.PathLike[str]) -> Manifest:
    """Read the crops from `root`/cuhksysu or `root` itself; all of them are train rows.

    Raises:
        ManifestError: a ValueError that says what is wrong.
    """
    return scan(root).checked(("train",))


def scan(root: str | os.PathLike[str]) -> Tree:
    """Everything in the folder cropped_images."""
    tree = Tree("cuhksysu", find_root("cuhksysu", root, LAYOUTS, [FOLDER]), EXPECTED, PUBLISHED)
    tree.rows += [Row(path, int(match[1]), 0, "train") for path, match in named(tree, FOLDER, ".jpg", _NAME)]
    return tree
