# SPDX-License-Identifier: Apache-2.0
"""SYSU-MM01 (Wu et al., "RGB-Infrared Cross-Modality Person Re-Identification", ICCV 2017).

Folders cam1 to cam6, in each a folder of four digits for every identity seen there. Cameras 1, 2, 4 and 5 are visible,
3 and 6 infrared; 2 and 3 stand at one place, which is the protocol's business. Not every identity is seen by every
camera. The lists of identities are one line of numbers with commas. Query is every infrared image of the test
identities; the gallery holds every visible one, from which the protocol draws.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from fastreid_ops.data.datasets._layout import Row, Tree, files, find_root, shortened
from fastreid_ops.data.datasets._lists import id_list
from fastreid_ops.data.datasets._matlab import load_mat
from fastreid_ops.data.manifest import Manifest, ManifestError

NAME = "sysu_mm01"
LAYOUTS = ("SYSU-MM01", "sysu_mm01", ".")
CAMERAS = ("cam1", "cam2", "cam3", "cam4", "cam5", "cam6")
INFRARED = (2, 5)
LISTS = ("exp/train_id.txt", "exp/val_id.txt", "exp/test_id.txt")
PERMUTATIONS = "exp/rand_perm_cam.mat"
EXPECTED = "*.jpg in folders like cam1/0001"
# Counted in the official permutation file, which has one entry for every image.
PUBLISHED = {
    "train": {"images": 34167, "ids": 395, "cameras": 6},
    "query": {"images": 3803, "ids": 96, "cameras": 2},
    "gallery": {"images": 6775, "ids": 96, "cameras": 4},
}


def read(root: str | os.PathLike[str]) -> Manifest:
    """Read SYSU-MM01 from `root`/SYSU-MM01 or `root` itself.

    Returns:
        training and validation identities as train (395 published), the infrared images of the test identities as
        query, their visible images as gallery; column modality "visible" or "infrared".

    Raises:
        ManifestError: when no layout fits, a list is missing or damaged, an identity is in two lists, or a listed one
            has no image under any camera.
    """
    return scan(root).checked()


def scan(root: str | os.PathLike[str]) -> Tree:
    """Everything the lists name and what is wrong with it; arguments as `read`."""
    folder = find_root(NAME, root, LAYOUTS, [*CAMERAS, *LISTS])
    tree = Tree(NAME, folder, EXPECTED, PUBLISHED)
    train, validation, test = (id_list(folder / name, NAME) for name in LISTS)
    for first, second, words in ((train, test, "train and test"), (validation, test, "validation and test"),
                                 (train, validation, "train and validation")):  # fmt: skip
        both = sorted(set(first) & set(second))
        if both:
            tree.broken.append(
                f"{NAME}: {folder / 'exp'}: got {shortened(list(map(str, both)))} in the lists of {words}, expected "
                "each identity in one"
            )
    for pid in sorted({*train, *validation}):
        _add(tree, pid, lambda infrared: "train")
    for pid in sorted(test):
        _add(tree, pid, lambda infrared: "query" if infrared else "gallery")
    return tree


def _add(tree: Tree, pid: int, split_of) -> None:
    before = len(tree.rows)
    for camid, camera in enumerate(CAMERAS):
        folder = f"{camera}/{pid:04d}"
        if not (tree.root / folder).is_dir():
            continue
        images, other = files(tree.root / folder, ".jpg")
        tree.passed += [f"{folder}/{entry}" for entry in other]
        infrared = camid in INFRARED
        kind = "infrared" if infrared else "visible"
        tree.rows += [Row(f"{folder}/{entry}", pid, camid, split_of(infrared), kind) for entry in images]
    if len(tree.rows) == before:
        tree.missing.append(f"cam*/{pid:04d}")


def has_permutations(root: str | os.PathLike[str]) -> bool:
    """Whether `permutations` has a file to read: not everybody's copy has one."""
    return any((Path(root) / layout / PERMUTATIONS).is_file() for layout in LAYOUTS)


def permutations(root: str | os.PathLike[str]) -> dict[tuple[int, int], np.ndarray]:
    """The official order in which gallery images are drawn (exp/rand_perm_cam.mat of the official protocol).

    Returns:
        (pid, camid) -> (trials, images) int64: row t is trial t's order of that identity's images under that camera,
        as the numbers in their file names, from 1 (`f"{number:04d}.jpg"`). The first one is drawn for single-shot,
        the first ten for multi-shot. Identities that a camera never saw are left out.

    Raises:
        ManifestError: if the file is missing, SciPy is not installed, or the file is of another form.
    """
    file = find_root(NAME, root, LAYOUTS, [PERMUTATIONS]) / PERMUTATIONS
    cameras = load_mat(file, NAME).get("rand_perm_cam")
    if cameras is None or cameras.dtype != object or cameras.size != len(CAMERAS):
        raise ManifestError(
            f"{NAME}: {file}: got no rand_perm_cam with six cells, expected one for each camera"
        )
    table = {}
    for camid, people in enumerate(cameras.reshape(-1)):
        # Cameras list 333 or 533 identities: those beyond the end have no image there.
        for place, cell in enumerate(np.asarray(people, object).reshape(-1)):
            order = np.asarray(cell)
            if not order.size:
                continue
            table[place + 1, camid] = _order(file, order, place + 1, camid)
    return table


def _order(file: Path, order: np.ndarray, pid: int, camid: int) -> np.ndarray:
    good = order.ndim == 2 and order.dtype.kind in "iuf"
    if not good or (np.sort(order, axis=1) != np.arange(1, order.shape[1] + 1)).any():
        raise ManifestError(
            f"{NAME}: {file}: camera {camid + 1}, identity {pid}: got shape {order.shape}, expected rows that hold "
            "each image number from 1 once"
        )
    return order.astype(np.int64)
