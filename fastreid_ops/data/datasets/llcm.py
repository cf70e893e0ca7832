# SPDX-License-Identifier: Apache-2.0
"""LLCM (Zhang and Wang, "Diverse Embedding Expansion Network and Low-Light Cross-Modality Benchmark for
Visible-Infrared Person Re-identification", CVPR 2023).

Training lists idx/train_{vis,nir}.txt of lines `path label`; test identities in idx/test_id.txt, their images in
test_vis/cam1 to cam9 and test_nir/cam1 to cam9 (there is no camera 3 in near infrared), in a folder of four digits for
each identity. Both modalities share their cameras.
"""

from __future__ import annotations

import os
import re

from fastreid_ops.data.datasets._layout import Row, Tree, absent, files, find_root
from fastreid_ops.data.datasets._lists import id_list, identities, labelled_list
from fastreid_ops.data.manifest import Manifest

NAME = "llcm"
LAYOUTS = ("LLCM", "llcm", ".")
CAMERAS = 9
# Word of the folders and lists: word of the manifest.
KINDS = {"vis": "visible", "nir": "infrared"}
TEST_IDS = "idx/test_id.txt"
EXPECTED = "training files named like nir/0001/0001_c01_s185535_f7010_nir.jpg"
PUBLISHED = {
    "train": {"images": 30921, "ids": 713, "cameras": 9},
    "query": {"images": 15846, "ids": 351, "cameras": 9},
    "gallery": {"images": 15846, "ids": 351, "cameras": 9},
}
_NAME = re.compile(r"(\d{4})_c0?([1-9])_", re.ASCII)


def read(root: str | os.PathLike[str]) -> Manifest:
    """Read LLCM from `root`/LLCM or `root` itself.

    Returns:
        column modality "visible" or "infrared". Both directions are evaluated, so that every test image stands in a
        query row and in a gallery row; the protocol picks the modality of each side. A training identity is the number
        in its file names where these and the labels of the lists are one to one, otherwise "train-<label>".

    Raises:
        ManifestError: when no layout fits, a list is missing or damaged, a training name holds no identity and
            camera, a listed file is missing, a test identity has no image, or an identity is in train and test.
    """
    return scan(root).checked()


def scan(root: str | os.PathLike[str]) -> Tree:
    """Everything the lists name and what is wrong with it; arguments as `read`."""
    lists = {kind: f"idx/train_{kind}.txt" for kind in KINDS}
    needed = ["vis", "nir", "test_vis", "test_nir", *lists.values(), TEST_IDS]
    tree = Tree(NAME, find_root(NAME, root, LAYOUTS, needed), EXPECTED, PUBLISHED)
    _add_train(tree, lists)
    test = sorted(id_list(tree.root / TEST_IDS, NAME))
    rows = [row for pid in test for row in _test_rows(tree, pid)]
    tree.rows += [row._replace(split=split) for split in ("query", "gallery") for row in rows]
    both = sorted({row.pid for row in tree.rows if row.split == "train"} & set(test))
    if both:
        tree.broken.append(
            f"{NAME}: {tree.root / TEST_IDS}: got {both[0]}, expected no identity of the training lists"
        )
    return tree


def _add_train(tree: Tree, lists: dict[str, str]) -> None:
    lines = [(kind, line) for kind, name in lists.items() for line in labelled_list(tree.root / name, NAME)]
    matches = [_NAME.match(line.path.rpartition("/")[2]) for _, line in lines]
    tree.unreadable += [line.path for (_, line), match in zip(lines, matches, strict=True) if not match]
    if tree.unreadable:
        return
    pids = identities(
        {"train": [(line.label, int(match[1])) for (_, line), match in zip(lines, matches, strict=True)]}
    )
    tree.rows += [
        Row(line.path, pids["train", line.label], int(match[2]) - 1, "train", KINDS[kind])
        for (kind, line), match in zip(lines, matches, strict=True)
    ]
    tree.missing += absent(tree.root, (line.path for _, line in lines))


def _test_rows(tree: Tree, pid: int) -> list[Row]:
    rows = []
    for kind, modality in KINDS.items():
        for camid in range(CAMERAS):
            folder = f"test_{kind}/cam{camid + 1}/{pid:04d}"
            if not (tree.root / folder).is_dir():
                continue
            images, other = files(tree.root / folder, ".jpg")
            tree.passed += [f"{folder}/{entry}" for entry in other]
            rows += [Row(f"{folder}/{entry}", pid, camid, "query", modality) for entry in images]
    if not rows:
        tree.missing.append(f"test_*/cam*/{pid:04d}")
    return rows
