# SPDX-License-Identifier: Apache-2.0
"""PRID 2011, single-shot version (Hirzer et al., "Person Re-Identification by Descriptive and Discriminative
Classification", SCIA 2011).

single_shot/{cam_a,cam_b}/person_<id of 4 digits>.png. People 1 to 200 are seen by both cameras; 100 of them are
trained on, ten draws. The rest are the queries, from cam_a; the gallery is cam_b without the people trained on,
201 to 749 being distractors. From 201 on cam_a shows other people under the same numbers: they are left out.
"""

from __future__ import annotations

import os
import random
import re
from pathlib import Path

from fastreid_ops.data.checks import finding
from fastreid_ops.data.datasets._layout import SPLITS, Row, Tree, choice, combined, find_root, named
from fastreid_ops.data.datasets._splits import DRAWS, load, refuse_overlap, say_drawn, split_file
from fastreid_ops.data.manifest import Manifest, ManifestError

LAYOUTS = ("prid2011/prid_2011", "prid_2011", "prid2011", "prid", ".")
CAMERAS = {0: "single_shot/cam_a", 1: "single_shot/cam_b"}
SPLIT_FILE = "splits_single_shot.json"
EXPECTED = "*.png files named like person_0001.png (identity of 4 digits)"
PUBLISHED = {
    "train": {"images": 200, "ids": 100, "cameras": 2},
    "query": {"images": 100, "ids": 100, "cameras": 1},
    "gallery": {"images": 649, "ids": 649, "cameras": 1},
}
PUBLISHED_COMBINED = {"train": {"images": 400, "ids": 200, "cameras": 2}}
SHARED, LAST = 200, 749
_NAME = re.compile(r"person_(\d{4})\.png", re.ASCII)


def read(
    root: str | os.PathLike[str], *, split: int = 0, seed: int | None = None, combineall: bool = False
) -> Manifest:
    """Read one split of PRID from `root`/prid2011/prid_2011, any shortening of it, or `root` itself.

    Args:
        split: 0 to 9.
        seed: of the ten draws; None takes torchreid's splits_single_shot.json if it is there and seed 0
            otherwise. The source fixes no seed.
        combineall: train on all people that both cameras see; no query and no gallery is left.

    Raises:
        ManifestError: a ValueError that says what is wrong, pictures that are missing included.
    """
    tree = scan(root, split=split, seed=seed, combineall=combineall)
    return tree.checked(("train",) if combineall else SPLITS)


def scan(
    root: str | os.PathLike[str], *, split: int = 0, seed: int | None = None, combineall: bool = False
) -> Tree:
    """Everything in the two folders; arguments as `read`."""
    choice("prid", "split", split, range(DRAWS))
    tree = Tree("prid", find_root("prid", root, LAYOUTS, list(CAMERAS.values())), EXPECTED)
    images = {
        (camid, int(match[1])): Row(path, int(match[1]), camid, "train")
        for camid, folder in CAMERAS.items()
        for path, match in named(tree, folder, ".png", _NAME)
    }
    others = [row.path for (camid, pid), row in images.items() if camid == 0 and pid > SHARED]
    tree.found += finding(
        "note", "one_camera_people", f"pictures of cam_a over {SHARED}, of people cam_b does not see", others
    )
    file = split_file(tree, Path(root), SPLIT_FILE, seed)
    if file is not None:
        train, test = _from_file(tree, file, split)
    else:
        train, test = _draw(split, say_drawn(tree, split, DRAWS, seed))
    wanted = [(camid, pid, "train") for pid in train for camid in CAMERAS]
    wanted += [(0, pid, "query") for pid in test]
    wanted += [(1, pid, "gallery") for pid in [*test, *range(SHARED + 1, LAST + 1)]]
    for camid, pid, name in wanted:
        if (camid, pid) in images:
            tree.rows.append(images[camid, pid]._replace(split=name))
        else:
            tree.missing.append(f"{CAMERAS[camid]}/person_{pid:04d}.png")
    if file is not None:
        refuse_overlap(tree, file)
    tree.published = PUBLISHED_COMBINED if combineall else PUBLISHED
    if combineall:
        tree.rows = combined(tree.rows, lambda pid: pid > SHARED)
    return tree


def _draw(split: int, seed: int) -> tuple[list[int], list[int]]:
    """What torchreid draws after `random.seed(seed)`."""
    generator = random.Random(seed)
    people = list(range(1, SHARED + 1))
    for _ in range(split + 1):
        train = sorted(generator.sample(people, SHARED // 2))
    return train, [pid for pid in people if pid not in train]


def _from_file(tree: Tree, file: Path, split: int) -> tuple[list[int], list[int]]:
    chosen = load(tree, file, split)
    sides = []
    for name in ("train", "test"):
        ids = chosen.get(name)
        if not isinstance(ids, list) or not all(type(pid) is int and 0 < pid <= SHARED for pid in ids):
            raise ManifestError(
                f"prid: {file}: {name}: got something else, expected a list of ids 1 to {SHARED}"
            )
        sides.append(ids)
    return sides[0], sides[1]
