# SPDX-License-Identifier: Apache-2.0
"""PRID 2011, multi-shot (Hirzer et al., "Person Re-Identification by Descriptive and Discriminative Classification",
SCIA 2011).

The usual ten splits of the 178 people with long tracklets under both cameras come as splits_prid2011.json, which is no
part of the archive: a list of {"train": [folders], "test": [folders]}. Camera a is query, camera b gallery.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from fastreid_ops.data.datasets._layout import Tree, find_root, listing, shortened
from fastreid_ops.data.datasets.ilidsvid import add_people
from fastreid_ops.data.manifest import Manifest, ManifestError

NAME = "prid2011"
LAYOUTS = ("prid2011/prid_2011", "prid2011", "prid_2011", ".")
CAMERAS = ("multi_shot/cam_a", "multi_shot/cam_b")
SPLITS_FILE = "splits_prid2011.json"
EXPECTED = "*.png frames in folders named like person_0001"
PUBLISHED = {
    "train": {"tracklets": 178, "ids": 89, "cameras": 2},
    "query": {"tracklets": 89, "ids": 89, "cameras": 1},
    "gallery": {"tracklets": 89, "ids": 89, "cameras": 1},
}
_PERSON = re.compile(r"person_(\d+)", re.ASCII)


def read(root: str | os.PathLike[str], *, split: int = 0) -> Manifest:
    """Read PRID 2011 from `root`/prid2011/prid_2011, any shortening of it, or `root` itself.

    Args:
        split: which entry of splits_prid2011.json, from 0; the file is looked for beside multi_shot/ and up to `root`.

    Returns:
        one row for each frame in the order of the file names, with the columns tracklet and frame.

    Raises:
        ManifestError: when no layout fits, the splits are missing or damaged, a listed person is missing or has no
            frames, or a person is in train and test.
    """
    return scan(root, split=split).checked()


def scan(root: str | os.PathLike[str], *, split: int = 0) -> Tree:
    """Everything the split names and what is wrong with it; arguments as `read`."""
    folder = find_root(NAME, root, LAYOUTS, CAMERAS)
    train, test = _split(folder, Path(root).expanduser(), split)
    tree = Tree(NAME, folder, EXPECTED, PUBLISHED)
    both = sorted(set(train) & set(test))
    if both:
        tree.broken.append(
            f"{NAME}: split {split}: got {shortened(both)} in train and test, expected one of them"
        )
    add_people(tree, CAMERAS, train, test, _PERSON)
    return tree


def _split(folder: Path, root: Path, split: int) -> tuple[list[str], list[str]]:
    places = list(dict.fromkeys([folder, folder.parent if folder != root else folder, root]))
    file = next((place / SPLITS_FILE for place in places if (place / SPLITS_FILE).is_file()), None)
    if file is None:
        raise ManifestError(
            f"{NAME}: {SPLITS_FILE}: got no such file in {' or '.join(map(str, places))}, expected the published "
            f"splits there; {folder} holds {listing(folder)}"
        )
    try:
        splits = json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ManifestError(f"{NAME}: {file}: got no readable JSON: {error}") from error
    good = isinstance(splits, list) and all(
        isinstance(entry, dict)
        and all(isinstance(entry.get(part), list) and entry[part] for part in ("train", "test"))
        for entry in splits
    )
    if not good:
        raise ManifestError(
            f"{NAME}: {file}: got something else, expected a list of {{train: [...], test: [...]}}"
        )
    if type(split) is not int or not 0 <= split < len(splits):
        raise ValueError(f"{NAME}: split: got {split!r}, expected 0 to {len(splits) - 1}")
    # Each name once: a repeated one would be a second tracklet of the same frames.
    return tuple(list(dict.fromkeys(map(str, splits[split][part]))) for part in ("train", "test"))
