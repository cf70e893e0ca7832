# SPDX-License-Identifier: Apache-2.0
"""Frames of tracklets: the three choices as deep-person-reid makes them, and what an evaluation reads."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from fastreid_ops.data.frames import evaluation_frames, frame_positions, tracklet_rows
from fastreid_ops.data.manifest import Manifest


def source_evenly(count: int, length: int) -> list[int]:
    """VideoDataset's words, with NumPy's arange as there."""
    if count >= length:
        count -= count % length
        return np.arange(0, count, count / length).astype(int).tolist()
    return [*range(count), *[count - 1] * (length - count)]


def test_evenly_is_the_sources_rule():
    for count in range(1, 40):
        for length in range(1, 18):
            assert frame_positions(count, length, "evenly") == source_evenly(count, length), (count, length)
    assert frame_positions(31, 15, "evenly") == list(range(0, 30, 2))  # the tail is never used


def test_random_is_sorted_and_uniform():
    rng = np.random.default_rng(0)
    hits = Counter()
    for _ in range(2000):
        places = frame_positions(8, 3, "random", rng)
        assert places == sorted(set(places))
        hits.update(places)
        few = frame_positions(2, 3, "random", rng)
        assert few == sorted(few)
        assert set(few) <= {0, 1}
    # 3 of 8: 750 of 2000, standard deviation 21.7.
    assert max(abs(hits[place] - 750) for place in range(8)) < 4.5 * 21.7
    assert frame_positions(5, 2, "all") == [0, 1, 2, 3, 4]


def manifest(**changes) -> Manifest:
    names = ["b", "a", "b", "a", "b"]
    columns = {
        "path": [f"{name}{place}.jpg" for place, name in enumerate(names)],
        "pid": [{"a": 1, "b": 2}[name] for name in names],
        "camid": [{"a": 0, "b": 3}[name] for name in names],
        "split": ["query"] * 5,
        "tracklet": names,
        "frame": [9, 1, 2, 0, 5],
    }
    return Manifest(root=Path(), **{**columns, **changes})


def test_an_evaluation_reads_frames_in_order_and_knows_whose_they_are():
    assert tracklet_rows(manifest().tracklet, manifest().frame) == {"b": [2, 4, 0], "a": [3, 1]}
    everything = evaluation_frames(manifest(), "all")
    assert everything.frames.path == ["b2.jpg", "b4.jpg", "b0.jpg", "a3.jpg", "a1.jpg"]
    assert everything.index.tolist() == [0, 0, 0, 1, 1]
    assert everything.tracklets.pid == [2, 1]
    assert everything.tracklets.camid == [3, 0]
    assert everything.tracklets.tracklet == ["b", "a"]
    two = evaluation_frames(manifest(), "evenly", 3)
    assert two.frames.path == ["b2.jpg", "b4.jpg", "b0.jpg", "a3.jpg", "a1.jpg", "a1.jpg"]
    drawn = evaluation_frames(manifest(), "random", 2, seed=4)
    assert drawn.frames.path == evaluation_frames(manifest(), "random", 2, seed=4).frames.path
    assert len({tuple(evaluation_frames(manifest(), "random", 2, seed=s).frames.path) for s in range(9)}) > 1
    assert drawn.index.tolist() == [0, 0, 1, 1]


def test_what_is_no_tracklet_is_refused():
    with pytest.raises(ValueError, match="manifest: got no tracklet column"):
        evaluation_frames(manifest(tracklet=None))
    with pytest.raises(ValueError, match="tracklet 'b': got frames of several splits, expected one"):
        evaluation_frames(manifest(split=["query", "query", "query", "query", "gallery"]))
    # The same number under another camera, or of another person, is another tracklet.
    assert len(evaluation_frames(manifest(camid=[3, 0, 3, 0, 2])).tracklets) == 3
    assert len(evaluation_frames(manifest(tracklet=[0] * 5)).tracklets) == 2
    with pytest.raises(ValueError, match="choice: got 'first', expected one of random, evenly, all"):
        frame_positions(3, 2, "first")
    with pytest.raises(ValueError, match="count: got 0"):
        frame_positions(0, 2, "all")
    with pytest.raises(ValueError, match="rng: got NoneType"):
        frame_positions(3, 2, "random")
    with pytest.raises(ValueError, match="frames: got 1 values, expected 2"):
        tracklet_rows(["a", "a"], [1])
