# SPDX-License-Identifier: Apache-2.0
"""Small pictures of coloured noise in the layouts of published data sets, enough for a batch and an evaluation."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image


def pictures(root: Path, names: Iterable[str]) -> Path:
    """A JPEG or PNG of 64 x 32 pixels under each name."""
    rng = np.random.default_rng(0)
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (64, 32, 3), dtype=np.uint8)).save(file)
    return root


def _market(pattern: str, ids: int = 10) -> list[str]:
    return [
        *("bounding_box_train/" + pattern.format(pid, cam, k) for pid in range(2, 2 + ids) for cam in (1, 2)
          for k in (1, 2)),
        *("query/" + pattern.format(pid, 1, 1) for pid in (101, 102)),
        *("bounding_box_test/" + pattern.format(pid, cam, 2) for pid in (101, 102, 103) for cam in (1, 2)),
    ]  # fmt: skip


def market1501(data: Path) -> None:
    pictures(data / "market1501/Market-1501-v15.09.15", _market("{:04d}_c{}s1_{:06d}_01.jpg"))


def dukemtmcreid(data: Path) -> None:
    pictures(data / "dukemtmc-reid/DukeMTMC-reID", _market("{:04d}_c{}_f{:07d}.jpg"))


def cuhk03(data: Path) -> None:
    pictures(data / "cuhk03-np/detected", _market("{:04d}_c{}_{:d}.png"))


def msmt17(data: Path) -> None:
    root = data / "msmt17/MSMT17_V1"
    sides = {"train": ("train", range(6)), "val": ("train", range(6)), "query": ("test", range(3)),
             "gallery": ("test", range(3))}  # fmt: skip
    for number, (name, (folder, people)) in enumerate(sides.items()):
        files = [
            f"{pid:04d}/{pid:04d}_{10 * number + k:03d}_{cam:02d}_0303morning_0015_0.jpg"
            for pid in people
            for cam in (1, 2)
            for k in (1, 2)
        ]
        pictures(root / folder, files)
        (root / f"list_{name}.txt").write_text("".join(f"{file} {int(file[:4])}\n" for file in files))


def mars(data: Path) -> None:
    """Tracklets of 20 frames in training, of 20 and 3 in the test set."""
    from scipy.io import savemat

    root = data / "mars"
    (root / "info").mkdir(parents=True)
    tables = {}
    for part, people, lengths in (("train", range(1, 9), (20, 20)), ("test", range(11, 14), (20, 3))):
        files, rows = [], []
        for pid in people:
            for cam, length in zip((1, 2), lengths, strict=True):
                rows.append([len(files) + 1, len(files) + length, pid, cam])
                files += [f"{pid:04d}C{cam}T0001F{k:03d}.jpg" for k in range(1, length + 1)]
        pictures(root / f"bbox_{part}", [f"{file[:4]}/{file}" for file in files])
        (root / "info" / f"{part}_name.txt").write_text("\n".join(files) + "\n")
        tables[part] = np.array(rows, dtype=np.float64)
        savemat(root / "info" / f"tracks_{part}_info.mat", {f"track_{part}_info": tables[part]})
    savemat(root / "info/query_IDX.mat", {"query_IDX": np.array([[1, 3, 5]], dtype=np.float64)})
