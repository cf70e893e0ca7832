# SPDX-License-Identifier: Apache-2.0
"""MARS (Zheng et al., "MARS: A Video Benchmark for Large-Scale Person Re-identification", ECCV 2016).

Boxes lie in bbox_train and bbox_test, in a folder for the first four characters of their names. Lists of names and
MATLAB tables say which stretch of a list is a tracklet: (first, last, identity, camera), counted from 1, the last one
included. Tracklets of identity -1 are junk and left out; identity 0 is a distractor and stays in the gallery. Test
tracklets that no query index names are the gallery.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from fastreid_ops.data.checks import Finding
from fastreid_ops.data.datasets._layout import Tree, absent, find_root, shortened, text_lines
from fastreid_ops.data.datasets._matlab import load_mat
from fastreid_ops.data.datasets._tracklets import add_tracklet
from fastreid_ops.data.manifest import Manifest, ManifestError

NAME = "mars"
LAYOUTS = ("mars", "MARS", ".")
# The boxes and the lists are two downloads; the lists' repository is called MARS-evaluation.
INFO = ("info", "MARS-evaluation/info")
EXPECTED = "boxes named like 0001C1T0001F001.jpg (identity, camera, tracklet, frame)"
PUBLISHED = {
    "train": {"tracklets": 8298, "ids": 625, "cameras": 6},
    "query": {"tracklets": 1980, "ids": 626, "cameras": 6},
    "gallery": {"tracklets": 9330, "ids": 622, "cameras": 6},
}
CAMERAS = 6


def read(root: str | os.PathLike[str]) -> Manifest:
    """Read MARS from `root`/mars or `root` itself, with the lists in info/ or MARS-evaluation/info/ beside the boxes.

    Returns:
        one row for each frame, with the columns tracklet and frame.

    Raises:
        ManifestError: when no layout fits, SciPy is not installed, a table does not fit its list of names, a tracklet
            holds two identities or cameras by its names, a listed file is missing, or a split has no row.
    """
    return scan(root).checked()


def scan(root: str | os.PathLike[str]) -> Tree:
    """Everything the lists name, and what is wrong with them; arguments as `read`."""
    folder = find_root(NAME, root, LAYOUTS, ["bbox_train", "bbox_test", INFO])
    info = next(folder / name for name in INFO if (folder / name).is_dir())
    tree = Tree(NAME, folder, EXPECTED, PUBLISHED)
    train_names, test_names = (text_lines(info / f"{part}_name.txt", NAME) for part in ("train", "test"))
    train, test = (
        _table(info / f"tracks_{part}_info.mat", f"track_{part}_info") for part in ("train", "test")
    )
    query = _queries(tree, info / "query_IDX.mat", len(test))
    gallery = sorted(set(range(len(test))) - set(query))
    junk = _add(tree, "train", "bbox_train", train_names, train, range(len(train)))
    junk += _add(tree, "query", "bbox_test", test_names, test, query)
    junk += _add(tree, "gallery", "bbox_test", test_names, test, gallery)
    if junk:
        tree.found.append(Finding("note", "junk", f"{junk} junk tracklets (identity -1) left out", junk))
    tree.missing = absent(folder, (row.path for row in tree.rows))
    return tree


def _numbers(file: Path, variable: str) -> np.ndarray:
    values = load_mat(file, NAME).get(variable)
    if values is None or values.dtype.kind not in "iuf" or (values != np.floor(values)).any():
        raise ManifestError(f"{NAME}: {file}: got no whole numbers called {variable!r}, expected them")
    # Small unsigned types are common in these files and would wrap around below zero.
    return values.astype(np.int64)


def _table(file: Path, variable: str) -> np.ndarray:
    table = _numbers(file, variable)
    if table.ndim != 2 or table.shape[1] != 4:
        raise ManifestError(
            f"{NAME}: {file}: got {variable} of shape {table.shape}, expected four columns: first, last, pid, camera"
        )
    return table


def _queries(tree: Tree, file: Path, tracklets: int) -> list[int]:
    places = (_numbers(file, "query_IDX").reshape(-1) - 1).tolist()
    outside = [place + 1 for place in places if not 0 <= place < tracklets]
    if outside:
        tree.broken.append(
            f"{NAME}: {file}: got the tracklet {outside[0]}, expected numbers from 1 to {tracklets}"
        )
    if len(set(places)) < len(places):
        tree.broken.append(f"{NAME}: {file}: got a tracklet twice, expected each query once")
    return [place for place in dict.fromkeys(places) if 0 <= place < tracklets]


def _add(tree: Tree, split: str, home: str, names: list[str], table: np.ndarray, places) -> int:
    """Add these tracklets of a table to the tree; returns how many of them are junk."""
    junk, wrong = 0, []
    for place in places:
        first, last, pid, camera = table[place].tolist()
        frames = names[first - 1 : last] if first >= 1 else []
        if pid == -1:
            junk += 1
        elif not 1 <= first <= last <= len(names):
            wrong.append(f"tracklet {place + 1} from {first} to {last} of {len(names)} names")
        elif pid < 0 or not 1 <= camera <= CAMERAS:
            wrong.append(f"tracklet {place + 1} of identity {pid} under camera {camera}")
        elif len({name[:4] for name in frames}) > 1 or len({name[5:6] for name in frames}) > 1:
            wrong.append(
                f"tracklet {place + 1} of several identities or cameras: {frames[0]} to {frames[-1]}"
            )
        else:
            add_tracklet(tree, [f"{home}/{name[:4]}/{name}" for name in frames], pid, camera - 1, split)
    if wrong:
        tree.broken.append(f"{NAME}: {split}: got {shortened(wrong)}, expected what {home} holds")
    return junk
