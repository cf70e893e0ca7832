# SPDX-License-Identifier: Apache-2.0
"""DeepChange (Xu and Zhu, "DeepChange: A Long-Term Person Re-Identification Benchmark", ICCV 2023).

Five folders {train-set,val-set-query,val-set-gallery,test-set-query,test-set-gallery}, each with a list
`<folder>-bbox.txt` of lines `P<identity>_C<camera>_<clothes>_....jpg,TRACKLET`.

True matches under the query's own camera count, as long as they are of another tracklet. The sources say so by writing
the tracklet in the place of the camera, and so does `camera="tracklet"`; protocol market1501's rule then does it.
"""

from __future__ import annotations

import os
import re

from fastreid_ops.data.datasets._layout import Row, Tree, absent, choice, find_root, text_lines
from fastreid_ops.data.manifest import Manifest, ManifestError

NAME = "deepchange"
LAYOUTS = ("DeepChangeDataset", "DeepChange", "deepchange", ".")
CAMERAS = 17
EXPECTED = "lines like P1_C11_T1_2020-01-01.jpg,7 (identity, camera, clothes; tracklet) in *-bbox.txt"
COUNTS = {
    "train-set": 75083,
    "val-set-query": 4976,
    "val-set-gallery": 17865,
    "test-set-query": 17527,
    "test-set-gallery": 62956,
}
PUBLISHED = {
    "train": {"images": COUNTS["train-set"]},
    "query": {"images": COUNTS["test-set-query"]},
    "gallery": {"images": COUNTS["test-set-gallery"]},
}
_NAME = re.compile(r"P(\d+)_C(\d+)_([^_,.]+)[^,]*\.jpg", re.ASCII)


def published(part: str = "test") -> dict[str, dict[str, int]]:
    """The published counts with the test set or the validation set as query and gallery."""
    return {**PUBLISHED, **{side: {"images": COUNTS[f"{part}-set-{side}"]} for side in ("query", "gallery")}}


def read(root: str | os.PathLike[str], *, part: str = "test", camera: str = "tracklet") -> Manifest:
    """Read DeepChange from `root`/DeepChangeDataset or `root` itself.

    Args:
        part: "test" or "val", which query and gallery.
        camera: what `camid` holds: "tracklet" (the sources) or "camera"; with "camera" the column tracklet is there.

    Returns:
        column clothes, "P<identity>_<clothes>".

    Raises:
        ManifestError: when no layout fits, a list is missing or damaged, a line is of another form or stands twice,
            or a listed file is missing.
    """
    return scan(root, part=part, camera=camera).checked()


def scan(root: str | os.PathLike[str], *, part: str = "test", camera: str = "tracklet") -> Tree:
    """Everything the lists name and what is wrong with it; arguments as `read`."""
    choice(NAME, "part", part, ("test", "val"))
    choice(NAME, "camera", camera, ("tracklet", "camera"))
    homes = {"train": "train-set", "query": f"{part}-set-query", "gallery": f"{part}-set-gallery"}
    needed = [*homes.values(), *(f"{home}-bbox.txt" for home in homes.values())]
    tree = Tree(NAME, find_root(NAME, root, LAYOUTS, needed), EXPECTED, published(part))
    for split, home in homes.items():
        _add(tree, split, home, camera)
    tree.missing = absent(tree.root, (row.path for row in tree.rows))
    return tree


def _add(tree: Tree, split: str, home: str, camera: str) -> None:
    file = tree.root / f"{home}-bbox.txt"
    first: dict[str, int] = {}
    for number, line in enumerate(text_lines(file, NAME), 1):
        if not line:
            continue
        name, _, tracklet = (part.strip() for part in line.rpartition(","))
        match = _NAME.fullmatch(name)
        if not match or not (tracklet.isascii() and tracklet.isdigit()) or not 1 <= int(match[2]) <= CAMERAS:
            raise ManifestError(f"{NAME}: {file}:{number}: got {line!r}, expected {EXPECTED}")
        if first.setdefault(name, number) != number:
            raise ManifestError(f"{NAME}: {file}:{number}: got {name!r} again, first on line {first[name]}")
        pid, clothes = int(match[1]), f"P{int(match[1])}_{match[3]}"
        if camera == "tracklet":
            row = Row(f"{home}/{name}", pid, int(tracklet), split, clothes=clothes)
        else:
            row = Row(
                f"{home}/{name}", pid, int(match[2]) - 1, split, clothes=clothes, tracklet=int(tracklet)
            )
        tree.rows.append(row)
