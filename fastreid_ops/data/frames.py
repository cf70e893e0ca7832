# SPDX-License-Identifier: Apache-2.0
"""Tracklets as rows: which rows belong together, which of their frames are looked at, and where each belongs.

A manifest holds one row for each frame, with its `tracklet` and, where known, its `frame`. Pooling features over
the frames of a tracklet is the evaluation's business; here is what it needs to know.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from fastreid_ops.data.columns import tracklet_numbers
from fastreid_ops.data.manifest import Manifest

CHOICES = ("random", "evenly", "all")


class TrackletFrames(NamedTuple):
    """What an evaluation of tracklets reads, and how it is put together again.

    Attributes:
        frames: manifest of the frames to read, tracklet after tracklet; a short tracklet may hold one twice.
        tracklets: manifest with one row for each tracklet (its first frame), in the same order.
        index: (rows of `frames`,) int64: the row of `tracklets` that each frame belongs to, rising.
    """

    frames: Manifest
    tracklets: Manifest
    index: np.ndarray


def tracklet_rows(
    tracklets: Sequence[Hashable], frames: Sequence[int] | None = None
) -> dict[Hashable, list[int]]:
    """Tracklet -> its rows in the order of `frames` (of the rows where None), tracklets by first appearance.

    Raises:
        ValueError: if `frames` has another length.
    """
    if frames is not None and len(frames) != len(tracklets):
        raise ValueError(
            f"tracklet_rows: frames: got {len(frames)} values, expected {len(tracklets)}, one for each row"
        )
    rows: dict[Hashable, list[int]] = {}
    for row, tracklet in enumerate(tracklets):
        rows.setdefault(tracklet, []).append(row)
    if frames is not None:
        for own in rows.values():
            own.sort(key=lambda row: (frames[row], row))
    return rows


def frame_positions(
    count: int, length: int, choice: str, rng: np.random.Generator | None = None
) -> list[int]:
    """Which of a tracklet's `count` frames make a sequence of `length`, rising.

    As VideoDataset of the deep-person-reid repository: "random" draws different frames (with replacement where
    there are too few) and sorts them; "evenly" takes every (n // length)-th frame of the first
    n = count - count % length, or all frames and the last one repeated where there are too few; "all" takes
    all of them, whatever `length`.

    Raises:
        ValueError: for another choice, no frame, or "random" without a generator.
    """
    for name, value in (("count", count), ("length", length)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
            raise ValueError(f"frame_positions: {name}: got {value!r}, expected a whole number from 1")
    if choice not in CHOICES:
        raise ValueError(f"frame_positions: choice: got {choice!r}, expected one of {', '.join(CHOICES)}")
    if choice == "all":
        return list(range(count))
    if choice == "evenly":
        step = count // length
        return [place * step if step else min(place, count - 1) for place in range(length)]
    if not isinstance(rng, np.random.Generator):
        raise ValueError(f"frame_positions: rng: got {type(rng).__name__}, expected numpy.random.Generator")
    return sorted(rng.choice(count, length, replace=count < length).tolist())


def evaluation_frames(
    manifest: Manifest, choice: str = "evenly", length: int = 15, *, seed: int = 0
) -> TrackletFrames:
    """The frames that stand for each tracklet of a manifest (of queries, or of a gallery).

    Args:
        manifest: rows with a `tracklet` column.
        choice, length: as in `frame_positions`; deep-person-reid takes 15 evenly.
        seed: of "random", where the draw of a tracklet depends on its place among the tracklets alone.

    Raises:
        ValueError: without tracklets, or for one with frames in several splits.
    """
    if manifest.tracklet is None:
        raise ValueError(
            "evaluation_frames: manifest: got no tracklet column, expected the tracklet of every frame"
        )
    read, first, index = [], [], []
    for place, rows in enumerate(tracklet_rows(tracklet_numbers(manifest), manifest.frame).values()):
        if len({manifest.split[row] for row in rows}) > 1:
            name = manifest.tracklet[rows[0]]
            raise ValueError(
                f"evaluation_frames: tracklet {name!r}: got frames of several splits, expected one; select first"
            )
        rng = np.random.default_rng(np.random.SeedSequence([seed, place])) if choice == "random" else None
        positions = frame_positions(len(rows), length, choice, rng)
        read += [rows[position] for position in positions]
        index += [place] * len(positions)
        first.append(rows[0])
    return TrackletFrames(manifest.take(read), manifest.take(first), np.array(index, dtype=np.int64))
