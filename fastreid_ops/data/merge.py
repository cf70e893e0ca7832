# SPDX-License-Identifier: Apache-2.0
"""Several data sets as one that is trained on."""

from __future__ import annotations

import os
from collections.abc import Mapping

from fastreid_ops.data.manifest import Manifest

# Between the name of a data set and what an identity is called in it.
MARK = "/"
_KEPT = ("modality", "clothes", "tracklet", "frame")


def merge_training(sets: Mapping[str, Manifest]) -> Manifest:
    """The training rows of several data sets, by their names, in this order.

    Person 7 of Market-1501 and person 7 of MSMT17 are two people: identities become "market1501/7" and "msmt17/7".
    Cameras are counted on from set to set. An optional column stays where every set has it. Paths are kept as they
    are but start from the folder that all sets lie in.

    Raises:
        ValueError: for less than two sets, a name with the mark, or a set without training rows.
    """
    if len(sets) < 2:
        raise ValueError(f"merge_training: sets: got {len(sets)}, expected at least two")
    columns: dict[str, list] = {"path": [], "pid": [], "camid": [], "split": []}
    parts = {name: manifest.select("train") for name, manifest in sets.items()}
    for name in _KEPT:
        if all(getattr(part, name) is not None for part in parts.values()):
            columns[name] = []
    root = os.path.commonpath([os.path.abspath(part.root) for part in parts.values()])
    cameras = 0
    for name, part in parts.items():
        if MARK in name:
            raise ValueError(f"merge_training: sets: got the name {name!r}, expected one without {MARK!r}")
        if not len(part):
            raise ValueError(f"merge_training: {name}: got no training row, expected some")
        columns["path"] += [
            os.path.relpath(os.path.abspath(part.file(row)), root) for row in range(len(part))
        ]
        columns["pid"] += [f"{name}{MARK}{pid}" for pid in part.pid]
        columns["camid"] += [cameras + camera for camera in part.camid]
        columns["split"] += part.split
        for key in _KEPT:
            if key in columns:
                columns[key] += getattr(part, key)
        cameras += max(part.camid) + 1
    return Manifest(root, **columns)


def set_of(pid: int | str) -> str:
    """The data set of an identity that `merge_training` named.

    Raises:
        ValueError: for another identity.
    """
    name, mark, _ = str(pid).partition(MARK)
    if not mark:
        raise ValueError(
            f"set_of: pid: got {pid!r}, expected <data set>{MARK}<identity>: several sets as one"
        )
    return name
