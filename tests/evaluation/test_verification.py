# SPDX-License-Identifier: Apache-2.0
"""tpr_at_fpr() against scikit-learn's roc_curve over all pairs, and against fast-reid's own evaluator."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ranking_by_definition import drops
from rivals.ranking import load_file, package_file
from sklearn.metrics import roc_curve

from fastreid_ops.evaluation import PROTOCOLS, Labels, tpr_at_fpr, verification

RATES = (0.0, 1e-4, 1e-3, 1e-2, 0.1, 0.4, 1.0)


def problem(seed=0, queries=30, gallery=150, pids=6, ties=False, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    sides = [
        Labels(*(torch.randint(kinds, (count,), generator=generator) for kinds in (pids, 3, 2)))
        for count in (queries, gallery)
    ]
    distance = torch.rand(queries, gallery, generator=generator) - 0.3 * (
        sides[0].pids[:, None] == sides[1].pids
    )
    return (torch.round(distance * 12) / 12 if ties else distance).to(dtype), *sides


def pooled(distance, query, gallery, made):
    """(distances, genuine) of every pair that is kept."""
    labels = [[side.pids.tolist(), side.camids.tolist(), side.clothes.tolist()] for side in (query, gallery)]
    rules = made.camera_rule, made.clothes_rule, made.junk_pids
    pairs = [
        (distance[q, g].item(), labels[0][0][q] == labels[1][0][g])
        for q in range(distance.shape[0])
        for g in range(distance.shape[1])
        if not drops(q, g, *labels, *rules)
    ]
    return np.array([value for value, _ in pairs]), np.array([genuine for _, genuine in pairs])


def fastreid_report(scores, labels):
    """What ReidEvaluator prints: the nearest point of the curve."""
    fpr, tpr, _ = roc_curve(labels, scores)
    return [tpr[np.argmin(np.abs(fpr - rate))] for rate in RATES]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 8),
    st.integers(2, 40),
    st.booleans(),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    st.sampled_from(["market1501", "no_camera", "clothes_changing", "openreid_cuhk03"]),
)
def test_is_scikit_learns_curve(seed, queries, gallery, ties, dtype, name):
    arguments = problem(seed, queries, gallery, 3, ties, dtype)
    scores, genuine = pooled(*arguments, PROTOCOLS[name])
    if genuine.all() or not genuine.any():
        with pytest.raises(ValueError, match="expected at least one of each"):
            tpr_at_fpr(*arguments, name)
        return
    found = tpr_at_fpr(*arguments, name, fprs=RATES)
    fpr, tpr, _ = roc_curve(genuine, -scores, drop_intermediate=False)
    assert list(found.tpr) == [tpr[fpr <= rate].max() for rate in RATES]
    assert list(found.fpr) == [fpr[fpr <= rate].max() for rate in RATES]
    assert (found.genuine, found.impostor) == (genuine.sum(), (~genuine).sum())
    theirs = tpr_at_fpr(*arguments, name, fprs=RATES, convention="fastreid")
    assert list(theirs.tpr) == fastreid_report(scores, ~genuine)


@pytest.mark.parametrize("chunk", [100, 1 << 22])
def test_is_what_fastreid_prints(chunk, monkeypatch):
    monkeypatch.setattr(verification, "_CHUNK", chunk)
    file = package_file("fastreid", "evaluation/roc.py")
    if file is None:
        pytest.skip("fastreid is not installed")
    distance, query, gallery = problem(1, 60, 400)
    arrays = [value.numpy() for value in (distance, query.pids, gallery.pids, query.camids, gallery.camids)]
    scores, labels = load_file(file).evaluate_roc(*arrays, use_cython=False)
    found = tpr_at_fpr(distance, query, gallery, fprs=RATES, convention="fastreid")
    assert list(found.tpr) == fastreid_report(scores, labels)
    biometric = tpr_at_fpr(distance, query, gallery, fprs=RATES)
    fpr, tpr, _ = roc_curve(1 - labels, -scores, drop_intermediate=False)
    assert list(biometric.tpr) == [tpr[fpr <= rate].max() for rate in RATES]
    assert biometric.tpr[3] != found.tpr[3]


@pytest.mark.parametrize(
    ("error", "pattern", "change"),
    [
        (ValueError, "convention: got 'sklearn'", {"convention": "sklearn"}),
        (TypeError, "fprs: got 0.1", {"fprs": 0.1}),
        (TypeError, r"fprs: got \(\)", {"fprs": ()}),
        (ValueError, r"fprs: got \(1.5,\)", {"fprs": (1.5,)}),
        (TypeError, "distance: got list", {"distance": [[1.0]]}),
        (ValueError, "distance: got 1 NaN", {"distance": torch.full((30, 150), 1.0).index_put_(
            (torch.tensor(3), torch.tensor(2)), torch.tensor(torch.nan))}),
        (TypeError, "query_camids: got None", {"query": Labels(torch.zeros(30, dtype=torch.int64))}),
    ],
)  # fmt: skip
def test_refuses(error, pattern, change):
    distance, query, gallery = problem()
    given = {"distance": distance, "query": query, "gallery": gallery, **change}
    with pytest.raises(error, match=pattern) as caught:
        tpr_at_fpr(**given)
    assert str(caught.value).startswith("tpr_at_fpr: ")
