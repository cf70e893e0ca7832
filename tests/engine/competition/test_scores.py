# SPDX-License-Identifier: Apache-2.0
"""Figures of rankings where the test people are known, beside plain counting, and where they are not."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from competition_entry import changed, picture, recipe, run
from competition_entry import plan as make_plan

from fastreid_ops.data.manifest import Manifest
from fastreid_ops.engine.competition.features import TestPictures
from fastreid_ops.engine.competition.scores import are_known, score

PEOPLE = {"query": ["a", "b", "c", "stranger", "a"], "gallery": ["c", "a", "b", "a", "nobody", "b", "a"]}


def pictures(people, modality=None):
    rows = [(f"{side}/{side}{n}.png", pid, side) for side in people for n, pid in enumerate(people[side])]
    path, pid, split = map(list, zip(*rows, strict=True))
    return TestPictures(Manifest(Path("x"), path, pid, [0] * len(rows), split, modality))


def test_figures_are_those_of_plain_counting():
    distance = np.random.default_rng(0).random((5, 7))
    found = score("one", pictures(PEOPLE), "all", torch.from_numpy(distance).split(2))
    ap, inp, first = [], [], []
    for query, row in zip(PEOPLE["query"], distance, strict=True):
        match = [PEOPLE["gallery"][j] == query for j in np.argsort(row)]
        ranks = [rank for rank, hit in enumerate(match, 1) if hit]
        if ranks:
            ap.append(np.mean([n / rank for n, rank in enumerate(ranks, 1)]))
            inp.append(len(ranks) / ranks[-1])
            first.append(ranks[0])
    assert len(ap) == 4  # the stranger does not count
    want = {"mAP": np.mean(ap), "mINP": np.mean(inp)}
    want |= {f"rank{k}": np.mean([rank <= k for rank in first]) for k in (1, 5, 10)}
    assert (found["system"], found["set"]) == ("one", "all")
    assert {name: found[name] for name in want} == pytest.approx(want, abs=1e-9)


def test_who_is_known():
    assert are_known(pictures(PEOPLE))
    assert not are_known(pictures({**PEOPLE, "query": ["a", "unknown"]}))
    assert not are_known(pictures({"query": ["a"], "gallery": ["b"]}))


def test_of_an_entry(root, tmp_path, capsys):
    """A plan on data whose people are known says how good it is; NAIC's own test set does not have them."""
    rng = np.random.default_rng(5)
    with open(tmp_path / "known.csv", "w") as file:
        file.write("path,pid,camid,split\n")
        for pid in range(8):
            colour = rng.integers(20, 160, 3)
            for k in range(4):
                split = "train" if pid < 5 else "query" if k == 0 else "gallery"
                picture(tmp_path / f"{pid}_{k}.png", colour, rng)
                file.write(f"{pid}_{k}.png,{pid},0,{split}\n")
    own = Path(recipe(tmp_path)).rename(tmp_path / "own.yaml")
    changed(own, lambda values: values["eval"].update(sets=[{"name": "test", "protocol": "no_camera"}]))
    models = [
        {"name": name, "recipe": str(own), "overrides": {"train.seed": seed}}
        for seed, name in enumerate("ab")
    ]
    plan = make_plan(root, tmp_path, data={"dataset": str(tmp_path / "known.csv")}, pseudo=[], models=models)
    assert run(plan) == 0
    assert "together, exact" in capsys.readouterr().out
    rows = json.loads((tmp_path / "entry/scores-exact.json").read_text())["rows"]
    assert [row["system"] for row in rows] == [
        *("a, angle", "a, exact", "b, angle", "b, exact"),
        "together, exact",
    ]
    assert min(row["mAP"] for row in rows) > 0.9  # hardly more than their colours tells people apart
    assert run(plan, "--status") == 0
    assert "scores-exact: done" in capsys.readouterr().out
