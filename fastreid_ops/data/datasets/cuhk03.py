# SPDX-License-Identifier: Apache-2.0
"""CUHK03 (Li et al., "DeepReID", CVPR 2014; new split: Zhong et al., "Re-ranking Person Re-identification with
k-reciprocal Encoding", CVPR 2017).

The pictures are inside cuhk-03.mat, once in boxes of a detector and once in labeled boxes; torchreid writes them to
images_{detected,labeled}/<pair>_<person>_<view>_<number>.png, and `cuhk03_extract.extract` does the same. Five
pairs of cameras; numbers 1 to 5 are of the first view, 6 to 10 of the second, and camid is the view. Persons are
counted anew in each pair: here person n of pair p is p * 10000 + n. Many people have the new split as folders in
Market-1501's naming instead, {detected,labeled}/{bounding_box_train,query,bounding_box_test}/*.png: read as well,
with the identities of the names.

The new split trains on 767 people and tests 700 like Market-1501. The classic one has 100 people in each of 20 test
sets whose images are both query and gallery: evaluate it with protocol cuhk03 and average over the splits.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from fastreid_ops.data.datasets import market1501
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
from fastreid_ops.data.datasets._matlab import load_mat, open_hdf5
from fastreid_ops.data.datasets._splits import Agreement, from_file, refuse_overlap
from fastreid_ops.data.manifest import Manifest, ManifestError

LAYOUTS = ("cuhk03", "CUHK03", "cuhk03-np", "CUHK03-NP", ".")
RAW = ("cuhk03_release/cuhk-03.mat", "cuhk-03.mat")
EXPECTED = "*.png files named like 1_001_1_01.png (pair of cameras, person, view, number)"
CLASSIC_SPLITS = 20
PUBLISHED = {
    "detected": {
        "train": {"images": 7365, "ids": 767, "cameras": 2},
        "query": {"images": 1400, "ids": 700, "cameras": 2},
        "gallery": {"images": 5332, "ids": 700, "cameras": 2},
    },
    "labeled": {
        "train": {"images": 7368, "ids": 767, "cameras": 2},
        "query": {"images": 1400, "ids": 700, "cameras": 2},
        "gallery": {"images": 5328, "ids": 700, "cameras": 2},
    },
}
# How many images depends on the split.
PUBLISHED_CLASSIC = {"train": {"ids": 1367}, "query": {"ids": 100}, "gallery": {"ids": 100}}
PAIR_FACTOR = 10_000
NAME = re.compile(r"([1-5])_(\d{3})_(?:1_0[1-5]|2_0[6-9]|2_10)\.png", re.ASCII)


def read(
    root: str | os.PathLike[str],
    *,
    labeled: bool = False,
    classic: bool = False,
    split: int = 0,
    combineall: bool = False,
) -> Manifest:
    """Read CUHK03 from `root`/cuhk03 or `root` itself, where its pictures have been extracted.

    The split comes from splits_{new,classic}_{detected,labeled}.json if it is there, else from
    cuhk03_new_protocol_config_{detected,labeled}.mat (needs SciPy) or cuhk-03.mat (needs h5py).

    Args:
        labeled: boxes drawn by people instead of a detector's.
        classic: the 20 test sets of 100 people instead of the new split.
        split: 0 to 19 with `classic`, 0 without.
        combineall: train on all images of the split; no query and no gallery is left.

    Raises:
        ManifestError: a ValueError that says what is wrong, and what to call when the pictures are still inside
            the .mat file.
    """
    tree = scan(root, labeled=labeled, classic=classic, split=split, combineall=combineall)
    return tree.checked(("train",) if combineall else SPLITS)


def scan(
    root: str | os.PathLike[str],
    *,
    labeled: bool = False,
    classic: bool = False,
    split: int = 0,
    combineall: bool = False,
) -> Tree:
    """Everything in the folder of these boxes; arguments as `read`."""
    choice("cuhk03", "split", split, range(CLASSIC_SPLITS if classic else 1))
    kind = "labeled" if labeled else "detected"
    folder = f"images_{kind}"
    base = find_root("cuhk03", root, LAYOUTS, [(folder, *RAW, f"{kind}/bounding_box_train")])
    tree = Tree("cuhk03", base, EXPECTED)
    if (base / kind).is_dir() and not (base / folder).is_dir():
        return _folders(tree, kind, classic, combineall)
    if not (base / folder).is_dir():
        raise ManifestError(
            f"cuhk03: {tree.root}: got cuhk-03.mat and no folder {folder}, expected the pictures as files; write "
            f"them with: python -m fastreid_ops.data.datasets.cuhk03_extract {tree.root} NEW_FOLDER"
        )
    images = [
        Row(path, int(match[1]) * PAIR_FACTOR + int(match[2]), view(match[0]), "train")
        for path, match in named(tree, folder, ".png", NAME)
    ]
    file = tree.root / f"splits_{'classic' if classic else 'new'}_{kind}.json"
    if file.is_file():
        from_file(tree, file, split, images, parts=1)
    elif classic:
        _classic(tree, images, split)
    else:
        _new(tree, images, kind)
    tree.published = {} if combineall else PUBLISHED_CLASSIC if classic else PUBLISHED[kind]
    if combineall:
        tree.rows = combined(tree.rows)
    return tree


def _folders(tree: Tree, kind: str, classic: bool, combineall: bool) -> Tree:
    """The new split in Market-1501's folders and names."""
    if classic:
        raise ManifestError(
            f"cuhk03: {tree.root}: got the folders of the new split, expected images_{kind} for the classic one"
        )
    parts = {split: f"{kind}/{name}" for split, name in market1501.FOLDERS.items()}
    find_root("cuhk03", tree.root, ["."], list(parts.values()))
    tree.expected = "*.png or *.jpg files named like 0003_c1_21.png (identity, camera of one digit)"
    tree.unreadable += market1501.boxes(tree, parts, (".png", ".jpg"))
    tree.published = {} if combineall else PUBLISHED[kind]
    if combineall:
        tree.rows = combined(tree.rows)
    return tree


