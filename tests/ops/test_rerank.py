# SPDX-License-Identifier: Apache-2.0
"""Re-ranking against the implementations it replaces, and its properties."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rerank_oracle import by_definition, densified, euclidean_matrices, features, squared

from fastreid_ops import (
    _C,
    gnn_rerank,
    jaccard,
    k_reciprocal,
    k_reciprocal_blocks,
    k_reciprocal_ensemble,
    k_reciprocal_from_distances,
)
from fastreid_ops.ops.rerank import VARIANTS, _compressed, _headed, plain, reference

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "naic" / "rerank.npz"
SIZES = [
    (30, 200, 20, 6, 0.3),
    (10, 90, 10, 3, 0.6),
    (40, 150, 14, 4, 0.4),
    (20, 60, 30, 2, 0.8),
    (7, 20, 18, 1, 0.3),
]


def load(package, place):
    """One file of a package that is itself not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        pytest.skip(f"{package} is not installed")
    path = Path(next(iter(spec.submodule_search_locations))) / place
    spec = importlib.util.spec_from_file_location(f"origin_{package}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def same(got, want, tolerance=6e-7):
    torch.testing.assert_close(got, torch.as_tensor(np.asarray(want)), rtol=0, atol=tolerance)


# The origins


@pytest.mark.parametrize(
    ("package", "place"), [("torchreid", "reid/utils/rerank.py"), ("fastreid", "evaluation/rerank.py")]
)
@pytest.mark.parametrize(("queries", "gallery", "k1", "k2", "lambda_value"), SIZES)
def test_equals_the_original_on_distance_matrices(package, place, queries, gallery, k1, k2, lambda_value):
    re_ranking = load(package, place).re_ranking
    query, entries = features(queries, gallery, 32, identities=12, seed=k1)
    settings = {"k1": k1, "k2": k2, "lambda_value": lambda_value}
    matrices = euclidean_matrices(query, entries)
    want = re_ranking(*(m.numpy() for m in matrices), **settings)
    same(k_reciprocal_from_distances(*matrices, **settings), want)
    same(k_reciprocal(query, entries, **settings), want)


def test_equals_torchreids_engine_which_passes_squared_distances():
    re_ranking = load("torchreid", "reid/utils/rerank.py").re_ranking
    query, gallery = features(25, 150, 32, identities=12)
    for metric, scale in (("euclidean", 1), ("cosine", 0.5)):
        pairs = ((query, gallery), (query, query), (gallery, gallery))
        matrices = [torch.from_numpy(scale * squared(x, y, metric)).float() for x, y in pairs]
        want = re_ranking(*(m.numpy() for m in matrices))
        same(k_reciprocal(query, gallery, variant="torchreid", metric=metric), want)
        same(k_reciprocal_from_distances(*matrices, variant="torchreid"), want)


def test_asymmetric_matrices_are_read_as_the_original_reads_them():
    re_ranking = load("torchreid", "reid/utils/rerank.py").re_ranking
    generator = torch.Generator().manual_seed(5)
    matrices = [torch.rand(shape, generator=generator) - 0.1 for shape in ((20, 90), (20, 20), (90, 90))]
    same(k_reciprocal_from_distances(*matrices), re_ranking(*(m.numpy() for m in matrices)))


@pytest.mark.parametrize(("queries", "gallery", "k1", "k2", "lambda_value"), SIZES)
def test_equals_fast_reids_evaluator(queries, gallery, k1, k2, lambda_value):
    pytest.importorskip("faiss")
    compute = pytest.importorskip("fastreid.utils.compute_dist").compute_jaccard_distance
    query, entries = features(queries, gallery, 32, identities=12, seed=k1)
    x = torch.cat([query, entries])
    distance = compute(x, k1=k1, k2=k2, search_option=3)
    same(densified(jaccard(x, k1=k1, k2=k2))["dense"], distance)
    own = squared(query, entries).astype(np.float32)
    want = distance[:queries, queries:] * (1 - lambda_value) + own * lambda_value
    got = k_reciprocal(query, entries, k1=k1, k2=k2, lambda_value=lambda_value, variant="fastreid")
    same(got, want, 2e-6)


def test_equals_the_recorded_results_of_naic():
    recorded = np.load(GOLDEN)
    query, gallery = (torch.from_numpy(recorded[name]) for name in ("qf", "gf"))
    names = [name for name in recorded if name.startswith("exact_")]
    assert len(names) == 5
    for name in names:
        k1, k2, lambda_value = (float(word) for word in name.split("_")[1:])
        settings = {"k1": int(k1), "k2": int(k2), "lambda_value": lambda_value}
        got = k_reciprocal(query, gallery, variant="naic", metric="cosine", **settings)
        same(got, recorded[name], 2e-3)
        unit = [torch.nn.functional.normalize(rows, dim=1) for rows in (query, gallery)]
        same(k_reciprocal(*unit, variant="naic", **settings), recorded[name], 2e-5)


# The definition


sizes = {"queries": st.integers(1, 12), "gallery": st.integers(1, 40), "depth": st.integers(1, 9)}
sets = st.builds(
    features,
    **sizes,
    identities=st.integers(1, 5),
    noise=st.sampled_from([0.0, 0.5, 1.0]),  # without noise most points have exact copies
    seed=st.integers(0, 10**6),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
rules = st.fixed_dictionaries(
    {
        "k1": st.integers(1, 30),
        "k2": st.integers(1, 12),
        "lambda_value": st.sampled_from([0.0, 0.3, 0.75, 1.0]),
        "variant": st.sampled_from(VARIANTS),
    }
)


@settings(max_examples=120, deadline=None)
@given(sets, rules)
def test_equals_the_definition_and_the_reference(pair, rule):
    got = k_reciprocal(*pair, **rule)
    # A float16 sum may round the other way after another rounding of its float32 terms.
    tolerance = {"transreid": 5e-3, "naic": 1e-3}.get(rule["variant"], 4e-6)
    same(got, by_definition(*pair, **rule)["result"].float(), tolerance)
    same(reference(*pair, **rule), got, tolerance)


@settings(max_examples=80, deadline=None)
@given(sets, rules, st.sampled_from(["euclidean", "cosine"]), st.integers(1, 40))
def test_top_is_the_head_of_the_dense_result(pair, rule, metric, top):
    top = min(top, len(pair[1]))
    dense = k_reciprocal(*pair, metric=metric, **rule)
    got = k_reciprocal(*pair, metric=metric, top=top, **rule)
    want = _headed(dense, top)
    assert torch.equal(got.distances, want.distances)
    assert torch.equal(got.indices, want.indices)
    assert got.indices.dtype == torch.int64


@settings(max_examples=60, deadline=None)
@given(sets, rules, st.integers(1, 9))
def test_top_from_matrices_is_the_head_of_the_dense_result(pair, rule, top):
    matrices = euclidean_matrices(*pair)
    top = min(top, len(pair[1]))
    got = k_reciprocal_from_distances(*matrices, top=top, **rule)
    want = _headed(k_reciprocal_from_distances(*matrices, **rule), top)
    assert torch.equal(got.distances, want.distances)
    assert torch.equal(got.indices, want.indices)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 25), st.randoms(use_true_random=False))
