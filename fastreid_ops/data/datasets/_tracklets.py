# SPDX-License-Identifier: Apache-2.0
"""Tracklets as rows of a tree: one row for each frame, numbered over the whole data set."""

from __future__ import annotations

from collections.abc import Sequence

from fastreid_ops.data.datasets._layout import Row, Tree


def add_tracklet(tree: Tree, frames: Sequence[str], pid: int, camid: int, split: str) -> None:
    """Append the frames of one tracklet, in the order given.

    Tracklets are numbered from 0 in the order they are added, so that a number is one tracklet in all splits;
    `frame` is the place within the tracklet, from 0.
    """
    number = tree.rows[-1].tracklet + 1 if tree.rows else 0
    tree.rows += [
        Row(path, pid, camid, split, tracklet=number, frame=place) for place, path in enumerate(frames)
    ]
