# SPDX-License-Identifier: Apache-2.0
"""The packaged crops: 589 real pedestrian images of one camera with two pseudo-cameras and eleven people.

The pseudo-cameras are the left and the right of a lamp post in PETS 2009 S2.L1 View_001 (see sample/README.md
for source, licence and how the identities came about). Eleven people are far too few to train on and to claim
anything about new people: this is a set to look at, and a pin that keeps figures from drifting.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from pathlib import Path

from fastreid_ops.data.manifest import Manifest, ManifestError

DESCRIPTION = "one camera with two pseudo-cameras (left and right of a lamp post) and eleven people"
FOLDER = Path(__file__).parent.parent / "sample"
CROPS, QUERIES = 589, 563
_NAME = re.compile(r"(\d{4})_c(\d)s1_(\d{6})_(\d{2})\.jpg", re.ASCII)


def read(root: str | os.PathLike[str] | None = None) -> Manifest:
    """The crops as a test set: all 589 are gallery, and the 563 whose identity is also seen under the other
    pseudo-camera are queries as well. Evaluate with protocol market1501, which removes the query itself.

    Args:
        root: another folder with crops/*.jpg named alike; the packaged one when None.

    Raises:
        ManifestError: if crops are missing or misnamed.
    """
    base = Path(root) if root is not None else FOLDER
    folder = base / "crops"
    names = sorted(path.name for path in folder.glob("*.jpg")) if folder.is_dir() else []
    if not names:
        raise ManifestError(f"sample: root: got {str(base)!r}, expected a folder with crops/*.jpg")
    if root is None and len(names) != CROPS:
        raise ManifestError(
            f"sample: {folder}: got {len(names)} crops, expected {CROPS}; the installation is incomplete"
        )
    labels = []
    for name in names:
        match = _NAME.fullmatch(name)
        if not match:
            raise ManifestError(
                f"sample: {folder / name}: got an unknown name, expected PPPP_cZs1_FFFFFF_TT.jpg"
            )
        labels.append([int(group) for group in match.groups()])
    zones = defaultdict(set)
    for pid, zone, _, _ in labels:
        zones[pid].add(zone)
    rows = [
        (name, label, "query") for name, label in zip(names, labels, strict=True) if len(zones[label[0]]) > 1
    ]
    rows += [(name, label, "gallery") for name, label in zip(names, labels, strict=True)]
    return Manifest(
        root=base,
        path=[f"crops/{name}" for name, _, _ in rows],
        pid=[label[0] for _, label, _ in rows],
        camid=[label[1] - 1 for _, label, _ in rows],
        split=[split for _, _, split in rows],
        frame=[label[2] for _, label, _ in rows],
        tracklet=[label[3] for _, label, _ in rows],
    )