def test_selection_from_matrices_is_a_stable_sort(seed, k, random):
    """With many equal numbers, and -0.0 among them, behind any strides."""
    generator = torch.Generator().manual_seed(seed)
    queries, gallery = random.randint(1, 70), random.randint(1, 90)
    matrices = [
        (torch.randint(-9, 10, shape, generator=generator) / 4.0) * random.choice([1.0, -1.0])
        for shape in ((queries, gallery), (queries, queries), (gallery, gallery))
    ]
    whole = torch.cat(
        [torch.cat([matrices[1], matrices[0]], 1), torch.cat([matrices[0].mT, matrices[2]], 1)]
    ).mT.abs()
    k = min(k, len(whole))
    values, order = torch.sort(whole, dim=1, stable=True)
    given_as = [random.choice([m, m.mT.contiguous().mT, m.double(), m.bfloat16()]) for m in matrices]
    index, distance, farthest = torch.ops.fastreid.rerank_select(*given_as, k)
    assert torch.equal(index.long(), order[:, :k])
    assert torch.equal(distance.float(), values[:, :k])
    assert torch.equal(farthest.float(), values[:, -1])


@pytest.mark.parametrize(("columns", "k"), [(5000, 100), (5000, 1), (333, 333), (70, 65), (20000, 700)])
def test_head_of_long_rows(columns, k):
    generator = torch.Generator().manual_seed(k)
    values = torch.randint(-500, 500, (3, columns), generator=generator) / 8.0
    values[1] = 0.25
    values[2, ::2] = -0.0
    found, index = torch.ops.fastreid.rerank_head(values, k)
    want = torch.sort(values, dim=1, stable=True)
    assert torch.equal(found, want.values[:, :k])
    assert torch.equal(index, want.indices[:, :k])


