# SPDX-License-Identifier: Apache-2.0
"""Write the pictures inside cuhk-03.mat as files, with their splits: the layout of torchreid.

    python -m fastreid_ops.data.datasets.cuhk03_extract FOLDER_OF_THE_MAT_FILES NEW_FOLDER

Needs h5py and, for the new split, SciPy: pip install 'fastreid-ops[matlab]'.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from fastreid_ops._atomic import sync_folder
from fastreid_ops.data.datasets import cuhk03
from fastreid_ops.data.datasets._layout import SPLITS, Row, find_root
from fastreid_ops.data.datasets._matlab import open_hdf5
from fastreid_ops.data.manifest import ManifestError

KINDS = ("detected", "labeled")


def extract(root: str | os.PathLike[str], target: str | os.PathLike[str]) -> dict[str, int]:
    """Write images_{detected,labeled}/*.png and splits_*.json into a new folder, all of it or nothing.

    Args:
        root: the folder with cuhk-03.mat or cuhk03_release/cuhk-03.mat, and beside it, if the new split is wanted,
            cuhk03_new_protocol_config_{detected,labeled}.mat; or the folder above, which holds it as cuhk03.
        target: a folder that is new or empty; what is written holds relative names and may be moved.

    Returns:
        {"detected": pictures, "labeled": pictures}; about 14,000 each.

    Raises:
        ManifestError: a ValueError that says what is wrong. OSError: when writing fails; nothing is left then.
    """
    base = find_root("cuhk03", root, cuhk03.LAYOUTS, [cuhk03.RAW])
    raw, target = cuhk03.find_raw(base), Path(target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ManifestError(f"cuhk03: target: got {str(target)!r}, expected a new or empty folder")
    tests = cuhk03.tested_people(raw)
    configs = {kind: cuhk03.find_config(base, kind) for kind in KINDS}
    named = {kind: cuhk03.new_names(file) for kind, file in configs.items() if file is not None}
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
    try:
        folder = work / "cuhk03"
        folder.mkdir()
        rows = {kind: _pictures(raw, kind, folder) for kind in KINDS}
        for kind in KINDS:
            splits = [cuhk03.classic_rows(rows[kind], test) for test in tests]
            _write(folder / f"splits_classic_{kind}.json", splits)
            if kind in named:
                _write(
                    folder / f"splits_new_{kind}.json", [_new_rows(rows[kind], named[kind], configs[kind])]
                )
        if target.exists():
            target.rmdir()
        os.rename(folder, target)
        sync_folder(target.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return {kind: len(rows[kind]) for kind in KINDS}


def _pictures(raw: Path, kind: str, folder: Path) -> list[Row]:
    (folder / f"images_{kind}").mkdir()
    rows = []
    with open_hdf5(raw, "cuhk03") as mat:
        try:
            # MATLAB counts columns first, HDF5 rows first: every array is turned over.
            pairs = [np.asarray(mat[reference][:]).T for reference in mat[kind][0]]
            total = sum(len(pair) for pair in pairs)
            with tqdm(total=total, desc=f"{kind} people", disable=None) as bar:
                for pair, people in enumerate(pairs, 1):
                    for person, cells in enumerate(people, 1):
                        rows += _person(mat, cells, pair, person, folder / f"images_{kind}")
                        bar.update()
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ManifestError(
                f"cuhk03: {raw}: got something else, expected {kind} as pairs of cameras x people x 10 pictures: "
                f"{error}"
            ) from error
    return rows


def _person(mat, cells: np.ndarray, pair: int, person: int, folder: Path) -> list[Row]:
    rows = []
    for number, reference in enumerate(cells, 1):
        pixels = np.asarray(mat[reference][:]).T
        # A cell without a picture holds two zeros.
        if pixels.ndim < 3 or pixels.size == 0:
            continue
        name = f"{pair}_{person:03d}_{1 if number <= 5 else 2}_{number:02d}.png"
        if not cuhk03.NAME.fullmatch(name):
            raise ValueError(f"picture {number} of person {person} of pair {pair}")
        Image.fromarray(np.ascontiguousarray(pixels, dtype=np.uint8)).save(folder / name)
        rows.append(
            Row(f"{folder.name}/{name}", pair * cuhk03.PAIR_FACTOR + person, cuhk03.view(name), "train")
        )
    return rows


def _new_rows(rows: list[Row], chosen: dict[str, list[tuple[str, int]]], file: Path) -> list[Row]:
    known = {row.path.rsplit("/", 1)[1]: row for row in rows}
    lost = [name for listed in chosen.values() for name, _ in listed if name not in known]
    if lost:
        raise ManifestError(f"cuhk03: {file}: got {lost[0]}, expected names of pictures in cuhk-03.mat")
    return [known[name]._replace(split=split) for split, listed in chosen.items() for name, _ in listed]


def _write(file: Path, splits: list[list[Row]]) -> None:
    """torchreid's form, with relative names and with identities that train and test do not share."""
    made = [
        {name: [[row.path, row.pid, row.camid] for row in rows if row.split == name] for name in SPLITS}
        for rows in splits
    ]
    file.write_text(json.dumps(made), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, or 2 with a sentence."""
    parser = argparse.ArgumentParser(
        prog="python -m fastreid_ops.data.datasets.cuhk03_extract",
        description="Write the pictures inside cuhk-03.mat as files, with their splits.",
    )
    parser.add_argument("root", help="folder with cuhk-03.mat or cuhk03_release/cuhk-03.mat")
    parser.add_argument("target", help="new folder to write to")
    chosen = parser.parse_args(argv)
    try:
        written = extract(chosen.root, chosen.target)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{chosen.target}: " + ", ".join(f"{count} {kind} pictures" for kind, count in written.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
