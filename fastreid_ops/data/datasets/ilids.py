# SPDX-License-Identifier: Apache-2.0
"""QMUL i-LIDS (Zheng et al., "Associating Groups of People", BMVC 2009).

119 people, 476 pictures Persons/<id of 4 digits><number of 3 digits>.jpg. Which camera took a picture is not told:
as in torchreid the number stands for the camera, so that no two pictures of a person share one. 59 people are
trained on; of each other person one random picture is the query and another one the gallery; ten draws.
"""

from __future__ import annotations

import os
import random
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from fastreid_ops.data.checks import Finding
from fastreid_ops.data.datasets._layout import (
    SPLITS,
    Row,
    Tree,
    choice,
    combined,
    find_root,
    named,
    shortened,
)
from fastreid_ops.data.datasets._splits import (
    DRAWS,
    load,
    refuse_overlap,
    say_drawn,
    split_file,
    tail,
)
from fastreid_ops.data.manifest import Manifest, ManifestError

LAYOUTS = ("ilids/i-LIDS_Pedestrian", "i-LIDS_Pedestrian", "ilids", ".")
EXPECTED = "*.jpg files named like 0001002.jpg (identity of 4 digits, picture of 3 digits)"
IMAGES, IDS = 476, 119
# How many images are trained on depends on the draw.
PUBLISHED = {"train": {"ids": 59}, "query": {"images": 60, "ids": 60}, "gallery": {"images": 60, "ids": 60}}
_NAME = re.compile(r"(\d{4})(\d{3})\.jpg", re.ASCII)


def read(
    root: str | os.PathLike[str], *, split: int = 0, seed: int | None = None, combineall: bool = False
) -> Manifest:
    """Read one split of i-LIDS from `root`/ilids/i-LIDS_Pedestrian, any shortening of it, or `root` itself.

    Args:
        split: 0 to 9.
        seed: of the ten draws; None takes torchreid's splits.json if it is there and seed 0 otherwise. The
            source fixes no seed.
        combineall: train on the drawn queries and gallery as well; none of both is left.

    Raises:
        ManifestError: a ValueError that says what is wrong.
    """
    tree = scan(root, split=split, seed=seed, combineall=combineall)
    return tree.checked(("train",) if combineall else SPLITS)


def scan(
    root: str | os.PathLike[str], *, split: int = 0, seed: int | None = None, combineall: bool = False
) -> Tree:
    """Everything in the folder Persons; arguments as `read`."""
    choice("ilids", "split", split, range(DRAWS))
    tree = Tree("ilids", find_root("ilids", root, LAYOUTS, ["Persons"]), EXPECTED)
    images: dict[str, Row] = {}
    for path, match in named(tree, "Persons", ".jpg", _NAME):
        if match[2] == "000":
            tree.unreadable.append(path)
        else:
            images[tail(path, 1)] = Row(path, int(match[1]), int(match[2]) - 1, "train")
    people = {image.pid for image in images.values()}
    if (len(images), len(people)) != (IMAGES, IDS):
        text = f"{len(images)} images (published: {IMAGES}) of {len(people)} people (published: {IDS})"
        tree.found.append(Finding("problem", "differs_from_published", text, 1))
    file = split_file(tree, Path(root), "splits.json", seed)
    if file is not None:
        _from_file(tree, file, split, images)
    else:
        _draw(tree, images, split, say_drawn(tree, split, DRAWS, seed))
    tree.published = {} if combineall else PUBLISHED
    if combineall:
        tree.rows = combined(tree.rows)
    return tree


def _draw(tree: Tree, images: Mapping[str, Row], split: int, seed: int) -> None:
    """What torchreid draws after `random.seed(seed)` from names in sorted order."""
    names = defaultdict(list)
    for name, image in images.items():
        names[image.pid].append(name)
    single = [pid for pid, of in names.items() if len(of) < 2]
    if single:
        tree.broken.append(
            f"ilids: {tree.root}: got one image of {len(single)} identities ({shortened(list(map(str, single)))}), "
            "expected two for query and gallery"
        )
        return
    generator = random.Random(seed)
    for _ in range(split + 1):
        people = list(names)
        generator.shuffle(people)
        half = int(len(people) * 0.5)
        drawn = [generator.sample(names[pid], 2) for pid in people[half:]]
    tree.rows += [images[name] for pid in people[:half] for name in names[pid]]
    tree.rows += [images[query]._replace(split="query") for query, _ in drawn]
    tree.rows += [images[gallery]._replace(split="gallery") for _, gallery in drawn]


def _from_file(tree: Tree, file: Path, split: int, images: Mapping[str, Row]) -> None:
    chosen = load(tree, file, split)
    for name in SPLITS:
        listed = chosen.get(name)
        if not isinstance(listed, list) or not all(isinstance(entry, str) for entry in listed):
            raise ManifestError(f"ilids: {file}: {name}: got something else, expected a list of file names")
        for entry in listed:
            key = tail(entry, 1)
            if key in images:
                tree.rows.append(images[key]._replace(split=name))
            else:
                tree.missing.append(f"Persons/{key}")
    refuse_overlap(tree, file)
