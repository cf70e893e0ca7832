# SPDX-License-Identifier: Apache-2.0
"""SYSU-MM01, RegDB and LLCM in miniature: the published folders, names and lists around small random pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

TRAIN, TEST = range(1, 5), range(5, 8)  # people
_PICTURES = np.random.default_rng(0)


def _picture(file: Path, infrared: bool) -> None:
    pixels = _PICTURES.integers(0, 256, (32, 16, 1 if infrared else 3), dtype=np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.repeat(pixels, 3, 2) if infrared else pixels).save(file)


def sysu_mm01(root: Path) -> Path:
    """Cameras 3 and 6 are infrared."""
    for pid in (*TRAIN, *TEST):
        for camera in range(1, 7):
            for k in (1, 2):
                _picture(root / f"SYSU-MM01/cam{camera}/{pid:04d}/{k:04d}.jpg", camera in (3, 6))
    lists = {"train": TRAIN[:3], "val": TRAIN[3:], "test": TEST}
    (root / "SYSU-MM01/exp").mkdir()
    for name, people in lists.items():
        (root / f"SYSU-MM01/exp/{name}_id.txt").write_text(",".join(map(str, people)) + "\n")
    return root


def regdb(root: Path, trial: int = 2) -> Path:
    """The lists of one trial."""
    (root / "RegDB/idx").mkdir(parents=True)
    for half, people in (("train", TRAIN), ("test", TEST)):
        for kind, letter in (("visible", "v"), ("thermal", "t")):
            lines = []
            for label, pid in enumerate(people):
                for k in (1, 2):
                    name = f"{kind.capitalize()}/{pid}/male_front_{letter}_{k:05d}_{pid}.bmp"
                    _picture(root / "RegDB" / name, kind == "thermal")
                    lines.append(f"{name} {label}")
            (root / f"RegDB/idx/{half}_{kind}_{trial}.txt").write_text("\n".join(lines) + "\n")
    return root


def llcm(root: Path) -> Path:
    """Cameras 1 and 2 for everybody; there is no infrared camera 3."""
    (root / "LLCM/idx").mkdir(parents=True)
    for kind in ("vis", "nir"):
        lines = []
        for label, pid in enumerate(TRAIN):
            for camera in (1, 2):
                name = f"{kind}/{pid:04d}/{pid:04d}_c{camera:02d}_s100_f7_{kind}.jpg"
                _picture(root / "LLCM" / name, kind == "nir")
                lines.append(f"{name} {label}")
        (root / f"LLCM/idx/train_{kind}.txt").write_text("\n".join(lines) + "\n")
        for camera in range(1, 10):
            (root / f"LLCM/test_{kind}/cam{camera}").mkdir(parents=True)
        for pid in TEST:
            for camera in (1, 2):
                folder = root / f"LLCM/test_{kind}/cam{camera}/{pid:04d}"
                _picture(folder / f"{pid:04d}_c{camera:02d}_s100_f7_{kind}.jpg", kind == "nir")
    (root / "LLCM/idx/test_id.txt").write_text(",".join(map(str, TEST)))
    return root