# Properties


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), rules, st.randoms(use_true_random=False))
def test_gallery_permutation_changes_nothing_without_ties(seed, rule, random):
    query, gallery = features(6, 30, 8, noise=1.0, seed=seed)
    order = torch.tensor(random.sample(range(30), 30))
    got, permuted = k_reciprocal(query, gallery, **rule), k_reciprocal(query, gallery[order], **rule)
    # Another order of the columns is another order of summation.
    same(permuted, got[:, order], {"transreid": 2e-2, "naic": 1e-3}.get(rule["variant"], 2e-6))


def test_lambda_one_is_the_original_distance():
    query, gallery = features(9, 80, 16)
    w = squared(query, gallery)
    got = k_reciprocal(query, gallery, lambda_value=1)
    largest = squared(query, torch.cat([query, gallery])).max(1, keepdims=True)
    same(got, (w / largest).astype(np.float32))
    assert torch.equal(got.argsort(1), torch.from_numpy(w).argsort(1))


@pytest.mark.parametrize("variant", VARIANTS)
def test_all_points_equal(variant):
    query, gallery = torch.ones(3, 4), torch.ones(40, 4)
    got = k_reciprocal(query, gallery, variant=variant, k1=5, k2=3)
    same(got, by_definition(query, gallery, variant=variant, k1=5, k2=3)["result"].float())
    assert k_reciprocal(query, gallery, variant=variant, k1=5, k2=3, top=4).distances.shape == (3, 4)


def test_rows_of_zeros():
    query, gallery = features(5, 40, 8)
    gallery[3] = query[1] = 0
    for metric in ("euclidean", "cosine"):
        want = by_definition(query, gallery, metric=metric, k1=6, k2=3)["result"].float()
        same(k_reciprocal(query, gallery, metric=metric, k1=6, k2=3), want)
    assert torch.equal(gnn_rerank(torch.zeros(2, 3), torch.zeros(4, 3)), torch.ones(2, 4))


def test_distances_stay_in_their_range_and_queries_find_themselves():
    query, gallery = features(20, 120, 16)
    got = k_reciprocal(query, torch.cat([gallery, query]))
    assert got.min() > -1e-6
    assert got.max() <= 1
    assert torch.equal(got.argmin(1), torch.arange(120, 140))


def test_ensemble_is_the_sum():
    settings = {"k1": 8, "k2": 3, "lambda_value": 0.4}
    pairs = [features(9, 60, depth, seed=depth) for depth in (8, 5, 16)]
    pairs[1] = tuple(rows.double() for rows in pairs[1])
    each = [k_reciprocal(*pair, variant="naic", metric="cosine", **settings) for pair in pairs]
    want = (each[0] + each[1]) + each[2]
    assert torch.equal(k_reciprocal_ensemble(pairs, **settings), want)
    got = k_reciprocal_ensemble(pairs, top=7, **settings)
    assert torch.equal(got.distances, _headed(want, 7).distances)
    assert torch.equal(got.indices, _headed(want, 7).indices)
    assert torch.equal(k_reciprocal_ensemble(pairs[:1], **settings), each[0])
    blocks = list(k_reciprocal_blocks(pairs, rows=4, **settings))
    assert [len(block) for block in blocks] == [4, 4, 1]
    assert torch.equal(torch.cat(blocks), want)


def test_blocks_without_the_library(monkeypatch):
    pairs = [features(5, 30, 8, seed=seed) for seed in (1, 2)]
    monkeypatch.setattr("fastreid_ops.ops.rerank.checks.native", lambda *_: False)
    blocks = list(k_reciprocal_blocks(pairs, rows=2, k1=8, k2=3))
    assert torch.equal(torch.cat(blocks), k_reciprocal_ensemble(pairs, k1=8, k2=3))


def test_blocks_refuse_before_the_first():
    with pytest.raises(ValueError, match=r"^k_reciprocal_blocks: rows: got 0"):
        k_reciprocal_blocks([features(3, 9, 4)], rows=0)
    with pytest.raises(ValueError, match=r"^k_reciprocal_blocks: .*no feature set"):
        k_reciprocal_blocks([])


