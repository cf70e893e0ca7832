# SPDX-License-Identifier: Apache-2.0
"""VC-Clothes (Wan et al., "When Person Re-identification Meets Changing Clothes", CVPR Workshops 2020): 512 rendered
people under four cameras.

Folders train, query and gallery of *.jpg files called IDENTITY-CAMERA-CLOTHES-FRAME. Clothes are the same under cameras
2 and 3 and others under camera 4; the protocols pick the cameras (numbers 1 to 3 here, from 0).
"""

from __future__ import annotations

import os
import re

from fastreid_ops.data.datasets._layout import Tree, find_root
from fastreid_ops.data.datasets.ltcc import add_named
from fastreid_ops.data.manifest import Manifest

NAME = "vcclothes"
LAYOUTS = ("VC-Clothes", "vcclothes", "vc-clothes", ".")
FOLDERS = ("train", "query", "gallery")
EXPECTED = "*.jpg files named like 0002-01-01-03.jpg (identity, camera, clothes, frame)"
PUBLISHED = {
    "train": {"images": 9449, "ids": 256, "cameras": 4},
    "query": {"images": 1020, "ids": 256, "cameras": 4},
    "gallery": {"images": 8591, "ids": 256, "cameras": 4},
}
_NAME = re.compile(r"(\d+)-0*([1-4])-(\d+)-\d+", re.ASCII)


def read(root: str | os.PathLike[str]) -> Manifest:
    """Read VC-Clothes from `root`/VC-Clothes or `root` itself.

    Returns:
        column clothes, "<identity>-<clothes>".

    Raises:
        ManifestError: when no layout fits, a *.jpg name holds no identity, camera 1 to 4 and clothes, or a split has
            no row.
    """
    return scan(root).checked()


def scan(root: str | os.PathLike[str]) -> Tree:
    """Everything that lies there and what is wrong with it; arguments as `read`."""
    tree = Tree(NAME, find_root(NAME, root, LAYOUTS, FOLDERS), EXPECTED, PUBLISHED)
    for split in FOLDERS:
        add_named(tree, split, split, ".jpg", _NAME, ("pid", "camera", "clothes"), "-")
    return tree
