# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import normalize

from fastreid_ops.losses import BatchHardTripletLoss, WeightedRegularizedTripletLoss, WeightedTripletLoss

LABELS = torch.tensor([0, 0, 1, 1, 1, 2, 2, 0])


def oracle(features, labels, margin="soft"):
    """Anchor by anchor: distances weighted by their softmax, or by that of their negatives."""
    terms = []
    for i in range(len(labels)):
        # A pair of a row with itself is at the floor.
        d = torch.stack([(features[i] - f).square().sum().clamp_min(1e-12).sqrt() for f in features])
        mine, others = d[labels == labels[i]], d[labels != labels[i]]
        gap = (mine.softmax(0) * mine).sum() - ((-others).softmax(0) * others).sum()
        terms.append((1 + gap.exp()).log() if margin == "soft" else (gap + margin).clamp_min(0))
    return torch.stack(terms).mean()


def rows(seed=0, count=8, width=5):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("key", "loss"),
    [
        ("tri_soft", BatchHardTripletLoss("soft")),
        ("tri_hard0.3", BatchHardTripletLoss(0.3)),
        ("wtri_soft", WeightedTripletLoss()),
    ],
)
def test_golden_of_naic(recorded, hashed, value_and_gradient, key, loss):
    want = recorded("naic_and_cloth_changing/naic_losses")
    x, labels = hashed("tri_feat", (12, 16)), want["labels"]
    value_and_gradient(lambda f: loss(f, labels), [x], want[key], [want[f"{key}_d"]])
    value_and_gradient(lambda f: loss(normalize(f), labels), [x], want[f"{key}_norm"])


@pytest.mark.parametrize("scale", [1, 0.05])
def test_golden_of_agw(recorded, value_and_gradient, scale):
    want = recorded("visible_infrared/losses")
    z, labels = want["z"], want["labels4"]
    suffix = "" if scale == 1 else "_scaled"
    legacy = WeightedRegularizedTripletLoss(legacy=True)
    value_and_gradient(lambda f: legacy(f, labels), [scale * z], want[f"wrt{suffix}"])
    hard = BatchHardTripletLoss(0.3)
    value_and_gradient(lambda f: hard(f, labels), [scale * z], want[f"tri_ori{suffix}"])


@pytest.mark.parametrize("legacy", [False, True])
def test_golden_of_agw_on_normalised_features(recorded, value_and_gradient, legacy):
    want = recorded("visible_infrared/losses")
    loss = WeightedRegularizedTripletLoss(legacy=legacy, normalize=True)
    value_and_gradient(lambda f: loss(f, want["labels4"]), [want["z"]], want["wrt_normed"])


@pytest.mark.parametrize("margin", ["soft", 0.0, 0.7])
def test_definition_in_float64(same_in_float64, margin):
    loss = WeightedTripletLoss(margin)
    same_in_float64(lambda f: loss(f, LABELS), lambda f: oracle(f, LABELS, margin), rows())


def test_stable_regularised_form_is_the_weighted_triplet(same_in_float64):
    loss = WeightedRegularizedTripletLoss()
    same_in_float64(lambda f: loss(f, LABELS), lambda f: oracle(f, LABELS), rows(1))
    loss = WeightedRegularizedTripletLoss(normalize=True)
    same_in_float64(lambda f: loss(f, LABELS), lambda f: oracle(normalize(f), LABELS), rows(1))


def test_legacy_definition_in_float64(same_in_float64):
    """exp(d - largest d) and exp(-d) as they are, over their sums and 1e-6."""

    def want(features):
        terms = []
        for anchor, label in zip(features, LABELS, strict=True):
            d = torch.stack([(anchor - f).square().sum().clamp_min(1e-12).sqrt() for f in features])
            mine, others = d[label == LABELS], d[label != LABELS]
            near, far = (mine - mine.max()).exp(), (-others).exp()
            gap = (near * mine).sum() / (near.sum() + 1e-6) - (far * others).sum() / (far.sum() + 1e-6)
            terms.append((1 + gap.exp()).log())
        return torch.stack(terms).mean()

    loss = WeightedRegularizedTripletLoss(legacy=True)
    same_in_float64(lambda f: loss(f, LABELS), want, rows(3))


def test_large_distances_keep_their_negatives():
    """Above a distance of 88 the source's exp is infinite, and AGW's weights of the negatives are 0: its loss is then
    that of the positives alone, however far the negatives are."""
    x = 200 * rows(2).float()
    want = oracle(x.double(), LABELS, 0.0).item()
    assert torch.isinf(torch.cdist(x, x).exp()).any()
    assert WeightedTripletLoss(0.0)(x, LABELS).item() == pytest.approx(want, rel=1e-5)
    far = x.clone()
    far[LABELS == 0] += 1e4
    far[LABELS == 1] -= 1e4
    stable, legacy = WeightedRegularizedTripletLoss(), WeightedRegularizedTripletLoss(legacy=True)
    assert stable(far, LABELS).item() < 1e-6
    assert legacy(far, LABELS).item() > 100


@pytest.mark.parametrize("loss", [WeightedTripletLoss(), WeightedRegularizedTripletLoss()])
def test_one_identity(loss):
    with pytest.raises(ValueError, match="labels: got one identity in a batch of 4, expected at least 2"):
        loss(torch.randn(4, 8), torch.zeros(4, dtype=torch.int64))


@pytest.mark.parametrize("margin", [-0.1, math.inf, "hard"])
def test_bad_margin(margin):
    with pytest.raises(ValueError, match=r"WeightedTripletLoss: margin: got .* or 'soft'"):
        WeightedTripletLoss(margin)
