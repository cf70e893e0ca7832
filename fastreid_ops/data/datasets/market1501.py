# SPDX-License-Identifier: Apache-2.0
"""Market-1501 (Zheng et al., "Scalable Person Re-identification: A Benchmark", ICCV 2015), and data named
like it.

Three folders of *.jpg files called `<pid>_c<camera>...`: bounding_box_train, query and bounding_box_test.
Identity -1 marks junk boxes and is left out everywhere; identity 0 marks distractors, which stay in the
gallery. Cameras count from 1 in the names and from 0 in the manifest. Files are taken in sorted order.
"""

from __future__ import annotations

import os
import re

from fastreid_ops.data.checks import Finding, finding
from fastreid_ops.data.datasets._layout import Row, Tree, combined, files, find_root
from fastreid_ops.data.manifest import Manifest

FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
DISTRACTORS = "images"
LAYOUTS = ("market1501/Market-1501-v15.09.15", "market1501", "Market-1501-v15.09.15", ".")
EXPECTED = "*.jpg files named like 0002_c1s1_000451_03.jpg (identity, camera of one digit)"
# As published with the data set; the gallery's identities include 0.
PUBLISHED = {
    "train": {"images": 12936, "ids": 751, "cameras": 6},
    "query": {"images": 3368, "ids": 750, "cameras": 6},
    "gallery": {"images": 15913, "ids": 751, "cameras": 6},
}
PUBLISHED_COMBINED = {"train": {"images": 29419, "ids": 1501, "cameras": 6}}
PUBLISHED_JUNK = 3819
LAST_PID, CAMERAS = 1501, 6
_NAME = re.compile(r"([-\d]+)_c(\d)", re.ASCII)


def read(root: str | os.PathLike[str], *, distractors: bool = False, combineall: bool = False) -> Manifest:
    """Read Market-1501 from `root`/market1501/Market-1501-v15.09.15, any shortening of it, or `root` itself.

    Args:
        distractors: the 500,000 further boxes of the folder images/ join the gallery.
        combineall: train on everything but identities 0 and -1; no query and no gallery is left.

    Raises:
        ManifestError: a ValueError that says what was looked for and what is there when no layout fits; when
            a *.jpg name holds no identity and camera (a two-digit camera included); when a split has no
            image.
    """
    tree = scan(root, distractors=distractors, combineall=combineall)
    return tree.checked(("train",) if combineall else ("train", "query", "gallery"))


def scan(root: str | os.PathLike[str], *, distractors: bool = False, combineall: bool = False) -> Tree:
    """Sort every entry of the three folders into rows, junk and what is neither; arguments as `read`."""
    extra = [DISTRACTORS] if distractors else []
    tree = Tree("market1501", find_root("market1501", root, LAYOUTS, [*FOLDERS.values(), *extra]), EXPECTED)
    tree.published = {} if distractors else PUBLISHED_COMBINED if combineall else PUBLISHED
    junk = boxes(tree, FOLDERS)
    if junk:
        text = f"{len(junk)} junk images (identity -1) left out (published: {PUBLISHED_JUNK})"
        tree.found.append(Finding("note", "junk", text, len(junk), tuple(junk[:3])))
    if distractors:
        boxes(tree, {"gallery": DISTRACTORS})
    tree.found += _out_of_place(tree.rows)
    if combineall:
        tree.rows = combined(tree.rows, lambda pid: pid == 0)
    return tree


def boxes(tree: Tree, folders: dict[str, str], extensions: str | tuple[str, ...] = ".jpg") -> list[str]:
    """Add the images of {split: folder} in Market-1501's naming to a tree; returns those of identity -1."""
    junk = []
    for split, name in folders.items():
        images, passed = files(tree.root / name, extensions)
        tree.passed += [f"{name}/{entry}" for entry in passed]
        for entry in images:
            path = f"{name}/{entry}"
            match = _NAME.search(entry)
            # "_c12" must not be read as camera 1, nor "--1" or "-7" as an identity.
            if not match or entry[match.end() : match.end() + 1].isdigit() or match[2] == "0":
                tree.unreadable.append(path)
            elif match[1] == "-1":
                junk.append(path)
            elif match[1].isdigit():
                tree.rows.append(Row(path, int(match[1]), int(match[2]) - 1, split))
            else:
                tree.unreadable.append(path)
    return junk


def _out_of_place(rows: list[Row]) -> list[Finding]:
    outside = [row.path for row in rows if row.pid > LAST_PID or row.camid >= CAMERAS]
    distractors = [row.path for row in rows if row.pid == 0 and row.split != "gallery"]
    text = f"images have an identity over {LAST_PID} or a camera over {CAMERAS}"
    return [
        *finding("problem", "outside_range", text, outside),
        *finding(
            "problem",
            "distractor_id",
            "images of identity 0 (distractors) are not in the gallery",
            distractors,
        ),
    ]
