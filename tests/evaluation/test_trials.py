# SPDX-License-Identifier: Apache-2.0
"""Several galleries or splits under one protocol: their means, and every one of them kept."""

import json

import numpy as np
import pytest
import torch

from fastreid_ops.evaluation import Labels, Trials, evaluate, evaluate_trials


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(4)
    distance = torch.rand(20, 60, generator=generator)
    sides = [
        Labels(*(torch.randint(kinds, (size,), generator=generator) for kinds in (5, 4))) for size in (20, 60)
    ]
    galleries = [torch.randperm(60, generator=generator)[:size] for size in (40, 40, 41)]
    return distance, *sides, galleries


def test_is_the_mean_over_galleries(problem):
    distance, query, gallery, galleries = problem
    found = evaluate_trials(distance, query, gallery, "sysu_mm01", galleries=galleries)
    want = [evaluate(distance[:, index], query, gallery.at(index), "sysu_mm01") for index in galleries]
    assert found.results == tuple(want)
    assert found.mAP == pytest.approx(np.mean([result.mAP for result in want]), abs=1e-15)
    assert found.mINP == pytest.approx(np.mean([result.mINP for result in want]), abs=1e-15)
    assert found.cmc == pytest.approx(np.mean([result.cmc for result in want], 0).tolist(), abs=1e-15)
    assert found.rank(5) == found.cmc[4]
    assert len({result.mAP for result in found.results}) == 3


def test_splits_have_their_own_matrices(problem):
    distance, query, gallery, _ = problem
    matrices = [distance, distance.flip(0), distance[:, :30]]
    queries = [query, query.at(torch.arange(19, -1, -1)), query]
    galleries = [gallery, gallery, gallery.at(torch.arange(30))]
    found = evaluate_trials(matrices, queries, galleries, "regdb_visible2thermal")
    want = [
        evaluate(*each, "regdb_visible2thermal") for each in zip(matrices, queries, galleries, strict=True)
    ]
    assert found.results == tuple(want)
    assert found.results[0].mAP == pytest.approx(found.results[1].mAP, abs=1e-15)
    same = evaluate_trials(matrices[:2], query, gallery, "regdb_visible2thermal")
    assert same.results[0] == want[0]


def test_round_trip_is_exact(problem, tmp_path):
    distance, query, gallery, galleries = problem
    found = evaluate_trials(distance, query, gallery, "llcm_vis2nir", galleries=galleries)
    assert Trials.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    path = found.save(tmp_path / "trials.json")
    assert Trials.load(path) == found
    assert json.loads(path.read_text())["means"]["mAP"] == found.mAP


def test_table(problem):
    distance, query, gallery, galleries = problem
    found = evaluate_trials(distance, query, gallery, "llcm_vis2nir", galleries=galleries)
    head, means, deviations, size, rules = str(found).splitlines()
    assert head.split() == ["mAP", "mINP", "Rank-1", "Rank-5", "Rank-10"]
    assert means.split()[:2] == ["mean", f"{100 * found.mAP:.2f}"]
    spread = np.std([result.mAP for result in found.results])
    assert deviations.split()[:2] == ["deviation", f"{100 * spread:.2f}"]
    assert size.startswith("3 trials; ")
    assert size.endswith("of 20 queries with a match, 40 to 41 gallery images")
    assert rules == found.protocol.describe()


@pytest.mark.parametrize(
    ("error", "pattern", "change"),
    [
        (TypeError, "galleries: got None", {"galleries": None}),
        (ValueError, "no trial", {"galleries": []}),
        (TypeError, r"galleries\[1\]: got float32", {"galleries": [torch.arange(3), torch.ones(3)]}),
        (ValueError, r"galleries\[0\]: got indices from 0 to 60", {"galleries": [torch.tensor([0, 60])]}),
        (ValueError, r"galleries\[0\]: got shape", {"galleries": [torch.ones(1, 2, dtype=torch.int64)]}),
        (ValueError, "trial 1: rank_metrics: distance", {"galleries": [torch.arange(60), torch.arange(0)]}),
        (TypeError, "query and gallery: got lists", {"query": [None]}),
        (TypeError, "galleries: got a list", {"distance": [torch.rand(20, 60)]}),
        (
            ValueError,
            "query: got 2 Labels",
            {"distance": [torch.rand(20, 60)], "galleries": None, "query": "qq"},
        ),
        (ValueError, "no trial", {"distance": [], "galleries": None}),
    ],
)
def test_refuses(problem, error, pattern, change):
    distance, query, gallery, galleries = problem
    given = {"distance": distance, "query": query, "gallery": gallery, "galleries": galleries, **change}
    with pytest.raises(error, match=pattern) as caught:
        evaluate_trials(**given)
    assert str(caught.value).startswith("evaluate_trials: ")


def test_trials_are_of_one_protocol(problem):
    distance, query, gallery, _ = problem
    results = [evaluate(distance, query, gallery, name) for name in ("llcm_vis2nir", "regdb_visible2thermal")]
    with pytest.raises(ValueError, match="expected results of one protocol"):
        Trials(tuple(results))
    with pytest.raises(ValueError, match="got no result"):
        Trials(())
    with pytest.raises(ValueError, match="expected a list of results"):
        Trials.from_dict({"trials": None})
