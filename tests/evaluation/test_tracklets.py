# SPDX-License-Identifier: Apache-2.0
"""One feature for a tracklet: against loops, in a protocol, with frames missing."""

import pytest
import torch

from fastreid_ops.evaluation import Columns, evaluate_features, evaluate_protocol, pool_tracklets, protocols
from fastreid_ops.evaluation.columns import labels
from fastreid_ops.evaluation.tracklets import grouped


@pytest.mark.parametrize("how", ["mean", "max"])
@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_against_a_loop(how, normalise, dtype):
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(60, 7, generator=generator).to(dtype) - 2
    entry = torch.randint(9, (60,), generator=generator)
    entry[entry == 4] = 5  # nobody
    found, there = pool_tracklets(features, entry, 9, how, normalise=normalise)
    assert found.dtype == dtype
    assert there.tolist() == [n != 4 for n in range(9)]
    for tracklet in range(9):
        frames = [features[i].double() for i in range(60) if entry[i] == tracklet]
        if not frames:
            assert not found[tracklet].any()
            continue
        wanted = sum(frames) / len(frames) if how == "mean" else torch.stack(frames).amax(0)
        wanted = wanted / wanted.norm() if normalise else wanted
        torch.testing.assert_close(found[tracklet].double(), wanted.to(dtype).double(), rtol=1e-6, atol=1e-6)


def frames():
    columns = Columns(
        pids=[1, 1, 1, 2, 2, 1, "x", 2],
        camids=[0, 0, 0, 0, 1, 1, 1, 1],
        clothes=[5, 5, 5, 6, 6, 5, 7, 6],
        tracklets=["a", "a", "b", "a", "a", "a", "c", "a"],
        names=list("abcdefgh"),
    )
    return columns, torch.randn(8, 4, generator=torch.Generator().manual_seed(3))


def test_tracklets_are_numbered_in_each_camera():
    columns, _ = frames()
    first, entry = grouped("query", columns)
    assert first.tolist() == [0, 2, 3, 4, 5, 6]
    assert entry.tolist() == [0, 0, 1, 2, 3, 4, 5, 3]


@pytest.mark.parametrize("how", ["mean", "max"])
def test_in_a_protocol(how):
    columns, features = frames()
    (rules,) = protocols("mars", tracklets=how)
    found = evaluate_protocol(features, features, columns, columns, rules)
    groups = [[0, 1], [2], [3], [4, 7], [5], [6]]
    pooled = torch.stack([features[g].mean(0) if how == "mean" else features[g].amax(0) for g in groups])
    query, _ = labels(rules, columns.take([g[0] for g in groups]), columns.take([0]))
    by_hand = evaluate_features(pooled, pooled, query, query, rules)
    assert found.ap == by_hand.ap
    assert found.gallery == 6
    assert f"features of a tracklet pooled by {how}" in str(found)
    # A frame that is not there leaves the tracklet to the others; the last one takes the tracklet with it.
    rows = torch.tensor([0, 3, 4, 5, 6])
    some = evaluate_protocol(
        features[rows], features, columns, columns, rules, query_rows=rows, gallery_rows=torch.arange(8)
    )
    assert len(some.ap) == 5


def test_refuses():
    features, entry = torch.randn(4, 2), torch.tensor([0, 1, 1, 0])
    for arguments, error, words in (
        ((features, entry, 2, "median"), ValueError, "how: got 'median'"),
        ((features.long(), entry, 2), TypeError, "features: got int64"),
        ((features[0], entry, 2), ValueError, "features: got shape"),
        ((features, entry[:3], 2), ValueError, "entry: got"),
        ((features, entry, 1), ValueError, "entry: got tracklets from 0 to 1, expected 0 to 0"),
    ):
        with pytest.raises(error, match=f"pool_tracklets: {words}"):
            pool_tracklets(*arguments)
    columns = Columns([1, 1], [0, 0], clothes=[1, 2], tracklets=[3, 3])
    with pytest.raises(ValueError, match=r"query\.clothes: got 2 after 1 in tracklet 3 of pid 1"):
        grouped("query", columns)
