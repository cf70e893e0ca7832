# SPDX-License-Identifier: Apache-2.0
"""nearest: its definition, its total order on data where a rounded product decides nothing, its parts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opspec import ISAS
from spec_nearest import features, oracle, squared

from fastreid_ops import _C, nearest
from fastreid_ops.ops import nearest as module
from fastreid_ops.ops.distance import METRICS

ISAS_HERE = ISAS[: ISAS.index(_C.best_isa().name) + 1]


def assert_same(got, want):
    for name, one, other in zip(got._fields, got, want, strict=True):
        assert torch.equal(one, other), name


@pytest.mark.parametrize("isa", ISAS_HERE)
@pytest.mark.parametrize("metric", METRICS)
def test_reference_has_the_same_bits(isa, metric, restore_isa):
    _C.set_isa(isa)
    x, y = features(70, 37, 1).float(), features(150, 37, 2).float()
    y[40:50], y[60], x[3] = x[:10], 0, 0
    for a, b, exclude in ((x, y, False), (y, y, True), (y, y, False), (x[:4], y, False)):
        calls = {"metric": metric, "exclude_self": exclude, "farthest": True}
        got = module.neighbours(a, b, 21, **calls)
        assert_same(got, module.reference(a, b, 21, **calls))


@pytest.mark.parametrize("metric", METRICS)
def test_farthest(metric):
    x, y = features(60, 20, 3), features(99, 20, 4)
    want = squared(x, y, metric in ("cosine", "arccos")).max(1).astype(np.float64)
    for rows in (60, 3):
        got = module.neighbours(x[:rows], y, 2, metric=metric, farthest=True).farthest
        np.testing.assert_allclose(got.numpy(), want[:rows], rtol=1e-14)


HARD = {
    "all equal": torch.ones(400, 20),
    "within the bound": torch.ones(400, 20) + 1e-6 * features(400, 20, 5).float(),
    "five rows eighty times": features(5, 20, 6).float().repeat(80, 1),
    "far from the origin": 1e4 + features(400, 20, 7).float(),
    "lengths over twenty decades": features(400, 20, 8).float() * torch.logspace(-10, 10, 400)[:, None],
    "one row a million times longer": torch.cat([features(399, 20, 9), 1e6 * features(1, 20, 10)]).float(),
    "squares that underflow": features(400, 20, 11) * 1e-160,
    "squares next to overflow": features(400, 20, 12) * 1e150,
    "subnormal numbers": features(400, 20, 13).float() * 1e-39,
    "a line": torch.arange(400.0)[:, None] * torch.ones(1, 20),
    "zeros": torch.zeros(400, 20),
}


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("isa", ISAS_HERE)
def test_hard_data_costs_time_only(name, isa, restore_isa):
    _C.set_isa(isa)
    x = HARD[name]
    for metric in ("euclidean", "cosine"):
        for k in (1, 21, 399):
            calls = {"metric": metric, "exclude_self": True, "farthest": True}
            assert_same(module.neighbours(x, x, k, **calls), module.reference(x, x, k, **calls))


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 130),
    others=st.integers(1, 130),
    depth=st.integers(1, 40),
    seed=st.integers(0, 10**6),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    levels=st.sampled_from([0, 2, 5]),
    metric=st.sampled_from(METRICS),
    data=st.data(),
)
def test_any_problem(rows, others, depth, seed, dtype, levels, metric, data):
    """Small integers as features (``levels``) make ties on purpose."""
    k = data.draw(st.integers(1, others))
    x, y = features(rows, depth, seed), features(others, depth, seed + 1)
    if levels:
        x, y = ((t * levels / 2).round() for t in (x, y))
    x, y = x.to(dtype), y.to(dtype)
    got = module.neighbours(x, y, k, metric=metric, farthest=True)
    assert_same(got, module.reference(x, y, k, metric=metric, farthest=True))


@settings(deadline=None, max_examples=25)
@given(rows=st.integers(2, 120), depth=st.integers(1, 30), seed=st.integers(0, 10**6), data=st.data())
def test_symmetry_is_only_a_shortcut(rows, depth, seed, data):
    """One tensor twice, and a copy of it, give the same."""
    k = data.draw(st.integers(1, rows - 1))
    x = features(rows, depth, seed).float()
    for exclude in (False, True):
        assert_same(
            module.neighbours(x, x, k, exclude_self=exclude, farthest=True),
            module.neighbours(x, x.clone(), k, exclude_self=exclude, farthest=True),
        )


@settings(deadline=None, max_examples=25)
@given(rows=st.integers(2, 90), seed=st.integers(0, 10**6))
def test_a_permutation_of_the_gallery_only_renames(rows, seed):
    x, y = features(20, 16, seed).float(), features(rows, 16, seed + 1).float()
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    plain, shuffled = nearest(x, y, rows), nearest(x, y[order], rows)
    assert torch.equal(plain.distances, shuffled.distances)
    assert torch.equal(plain.indices, order[shuffled.indices])  # random floats: no ties


def test_a_smaller_k_is_the_head_of_a_larger_one():
    x, y = features(100, 32, 1).float(), features(600, 32, 2).float()
    all_of_them = nearest(x, y, 600)
    for k in (1, 2, 21, 200, 599):
        some = nearest(x, y, k)
        assert torch.equal(some.indices, all_of_them.indices[:, :k])
        assert torch.equal(some.distances, all_of_them.distances[:, :k])


def test_parts_are_the_whole(monkeypatch, restore_threads):
    """As many parts as can be, with a bar, on one to three threads."""
    x, y = features(500, 24, 1).float(), features(700, 24, 2).float()
    whole = [module.neighbours(a, b, 9, farthest=True) for a, b in ((x, y), (x, x))]
    monkeypatch.setattr(module, "_PART", 1.0)
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        for (a, b), want in zip(((x, y), (x, x)), whole, strict=True):
            assert_same(module.neighbours(a, b, 9, farthest=True, progress=True), want)


def test_interrupted_between_parts(monkeypatch):
    """Ctrl-C lands between two parts, and the next call is not touched by what the first left behind."""
    x = features(500, 24, 1).float()
    want = module.neighbours(x, x, 9)
    monkeypatch.setattr(module, "_PART", 1.0)
    run, calls = torch.ops.fastreid.nearest_part, []

    def interrupt(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return run(*arguments)

    monkeypatch.setattr(torch.ops.fastreid, "nearest_part", interrupt)
    with pytest.raises(KeyboardInterrupt):
        module.neighbours(x, x, 9)
    monkeypatch.setattr(torch.ops.fastreid, "nearest_part", run)
    assert_same(module.neighbours(x, x, 9), want)


def test_more_rows_than_fit_a_square_of_int32():
    """46,341 squared is more than 2^31: every pair is looked at, none by a 32-bit number."""
    x = features(46341, 2, 1).float()
    got = nearest(x, x, 3, exclude_self=True)
    some = torch.tensor([0, 1, 23170, 46339, 46340])
    want = oracle(x[some], x, 4, metric="euclidean")
    assert torch.equal(want["indices"][:, 0], some)
    assert torch.equal(got.indices[some], want["indices"][:, 1:])


@pytest.mark.parametrize("metric", METRICS)
def test_both_among_themselves(monkeypatch, metric):
    """As for their concatenation, which is made only where they lie in memory differently."""
    x, y = features(70, 24, 1).float(), features(150, 24, 2).float()
    both = torch.cat([x, y])
    want = module.neighbours(both, both, 21, metric=metric, farthest=True)
    assert_same(module.neighbours_of_both(x, y, 21, metric=metric), want)
    other = y.T.contiguous().T
    assert_same(module.neighbours_of_both(x, other, 21, metric=metric), want)
    monkeypatch.setattr(module, "_PART", 1.0)
    assert_same(module.neighbours_of_both(x, y, 21, metric=metric, progress=True), want)


def test_faiss_agrees():
    faiss = pytest.importorskip("faiss")
    x = torch.nn.functional.normalize(features(3000, 64, 1).float())
    index = faiss.IndexFlatL2(64)
    index.add(x.numpy())
    distances, indices = index.search(x.numpy(), 10)
    got = nearest(x, x, 10, metric="sqeuclidean")
    np.testing.assert_allclose(got.distances.numpy(), distances, atol=2e-6)
    # Its float32 sums leave near ties in another order; all but those agree.
    assert (got.indices.numpy() == indices).mean() > 0.999


def test_gradients_stop():
    x = features(20, 8, 1).float().requires_grad_()
    assert not nearest(x, x, 3).distances.requires_grad


def test_meta_and_compiled():
    x, y = features(20, 8, 1).float(), features(50, 8, 2).float()
    found = nearest(x.to("meta"), y.to("meta"), 4)
    assert found.distances.shape == (20, 4)
    assert found.indices.dtype == torch.int64
    compiled = torch.compile(lambda a, b: nearest(a, b, 4).indices, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x, y), nearest(x, y, 4).indices)


def test_wrong_state_is_refused():
    x, y = features(20, 8, 1).float(), features(50, 8, 2).float()
    results = torch.empty(20, 4, dtype=torch.float64), torch.zeros(20, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match="nearest: state: got 7 bytes"):
        torch.ops.fastreid.nearest_part(
            x,
            y,
            False,
            False,
            False,
            False,
            0,
            1,
            torch.empty(7, dtype=torch.uint8),
            *results,
            torch.empty(0).double(),
        )
