# SPDX-License-Identifier: Apache-2.0
"""Several data sets as one: torchreid's sum of the same sets, and what each column becomes."""

from __future__ import annotations

from pathlib import Path

import pytest
from image_trees import CASES, build, one_to_one

from fastreid_ops.config import ConfigError, from_dict, validate
from fastreid_ops.data import columns
from fastreid_ops.data.datasets import read_dataset
from fastreid_ops.data.manifest import Manifest
from fastreid_ops.data.merge import merge_training
from fastreid_ops.engine import setup

NAMES = ("market1501", "dukemtmcreid", "grid")


def test_as_torchreid_adds_them(tmp_path: Path, torchreid):
    cases = [CASES[name] for name in NAMES]
    for case in cases:
        build(case, tmp_path / case.layouts[0])
    values = {"data": {"dataset": NAMES[0], "root": str(tmp_path)}}
    values["data"]["sources"] = [{"dataset": name, "root": str(tmp_path)} for name in NAMES[1:]]
    config = validate(from_dict(values))
    whole = setup.training_manifest(config)
    ours = setup.training_rows(config, whole)
    first, second, third = (torchreid(case.module, case.cls, tmp_path) for case in cases)
    theirs = {Path(row[0]).resolve(): row[1:] for row in (first + second + third).train}
    assert len(ours) == len(theirs) == sum(len(read_dataset(n, tmp_path).select("train")) for n in NAMES)
    rows = [theirs[ours.file(row).resolve()] for row in range(len(ours))]
    assert one_to_one(zip(ours.pid, [pid for pid, _, _ in rows], strict=True))
    sets = columns.domains(ours, "dataset")
    assert one_to_one(zip(sets, [number for _, _, number in rows], strict=True))
    # Cameras apart: torchreid counts those that occur, so that a gap in the numbers lets two sets share one.
    assert len(set(ours.camid)) == sum(len({r[2] for r in each.train}) for each in (first, second, third))
    assert set(whole.select("query").pid).isdisjoint(ours.pid)


def part(folder, pids, **more):
    return Manifest(
        folder,
        [f"{i}.jpg" for i in range(len(pids))],
        pids,
        [3] * len(pids),
        ["train"] * (len(pids) - 1) + ["query"],
        **more,
    )


def test_columns(tmp_path: Path):
    a = part(tmp_path / "a", [1, 2, 3], clothes=[1, 2, 3], frame=[0, 1, 2])
    b = part(tmp_path / "b", ["x", 1], clothes=[1, 1], modality=["visible", "infrared"])
    both = merge_training({"first": a, "second": b})
    assert both.pid == ["first/1", "first/2", "second/x"]
    assert both.camid == [3, 3, 7]
    assert (both.clothes, both.frame, both.modality) == ([1, 2, 1], None, None)
    assert [both.file(i).resolve() for i in range(3)] == [
        (tmp_path / name).resolve() for name in ("a/0.jpg", "a/1.jpg", "b/0.jpg")
    ]
    assert columns.domains(both, "dataset") == ["first", "first", "second"]
    with pytest.raises(ValueError, match="set_of: pid: got 1, expected <data set>/<identity>"):
        columns.domains(a, "dataset")


def test_refusals(tmp_path: Path):
    whole = part(tmp_path, [1, 2])
    empty = part(tmp_path, [1])
    with pytest.raises(ValueError, match="sets: got 1, expected at least two"):
        merge_training({"a": whole})
    with pytest.raises(ValueError, match="merge_training: b: got no training row"):
        merge_training({"a": whole, "b": empty})
    with pytest.raises(ValueError, match="got the name 'b/c'"):
        merge_training({"a": whole, "b/c": whole})
    twice = from_dict({"data": {"sources": [{"dataset": "people"}, {"dataset": "peple"}]}})
    with pytest.raises(
        ConfigError, match=r"data.sources: name: got 'people'[\s\S]*data.sources.1.dataset: got 'peple'"
    ):
        validate(twice)
    named = from_dict({"data": {"sources": [{"dataset": "people", "name": "more", "options": {"seed": 1}}]}})
    validate(named)