def view(name: str) -> int:
    """The camera, 0 or 1, of a picture called as here."""
    return int(name.split("_")[2]) - 1


def tested_people(file: Path) -> list[set[int]]:
    """The people of each classic test set in cuhk-03.mat, as identities.

    Raises:
        ManifestError: without h5py, or for a file of another content.
    """
    with open_hdf5(file, "cuhk03") as mat:
        try:
            sets = [np.asarray(mat[reference][:]).T.tolist() for reference in mat["testsets"][0]]
            return [{int(pair) * PAIR_FACTOR + int(person) for pair, person in one} for one in sets]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ManifestError(
                f"cuhk03: {file}: got no testsets of pairs and persons, expected those of cuhk-03.mat: {error}"
            ) from error


def classic_rows(images: Iterable[Row], test: set[int]) -> list[Row]:
    """Train rows of everybody else, then query and gallery rows of the people in `test`."""
    images = list(images)
    rows = [image._replace(split="train") for image in images if image.pid not in test]
    for split in ("query", "gallery"):
        rows += [image._replace(split=split) for image in images if image.pid in test]
    return rows


def new_names(file: Path) -> dict[str, list[tuple[str, int]]]:
    """{split: [(name, label)]} of a cuhk03_new_protocol_config file.

    Raises:
        ManifestError: without SciPy, or for a file of another content.
    """
    mat = load_mat(file, "cuhk03")
    try:
        labels = np.ravel(mat["labels"]).tolist()
        names = [str(np.ravel(cell)[0]) for cell in np.ravel(mat["filelist"])]
        places = {split: np.ravel(mat[f"{split}_idx"]).astype(int).tolist() for split in SPLITS}
        if any(place < 1 for chosen in places.values() for place in chosen):
            raise IndexError("an index under 1")
        return {
            split: [(names[place - 1], int(labels[place - 1])) for place in chosen]
            for split, chosen in places.items()
        }
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ManifestError(
            f"cuhk03: {file}: got something else, expected filelist, labels, train_idx, query_idx and "
            f"gallery_idx: {error}"
        ) from error


def find_raw(folder: Path) -> Path | None:
    """cuhk-03.mat in its release folder or beside it."""
    return next((folder / name for name in RAW if (folder / name).is_file()), None)


def find_config(folder: Path, kind: str) -> Path | None:
    """The file of the new split for "detected" or "labeled" boxes."""
    name = f"cuhk03_new_protocol_config_{kind}.mat"
    return next(
        (place / name for place in (folder, folder / "cuhk03_release") if (place / name).is_file()), None
    )


def _classic(tree: Tree, images: Sequence[Row], split: int) -> None:
    raw = find_raw(tree.root)
    if raw is None:
        raise ManifestError(
            f"cuhk03: {tree.root}: got neither splits_classic_*.json nor cuhk-03.mat, expected one of them"
        )
    sets = tested_people(raw)
    choice("cuhk03", "split", split, range(len(sets)))
    lost = sorted(sets[split] - {image.pid for image in images})
    if lost:
        tree.broken.append(
            f"cuhk03: {tree.root}: got no picture of {len(lost)} people of test set {split} "
            f"({shortened(list(map(str, lost)))}), expected some"
        )
    tree.rows += classic_rows(images, sets[split])


def _new(tree: Tree, images: Sequence[Row], kind: str) -> None:
    file = find_config(tree.root, kind)
    if file is None:
        raise ManifestError(
            f"cuhk03: {tree.root}: got neither splits_new_{kind}.json nor cuhk03_new_protocol_config_{kind}.mat, "
            "expected one of them"
        )
    known = {image.path.rsplit("/", 1)[1]: image for image in images}
    same = Agreement()
    for split, listed in new_names(file).items():
        for name, label in listed:
            if name not in known:
                tree.missing.append(name)
                continue
            same.add(known[name].pid, label, name)
            tree.rows.append(known[name]._replace(split=split))
    if same.broken:
        tree.broken.append(
            f"cuhk03: {file}: got labels that contradict the names at {shortened(same.broken)}, expected one "
            "label for each person"
        )
    refuse_overlap(tree, file)
