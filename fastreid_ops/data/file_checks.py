# SPDX-License-Identifier: Apache-2.0
"""What is wrong with the image files of a manifest: missing, damaged, misnamed, or the same picture twice."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from fastreid_ops.data.checks import Finding, finding
from fastreid_ops.data.images import BadImageError, read_bytes, read_image
from fastreid_ops.data.manifest import Manifest

SMALLEST_SIDE = 8
LARGEST_RATIO = 8.0
BLOCK = 8192
# First bytes of a file -> extensions that may stand for it.
SIGNATURES = (
    (b"\xff\xd8\xff", (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo")),
    (b"\x89PNG\r\n\x1a\n", (".png",)),
    (b"GIF8", (".gif",)),
    (b"BM", (".bmp", ".dib")),
    (b"II*\0", (".tif", ".tiff")),
    (b"MM\0*", (".tif", ".tiff")),
    (b"RIFF", (".webp",)),
    (b"P5", (".pgm", ".pnm", ".ppm")),
    (b"P6", (".ppm", ".pnm")),
)


class _File(NamedTuple):
    bad: str | None
    digest: str | None
    misnamed: str | None
    flat: bool
    odd_size: str | None


def file_findings(
    manifest: Manifest, *, verify: bool = False, threads: int | None = None, progress: bool = False
) -> list[Finding]:
    """Look at every file once.

    Args:
        verify: decode every image as well, which finds truncated and single-coloured ones.
        threads: files read at a time; None: one for each processor, at most 8.
        progress: show a bar on standard error while it is a terminal.
    """
    rows = defaultdict(list)
    root = os.fspath(manifest.root)
    for row, path in enumerate(manifest.path):
        rows[os.path.normpath(os.path.join(root, path))].append(row)
    looks = _look_at_all(list(rows), verify, threads or min(8, os.cpu_count() or 1), progress)
    bad = [f"{path}: {look.bad}" for path, look in looks.items() if look.bad is not None]
    misnamed = [f"{path}: {look.misnamed}" for path, look in looks.items() if look.misnamed]
    return [
        *finding("problem", "bad_file", "files are missing or cannot be used", bad),
        *finding("problem", "wrong_extension", "files are of another format than their name says", misnamed),
        *finding(
            "problem",
            "flat_image",
            "images have one colour all over",
            (p for p, k in looks.items() if k.flat),
        ),
        *finding(
            "note",
            "odd_size",
            f"images have a side under {SMALLEST_SIDE} pixels or one side over {LARGEST_RATIO:g} times the "
            f"other",
            (f"{path}: {look.odd_size}" for path, look in looks.items() if look.odd_size),
        ),
        *_same_content(manifest, rows, looks),
    ]


def _look_at_all(paths: list[str], verify: bool, threads: int, progress: bool) -> dict[str, _File]:
    looks = {}
    # disable=None: no bar where nobody watches.
    bar = tqdm(total=len(paths), desc="checking files", unit=" files", disable=None if progress else True)
    with bar, ThreadPoolExecutor(threads) as pool:
        # In blocks: a pool keeps an object for every task it was given, and some sets have a million files.
        for start in range(0, len(paths), BLOCK):
            block = paths[start : start + BLOCK]
            for path, look in zip(block, pool.map(lambda path: _look(path, verify), block), strict=True):
                looks[path] = look
                bar.update()
    return looks


def _look(path: str, verify: bool) -> _File:
    try:
        data = read_bytes(path)
        digest = hashlib.sha256(data).hexdigest()
        misnamed = _misnamed(path, data)
        if not verify:
            return _File(None, digest, misnamed, False, None)
        pixels = np.asarray(read_image(path))
    except BadImageError as error:
        return _File(error.reason, None, None, False, None)
    height, width = pixels.shape[:2]
    odd = min(height, width) < SMALLEST_SIDE or max(height, width) > LARGEST_RATIO * min(height, width)
    flat = bool((pixels == pixels[0, 0]).all())
    return _File(None, digest, misnamed, flat, f"{width} x {height} pixels" if odd else None)


def _misnamed(path: str, data: bytes) -> str | None:
    extension = os.path.splitext(path)[1].lower()
    for signature, extensions in SIGNATURES:
        if data.startswith(signature):
            return None if extension in extensions else f"holds what is usually called *{extensions[0]}"
    return None


def _same_content(
    manifest: Manifest, rows: dict[str, list[int]], looks: dict[str, _File]
) -> Iterator[Finding]:
    groups = defaultdict(list)
    for path, look in looks.items():
        if look.digest is not None:
            groups[look.digest].append(path)
    leaked, torn, copies = [], [], []
    for paths in groups.values():
        if len(paths) == 1:
            continue
        # Rows of different files only: one file in two splits is the label checks' business.
        names = " = ".join(paths[:3])
        trains = [{manifest.split[row] == "train" for row in rows[path]} for path in paths]
        if len({manifest.pid[row] for path in paths for row in rows[path]}) > 1:
            torn.append(names)
        elif True in set.union(*trains) and False in set.union(*trains):
            leaked.append(names)
        else:
            copies.append(names)
    yield from finding("problem", "same_content_two_ids", "pictures are stored under two identities", torn)
    yield from finding(
        "problem", "same_content_train_test", "pictures are stored in train and again in the test set", leaked
    )
    yield from finding("note", "same_content", "pictures are stored more than once", copies)
