# SPDX-License-Identifier: Apache-2.0
"""DukeMTMC-VideoReID (Wu et al., "Exploit the Unknown Gradually: One-Shot Video-Based Person Re-Identification by
Stepwise Learning", CVPR 2018).

Folders {train,query,gallery}/IDENTITY/TRACKLET/*.jpg with frames named 0001C6F0099X30823.jpg or, in later archives,
0001_C6_F0099_X30823.jpg. torchreid looks for frames 1 to the number of files, so a tracklet that begins with frame 2
loses its last one there; here every frame is taken, in the order of the frame numbers.
"""

from __future__ import annotations

import os
import re

from fastreid_ops.data.datasets._layout import Tree, files, find_root, folders
from fastreid_ops.data.datasets._tracklets import add_tracklet
from fastreid_ops.data.manifest import Manifest

NAME = "dukemtmcvidreid"
LAYOUTS = ("dukemtmc-vidreid/DukeMTMC-VideoReID", "DukeMTMC-VideoReID", "dukemtmc-vidreid", ".")
EXPECTED = "frames named like 0001C6F0099X30823.jpg or 0001_C6_F0099_X30823.jpg in IDENTITY/TRACKLET"
PUBLISHED = {
    "train": {"tracklets": 2196, "ids": 702, "cameras": 8},
    "query": {"tracklets": 702, "ids": 702, "cameras": 8},
    "gallery": {"tracklets": 2636, "ids": 1110, "cameras": 8},
}
_FRAME = re.compile(r"\d{4}_?C([1-8])_?F(\d{4,})(?!\d)", re.ASCII)


def read(root: str | os.PathLike[str]) -> Manifest:
    """Read DukeMTMC-VideoReID from `root`/dukemtmc-vidreid/DukeMTMC-VideoReID, any shortening of it, or `root` itself.

    Returns:
        one row for each frame, with the columns tracklet and frame.

    Raises:
        ManifestError: when no layout fits, a frame's name holds no camera and frame number, a tracklet is seen by
            two cameras, an identity's folder is no number, or a split has no row.
    """
    return scan(root).checked()


def scan(root: str | os.PathLike[str]) -> Tree:
    """Everything that lies there and what is wrong with it; arguments as `read`."""
    tree = Tree(NAME, find_root(NAME, root, LAYOUTS, ["train", "query", "gallery"]), EXPECTED, PUBLISHED)
    for split in ("train", "query", "gallery"):
        people, other = folders(tree.root / split)
        tree.passed += [f"{split}/{name}" for name in other]
        for person in people:
            if not (person.isascii() and person.isdigit()):
                tree.unreadable.append(f"{split}/{person}")
                continue
            tracklets, other = folders(tree.root / split / person)
            tree.passed += [f"{split}/{person}/{name}" for name in other]
            for tracklet in tracklets:
                _add(tree, split, int(person), f"{split}/{person}/{tracklet}")
    return tree


def _add(tree: Tree, split: str, pid: int, folder: str) -> None:
    images, other = files(tree.root / folder, ".jpg")
    tree.passed += [f"{folder}/{entry}" for entry in other]
    matches = {entry: _FRAME.match(entry) for entry in images}
    bad = [f"{folder}/{entry}" for entry, match in matches.items() if not match]
    cameras = {match[1] for match in matches.values() if match}
    if bad:
        tree.unreadable += bad
    elif len(cameras) > 1:
        tree.broken.append(f"{NAME}: {folder}: got cameras {', '.join(sorted(cameras))}, expected one")
    elif not images:
        tree.broken.append(f"{NAME}: {folder}: got no *.jpg, expected the frames of a tracklet")
    else:
        frames = sorted(images, key=lambda entry: (int(matches[entry][2]), entry))
        add_tracklet(tree, [f"{folder}/{entry}" for entry in frames], pid, int(cameras.pop()) - 1, split)
