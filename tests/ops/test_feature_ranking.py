# SPDX-License-Identifier: Apache-2.0
"""rank_features: the same ranks as rank_metrics on exact distances, whatever the features are like."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opspec import ISAS
from spec_feature_ranking import FLOATING, problem
from spec_ranking import clothes, equal

from fastreid_ops import _C, rank_features, rank_metrics
from fastreid_ops.evaluation import (
    Labels,
    evaluate,
    evaluate_features,
    ranked_lists,
    ranked_lists_from_features,
)
from fastreid_ops.ops import feature_ranking as module
from fastreid_ops.ops import nearest

ISAS_HERE = ISAS[: ISAS.index(_C.best_isa().name) + 1]


def run(arguments, **kwargs):
    """None where no query has a match, which the op refuses."""
    try:
        return rank_features(*arguments, **kwargs)
    except ValueError as error:
        if "without a match" not in str(error):
            raise
        return None


def on_matrix(query, gallery, *labels, metric="euclidean", **kwargs):
    """rank_metrics of exact squared distances."""
    return rank_metrics(nearest.squared_rows(query, gallery, metric), *labels, **kwargs)


rules = st.fixed_dictionaries(
    {
        "camera_rule": st.sampled_from(["same_pid", "none", "same_camera"]),
        "ap": st.sampled_from(["step", "trapezoid"]),
        "cmc": st.sampled_from(["first_hit", "unique_pid", "all_hits"]),
        "clothes_rule": st.sampled_from(["any", "cross", "same"]),
        "junk_pids": st.sampled_from([(), (0,), (1, 2)]),
        "invalid": st.sampled_from(["skip", "zero"]),
        "max_rank": st.integers(1, 60),
        "metric": st.sampled_from(["euclidean", "cosine"]),
    }
)


@settings(deadline=None, max_examples=120)
@given(
    queries=st.integers(1, 110),
    gallery=st.integers(1, 160),
    pids=st.integers(1, 8),
    cameras=st.integers(1, 4),
    depth=st.integers(1, 40),
    seed=st.integers(0, 10**6),
    dtype=st.sampled_from(FLOATING),
    kind=st.sampled_from(["plain", "alike", "levels", "zeros"]),
    rule=rules,
)
def test_any_problem(queries, gallery, pids, cameras, depth, seed, dtype, kind, rule):
    arguments = problem(queries, gallery, pids, cameras, depth=depth, seed=seed, dtype=dtype, kind=kind)
    worn = clothes(queries, gallery, seed=seed)
    got = run(arguments, **worn, **rule)
    if got is not None:
        assert equal(got, on_matrix(*arguments, **worn, **rule))


@pytest.mark.parametrize("isa", ISAS_HERE)
@pytest.mark.parametrize("kind", ["plain", "alike", "levels", "zeros"])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_reference_has_the_same_bits(isa, kind, metric, restore_isa):
    _C.set_isa(isa)
    arguments = problem(70, 210, 6, 3, seed=4, kind=kind)
    for rule in (
        {},
        {"cmc": "unique_pid", "camera_rule": "same_camera"},
        {"cmc": "all_hits", "ap": "trapezoid"},
    ):
        got = rank_features(*arguments, metric=metric, **rule)
        assert equal(got, module.reference(*arguments, metric=metric, **rule))


@pytest.mark.parametrize("far", [1.0, 1e4])
def test_where_the_screen_decides_nothing(far):
    """Everybody at the same place but for a thousandth, also far from the origin: the screen is changed for a finer
    one in the middle of the work, and then all is measured exactly."""
    query, gallery, *labels = problem(300, 900, 12, 3, seed=8, dtype=torch.float64)
    near = [(far + 1e-4 * rows) for rows in (query, gallery)]
    for dtype in (torch.float64, torch.float32):
        arguments = (*(rows.to(dtype) for rows in near), *labels)
        assert equal(rank_features(*arguments), on_matrix(*arguments))


@pytest.mark.parametrize("repeats", [None, 7])
def test_single_gallery_shot_in_blocks(monkeypatch, repeats):
    """A query's random galleries follow from its row, not from its place in a block."""
    arguments = problem(40, 120, 9, 3, seed=6, dtype=torch.float64)
    rule = {"cmc": "single_gallery_shot", "repeats": repeats, "seed": 11, "max_rank": 20}
    whole = rank_features(*arguments, **rule)
    monkeypatch.setattr(module, "_BLOCK", 8 * 120 * 7)
    assert equal(rank_features(*arguments, **rule), whole)
    matrix = on_matrix(*arguments, **rule)
    torch.testing.assert_close(whole.cmc, matrix.cmc, rtol=0, atol=1e-12)
    assert torch.equal(whole.first_rank, matrix.first_rank)


def test_parts_are_the_whole(monkeypatch, restore_threads):
    arguments = problem(300, 200, 9, 3, seed=5)
    for rule in ({}, {"cmc": "all_hits"}, {"camera_rule": "same_camera", "cmc": "unique_pid"}):
        monkeypatch.setattr(module, "_PART", 5e11)
        whole = rank_features(*arguments, **rule)
        monkeypatch.setattr(module, "_PART", 1.0)
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert equal(rank_features(*arguments, **rule, progress=True), whole)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6))
def test_a_permutation_of_the_gallery_changes_nothing(seed):
    query, gallery, query_pids, gallery_pids, query_camids, gallery_camids = problem(30, 90, 5, 3, seed=seed)
    order = torch.randperm(90, generator=torch.Generator().manual_seed(seed))
    plain = rank_features(query, gallery, query_pids, gallery_pids, query_camids, gallery_camids)
    shuffled = rank_features(
        query, gallery[order], query_pids, gallery_pids[order], query_camids, gallery_camids[order]
    )
    assert equal(plain, shuffled)  # random floats: no ties


def test_evaluation_layer():
    """evaluate_features and its lists against the matrix versions, where float32 distances have no ties."""
    query, gallery, *who = problem(40, 150, 6, 3, seed=9)
    labels = Labels(who[0], who[2]), Labels(who[1], who[3])
    distance = nearest.from_squared(nearest.squared_rows(query, gallery, "cosine"), "cosine")
    for protocol in ("market1501", "no_camera", "sysu_mm01", "cuhk03"):
        want = evaluate(distance, *labels, protocol)
        got = evaluate_features(query, gallery, *labels, protocol, metric="cosine")
        assert got.first_rank == want.first_rank
        assert got.ap == want.ap
        assert got.protocol == want.protocol
        lists = ranked_lists_from_features(query, gallery, *labels, protocol, 12, metric="cosine")
        assert [each.indices for each in lists] == ranked_lists(distance, *labels, protocol, 12)
        for row, each in enumerate(lists):
            expected = distance[row, each.indices]
            torch.testing.assert_close(torch.tensor(each.distances, dtype=torch.float64), expected)


def test_meta():
    query, gallery, *labels = (value.to("meta") for value in problem(5, 9, 2, 2))
    found = rank_features(query, gallery, *labels)
    assert found.cmc.shape == (50,)
    assert found.ap.shape == (5,)