@pytest.mark.parametrize(
    ("pairs", "error", "pattern"),
    [
        ([], ValueError, "no feature set"),
        (torch.zeros(2, 3), TypeError, "got Tensor"),
        ([torch.zeros(2, 3)], TypeError, "Tensor as number 0"),
        ([(torch.zeros(2, 3),)], TypeError, "tuple as number 0"),
        ([features(3, 9, 4), features(3, 8, 4)], ValueError, "8 rows of gallery as number 1, expected 9"),
        ([features(3, 9, 4), features(4, 9, 4)], ValueError, "4 rows of query as number 1, expected 3"),
        (
            [features(3, 9, 4), (torch.ones(3, 4), torch.full((9, 4), torch.nan))],
            ValueError,
            r"gallery of pairs\[1\].*36 NaN",
        ),
    ],
)
def test_ensemble_refuses(pairs, error, pattern):
    with pytest.raises(error, match=f"^k_reciprocal_ensemble: .*{pattern}"):
        k_reciprocal_ensemble(pairs)


# Clustering


def test_clusters_are_those_of_the_dense_distances():
    cluster = pytest.importorskip("sklearn.cluster").DBSCAN(eps=0.6, min_samples=4, metric="precomputed")
    x = features(1, 160, 16, identities=8, noise=0.9)[1]
    found = jaccard(x, k1=15, k2=4)
    dense = densified(found)["dense"].clamp(min=0)
    matrix = found.to_scipy()
    assert matrix.shape == (160, 160)
    labels = cluster.fit_predict(matrix)
    assert len(set(labels)) > 4
    assert np.array_equal(labels, cluster.fit_predict(dense.numpy()))


@pytest.mark.parametrize("variant", VARIANTS)
def test_jaccard_is_the_other_half_of_k_reciprocal(variant):
    query, gallery = features(12, 70, 16)
    dense = densified(jaccard(torch.cat([query, gallery]), k1=8, k2=3, variant=variant))["dense"]
    same(dense[:12, 12:], k_reciprocal(query, gallery, k1=8, k2=3, variant=variant, lambda_value=0), 1e-6)
    # float16 sums are taken in the order of a row's columns, the same for both sides
    assert torch.equal(dense, dense.mT)


def test_jaccard_rows_are_in_order_and_hold_overlaps_only():
    found = jaccard(features(1, 90, 8, identities=9)[1], k1=6, k2=3)
    assert found.indptr.dtype == found.indices.dtype == torch.int64
    assert found.indptr[0] == 0
    assert found.indptr[-1] == len(found.indices) == len(found.values) < 90 * 90
    row = torch.repeat_interleave(torch.arange(90), found.indptr.diff())
    assert bool((row * 90 + found.indices).diff().gt(0).all())
    assert bool((found.values < 1).all())
    assert bool((found.values >= 0).all())
    assert bool((row == found.indices).sum() == 90)
    same(densified(_compressed(densified(found)["dense"]))["dense"], densified(found)["dense"])


def test_reference_functions_agree():
    query, gallery = features(6, 40, 8)
    matrices = euclidean_matrices(query, gallery)
    rule = {"k1": 7, "k2": 3, "lambda_value": 0.3, "variant": "zhong2017"}
    same(plain.reference_from_distances(*matrices, **rule), k_reciprocal_from_distances(*matrices, **rule))
    same(plain.reference_gnn(query, gallery, k1=7, k2=3), gnn_rerank(query, gallery, k1=7, k2=3), 2e-6)
    dense = densified(jaccard(gallery, k1=7, k2=3))["dense"]
    same(plain.reference_jaccard(gallery, k1=7, k2=3, variant="fastreid"), dense)


def test_instruction_sets_agree_on_everything_sparse(restore_isa):
    x = features(1, 150, 12)[1]
    matrices = euclidean_matrices(*features(30, 120, 12))
    results = []
    for isa in (
        name for name in ("baseline", "avx2", "avx512") if int(getattr(_C.Isa, name)) <= int(_C.best_isa())
    ):
        _C.set_isa(isa)
        results.append(
            (
                *jaccard(x),
                k_reciprocal_from_distances(*matrices),
                *k_reciprocal_from_distances(*matrices, top=9),
            )
        )
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
