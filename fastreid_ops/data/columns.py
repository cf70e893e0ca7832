# SPDX-License-Identifier: Apache-2.0
"""Optional columns of a manifest as the numbers that samplers, batches and losses work with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

import numpy as np

from fastreid_ops.data import ids
from fastreid_ops.data.manifest import Manifest
from fastreid_ops.data.merge import set_of

MODALITIES = ("visible", "infrared")
# NAIC's halves by lighting, which its protocols pick: no other kind of picture to a model.
LIGHTING = ("green", "normal", "unsorted")
DOMAINS = ("camera", "folder", "dataset")


def modality_codes(manifest: Manifest) -> list[int] | None:
    """0 (visible) or 1 (infrared) of every row; None without the column, and where it tells lighting only.

    Raises:
        ValueError: for another word.
    """
    if manifest.modality is None or set(manifest.modality) <= set(LIGHTING):
        return None
    wrong = [word for word in dict.fromkeys(manifest.modality) if word not in MODALITIES]
    if wrong:
        raise ValueError(f"modality_codes: modality: got {wrong[0]!r}, expected visible or infrared")
    return [MODALITIES.index(word) for word in manifest.modality]


def clothes_labels(manifest: Manifest) -> list[int] | None:
    """Clothes label 0 ... n-1 of every row, None without the column.

    A label is an outfit of one identity: data sets that number outfits anew for each identity and those that
    number them throughout get the same labels. They follow the order of (identity, clothes), so they are the same
    for every process and every run.
    """
    if manifest.clothes is None:
        return None
    pairs = list(zip(manifest.pid, manifest.clothes, strict=True))
    place = {name: number for number, name in enumerate(ids.in_order([*manifest.pid, *manifest.clothes]))}
    ordered = sorted(set(pairs), key=lambda pair: (place[pair[0]], place[pair[1]]))
    label = {pair: number for number, pair in enumerate(ordered)}
    return [label[pair] for pair in pairs]


def tracklet_numbers(manifest: Manifest) -> list[int] | None:
    """Number 0 ... n-1 of every row's tracklet by first appearance, None without the column.

    Rows are of one tracklet where identity, camera and tracklet agree, so that tracklets may be numbered anew for
    each person or camera.
    """
    if manifest.tracklet is None:
        return None
    number: dict[tuple, int] = {}
    keys = zip(manifest.pid, manifest.camid, manifest.tracklet, strict=True)
    return [number.setdefault(key, len(number)) for key in keys]


def clothes_of_ids(labels: Sequence[int], clothes: Sequence[int]) -> np.ndarray:
    """(identities, outfits) bool: which clothes labels belong to which class label; the pid2clothes of CAL."""
    matrix = np.zeros((max(labels) + 1, max(clothes) + 1), dtype=bool)
    matrix[np.asarray(labels), np.asarray(clothes)] = True
    return matrix


def domains(manifest: Manifest, kind: str) -> list[int | str]:
    """The domain of every row: its "camera", the first "folder" of its path, which is the data set where several lie
    under one root, or the "dataset" that several were merged from (`merge.merge_training`).

    Raises:
        ValueError: for another kind, a path without a folder, or a data set that is not merged.
    """
    if kind not in DOMAINS:
        raise ValueError(f"domains: kind: got {kind!r}, expected one of {', '.join(DOMAINS)}")
    if kind == "camera":
        return list(manifest.camid)
    if kind == "dataset":
        return [set_of(pid) for pid in manifest.pid]
    parts = [PurePath(path).parts for path in manifest.path]
    bare = [path for path, found in zip(manifest.path, parts, strict=True) if len(found) < 2]
    if bare:
        raise ValueError(f"domains: path: got {bare[0]!r} without a folder, expected one for each data set")
    return [found[0] for found in parts]
