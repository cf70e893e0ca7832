# SPDX-License-Identifier: Apache-2.0
"""SenseReID (Zhao et al., "Spindle Net", CVPR 2017): a test set.

test_probe/*.jpg and test_gallery/*.jpg called `<id>_<camera>.jpg`, cameras from 0. An identity that is queried and
is not in the gallery stays: the protocol counts such queries, torchreid stops at them with a KeyError.
"""

from __future__ import annotations

import os
import re

from fastreid_ops.data.datasets._layout import Row, Tree, combined, find_root, named
from fastreid_ops.data.manifest import Manifest

LAYOUTS = ("sensereid/SenseReID", "SenseReID", "sensereid", ".")
FOLDERS = {"query": "test_probe", "gallery": "test_gallery"}
EXPECTED = "*.jpg files named like 00001_0.jpg (identity, camera)"
PUBLISHED = {"query": {"images": 1040, "ids": 522}, "gallery": {"images": 3388, "ids": 1717}}
_NAME = re.compile(r"(\d+)_(\d+)\.jpg", re.ASCII)


def read(root: str | os.PathLike[str], *, combineall: bool = False) -> Manifest:
    """Read SenseReID from `root`/sensereid/SenseReID, any shortening of it, or `root` itself.

    Args:
        combineall: train on it; no query and no gallery is left.

    Raises:
        ManifestError: a ValueError that says what is wrong.
    """
    return scan(root, combineall=combineall).checked(("train",) if combineall else tuple(FOLDERS))


def scan(root: str | os.PathLike[str], *, combineall: bool = False) -> Tree:
    """Everything in the two folders; arguments as `read`."""
    tree = Tree("sensereid", find_root("sensereid", root, LAYOUTS, list(FOLDERS.values())), EXPECTED)
    for split, folder in FOLDERS.items():
        tree.rows += [
            Row(path, int(match[1]), int(match[2]), split)
            for path, match in named(tree, folder, ".jpg", _NAME)
        ]
    tree.published = {} if combineall else PUBLISHED
    if combineall:
        tree.rows = combined(tree.rows)
    return tree
