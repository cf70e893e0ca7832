# SPDX-License-Identifier: Apache-2.0
"""rank_metrics: its definition, its properties, its determinism."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ranking_by_definition import by_definition
from sklearn.metrics import average_precision_score
from spec_ranking import FLOATING, ISAS_HERE, clothes, equal, outputs, problem

from fastreid_ops import _C, RankMetrics, rank_metrics
from fastreid_ops.ops.ranking import VALID, reference


def close(got: RankMetrics, want: dict[str, torch.Tensor]) -> None:
    for name, value in outputs(got).items():
        torch.testing.assert_close(value, want[name], rtol=0, atol=1e-14 if value.is_floating_point() else 0)


problems = st.builds(
    problem,
    queries=st.integers(1, 12),
    gallery=st.integers(1, 60),
    pids=st.integers(1, 6),
    cameras=st.integers(1, 4),
    seed=st.integers(0, 10**6),
    dtype=st.sampled_from(FLOATING),
    ties=st.booleans(),
)
rules = st.fixed_dictionaries(
    {
        "camera_rule": st.sampled_from(["same_pid", "none"]),
        "ap": st.sampled_from(["step", "trapezoid"]),
        "max_rank": st.integers(1, 80),
    }
)
every_rule = st.fixed_dictionaries(
    {
        "camera_rule": st.sampled_from(["same_pid", "none", "same_camera"]),
        "clothes_rule": st.sampled_from(["any", "cross", "same"]),
        "junk_pids": st.sampled_from([(), (0,), (-1, 2, 1), [5]]),
        "ap": st.sampled_from(["step", "trapezoid"]),
        "cmc": st.sampled_from(["first_hit", "unique_pid", "all_hits", "single_gallery_shot"]),
        "invalid": st.sampled_from(["skip", "zero"]),
        "max_rank": st.integers(1, 80),
    }
)


def run(arguments, **kwargs) -> RankMetrics | None:
    """None where no query has a match, which the op refuses."""
    try:
        return rank_metrics(*arguments, **kwargs)
    except ValueError as error:
        if "without a match" not in str(error):
            raise
        return None


# The definition


def test_worked_example():
    """Hits at ranks 1, 3, 6 of the kept list: AP .7222 by steps, .6778 by trapezoids (the case every paper
    prints)."""
    distance = torch.tensor([[0.1, 0.05, 0.2, 0.3, 0.4, 0.5, 0.6]])
    pids, camids = torch.tensor([4, 4, 9, 4, 9, 9, 4]), torch.tensor([2, 1, 1, 2, 1, 1, 3])
    query = torch.tensor([4]), torch.tensor([1])
    step = rank_metrics(distance, query[0], pids, query[1], camids, max_rank=4)
    assert step.ap.item() == pytest.approx((1 / 1 + 2 / 3 + 3 / 6) / 3)
    assert step.inp.item() == 3 / 6
    assert (step.first_rank.item(), step.num_relevant.item(), step.status.item()) == (1, 3, VALID)
    assert step.cmc.tolist() == [1, 1, 1, 1]
    trapezoid = rank_metrics(distance, query[0], pids, query[1], camids, ap="trapezoid")
    assert trapezoid.ap.item() == pytest.approx((1 + (1 / 2 + 2 / 3) / 2 + (2 / 5 + 3 / 6) / 2) / 3)
    everything = rank_metrics(distance, query[0], pids, camera_rule="none")
    assert everything.num_relevant.item() == 4
    assert everything.ap.item() == pytest.approx((1 / 1 + 2 / 2 + 3 / 4 + 4 / 7) / 4)


@settings(max_examples=120, deadline=None)
@given(problems, rules)
def test_equals_the_definition_and_the_reference(arguments, kwargs):
    got = run(arguments, **kwargs)
    if got is not None:
        close(got, by_definition(*arguments, **kwargs))
        assert equal(got, reference(*arguments, **kwargs))


@settings(max_examples=300, deadline=None)
@given(problems, every_rule)
def test_every_combination_of_rules_equals_the_definition_and_the_reference(arguments, kwargs):
    worn = clothes(*arguments[0].shape, 3)
    got = run(arguments, **kwargs, **worn)
    if got is not None:
        close(got, by_definition(*arguments, **kwargs, **worn))
        assert equal(got, reference(*arguments, **kwargs, **worn))


def test_equals_scikit_learn_without_ties():
    distance, q_pids, g_pids, q_cams, g_cams = problem(40, 300, 12, 4, seed=5, dtype=torch.float64)
    got = rank_metrics(distance, q_pids, g_pids, q_cams, g_cams)
    for q in range(40):
        kept = ~((g_pids == q_pids[q]) & (g_cams == q_cams[q]))
        want = average_precision_score((g_pids == q_pids[q])[kept].numpy(), -distance[q][kept].numpy())
        assert got.ap[q].item() == pytest.approx(want, abs=1e-12)


def test_large_identities_take_the_searching_path():
    """Above 256 matches the kernel searches instead of comparing: same result on both sides of the switch."""
    for gallery in (254, 255, 256, 257, 300, 2500):
        distance = problem(2, gallery, 1, 1, seed=gallery, ties=True)[0]
        labels = torch.zeros(2, dtype=torch.int64), torch.zeros(gallery, dtype=torch.int64)
        labels[1][::97] = 1
        arguments = (distance, *labels)
        kwargs = {"camera_rule": "none", "ap": "trapezoid", "max_rank": 9}
        assert equal(rank_metrics(*arguments, **kwargs), reference(*arguments, **kwargs))
        close(rank_metrics(*arguments, **kwargs), by_definition(*arguments, **kwargs))


# Properties


@settings(max_examples=60, deadline=None)
@given(problems, rules, st.randoms(use_true_random=False))
def test_gallery_permutation_changes_nothing_without_ties(arguments, kwargs, random):
    distance, q_pids, g_pids, q_cams, g_cams = arguments
    rows = [random.sample(range(distance.shape[1]), distance.shape[1]) for _ in range(distance.shape[0])]
    distance = torch.tensor(rows).to(torch.float64)
    order = torch.tensor(random.sample(range(distance.shape[1]), distance.shape[1]))
    got = run((distance, q_pids, g_pids, q_cams, g_cams), **kwargs)
    permuted = run((distance[:, order], q_pids, g_pids[order], q_cams, g_cams[order]), **kwargs)
    assert (got is None) == (permuted is None)
    assert got is None or equal(got, permuted)


@settings(max_examples=60, deadline=None)
@given(problems, rules)
def test_bounds_and_monotone_cmc(arguments, kwargs):
    got = run(arguments, **kwargs)
    if got is None:
        return
    assert (got.cmc.diff() >= 0).all()
    assert got.cmc.min() >= 0
    assert got.cmc.max() <= 1
    valid = got.status == VALID
    assert ((got.ap[valid] > 0) & (got.ap[valid] <= 1)).all()
    assert ((got.inp[valid] > 0) & (got.inp[valid] <= 1)).all()
    assert (got.inp[valid] <= 1.0).all()
    assert (got.first_rank[valid] >= 1).all()
    for values in (got.ap, got.inp, got.first_rank, got.num_relevant):
        assert (values[~valid] == 0).all()
    assert got.mAP.item() == pytest.approx(got.ap[valid].mean().item())
    assert got.cmc[0].item() == pytest.approx((got.first_rank[valid] == 1).double().mean().item())


@settings(max_examples=40, deadline=None)
@given(problems, rules, st.integers(-20, 20))
def test_scaling_by_a_power_of_two_changes_nothing(arguments, kwargs, exponent):
    distance = arguments[0].to(torch.float64)
    got = run((distance, *arguments[1:]), **kwargs)
    scaled = run((distance * 2.0**exponent, *arguments[1:]), **kwargs)
    assert (got is None and scaled is None) or equal(got, scaled)


@settings(max_examples=40, deadline=None)
@given(problems, rules, st.integers(1, 9))
def test_appended_junk_changes_nothing(arguments, kwargs, count):
    """Entries with the pid and camid of every query (one query, so that they are junk to all) at distance
    0."""
    distance, q_pids, g_pids, q_cams, g_cams = arguments
    distance, q_pids, q_cams = distance[:1].abs() + 1, q_pids[:1], q_cams[:1]
    kwargs = {**kwargs, "camera_rule": "same_pid"}
    got = run((distance, q_pids, g_pids, q_cams, g_cams), **kwargs)
    more = torch.cat([torch.zeros(1, count, dtype=distance.dtype), distance], 1)
    pids, cams = (torch.cat([a.expand(count), b]) for a, b in ((q_pids, g_pids), (q_cams, g_cams)))
    padded = run((more, q_pids, pids, q_cams, cams), **kwargs)
    assert (got is None and padded is None) or equal(got, padded)


@settings(max_examples=40, deadline=None)
@given(problems, rules)
def test_one_camera_on_each_side_drops_nothing(arguments, kwargs):
    distance, q_pids, g_pids, q_cams, g_cams = arguments
    apart = run(
        (distance, q_pids, g_pids, q_cams * 0, g_cams * 0 + 1), **{**kwargs, "camera_rule": "same_pid"}
    )
    none = run((distance, q_pids, g_pids), **{**kwargs, "camera_rule": "none"})
    assert (apart is None and none is None) or equal(apart, none)


# Determinism


@pytest.mark.usefixtures("restore_isa", "restore_threads")
@pytest.mark.parametrize("isa", ISAS_HERE)
@pytest.mark.parametrize("dtype", FLOATING)
def test_same_bits_for_threads_and_instruction_sets(dtype, isa):
    _C.set_isa(isa)
    arguments = problem(61, 2300, 7, 3, seed=2, dtype=dtype, ties=True)
    want = reference(*arguments)
    for count in (1, 2, 3, 8):
        torch.set_num_threads(count)
        assert equal(rank_metrics(*arguments), want)


def test_row_order_of_queries_changes_no_query():
    arguments = problem(50, 400, 9, 3, seed=8, ties=True)
    got = rank_metrics(*arguments)
    back = rank_metrics(
        arguments[0].flip(0), arguments[1].flip(0), arguments[2], arguments[3].flip(0), arguments[4]
    )
    for name in ("ap", "inp", "first_rank", "num_relevant", "status"):
        assert torch.equal(getattr(got, name), getattr(back, name).flip(0))
