# SPDX-License-Identifier: Apache-2.0
"""Against torchreid and fast-reid themselves, where they are installed."""

from __future__ import annotations

import importlib
import math
import sys
import types

import pytest
import torch
from rivals.ranking import load_file, package_file

from fastreid_ops.losses import (
    BatchHardTripletLoss,
    LabelSmoothedCrossEntropy,
    PairwiseCircleLoss,
    PairwiseCosFaceLoss,
    WeightedRegularizedTripletLoss,
    margin,
)

BATCH = torch.tensor([0, 1, 2, 0, 1, 2, 2, 1, 0])


def peer_file(place, package="fastreid"):
    file = package_file(package, place)
    if file is None:
        pytest.skip(f"{package} is not installed")
    return file


def peer(place, package="fastreid"):
    return load_file(peer_file(place, package))


@pytest.fixture
def fastreid_triplet(monkeypatch):
    """The file imports its neighbour ``utils``: a package that holds the two, without fast-reid's own import."""
    package = types.ModuleType("fastreid_losses")
    package.__path__ = [str(peer_file("modeling/losses/triplet_loss.py").parent)]
    monkeypatch.setitem(sys.modules, "fastreid_losses", package)
    return importlib.import_module("fastreid_losses.triplet_loss").triplet_loss


def rows(count, width, seed=0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("m", [0.0, 0.3, 2.0])
def test_triplet_of_torchreid(value_and_gradient, m):
    theirs = peer("reid/losses/hard_mine_triplet_loss.py", "torchreid").TripletLoss(m)
    x = rows(9, 6).requires_grad_()
    want = theirs(x, BATCH)
    gradient = torch.autograd.grad(want, x)
    value_and_gradient(lambda f: BatchHardTripletLoss(m)(f, BATCH), [x], want.detach(), gradient)


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_smoothing_of_torchreid(value_and_gradient, epsilon):
    kind = peer("reid/losses/cross_entropy_loss.py", "torchreid").CrossEntropyLoss
    logits, labels = rows(6, 5).requires_grad_(), torch.tensor([0, 4, 2, 2, 1, 3])
    want = kind(5, eps=epsilon, use_gpu=False)(logits, labels)
    gradient = torch.autograd.grad(want, logits)
    ours = LabelSmoothedCrossEntropy(epsilon)
    value_and_gradient(lambda x: ours(x, labels), [logits], want.detach(), gradient)


@pytest.mark.parametrize("m", [0.3, "soft"])
def test_triplet_of_fast_reid(value_and_gradient, fastreid_triplet, m):
    """Its soft margin is a margin of 0."""
    x = rows(9, 6).requires_grad_()
    want = fastreid_triplet(x, BATCH, 0.0 if m == "soft" else m, False, True)
    gradient = torch.autograd.grad(want, x)
    value_and_gradient(lambda f: BatchHardTripletLoss(m)(f, BATCH), [x], want.detach(), gradient)


def test_weighted_triplet_of_fast_reid(value_and_gradient, fastreid_triplet):
    """AGW's published weights, gradient included: nothing else records that."""
    x = rows(9, 6).requires_grad_()
    want = fastreid_triplet(x, BATCH, 0.0, False, False)
    gradient = torch.autograd.grad(want, x)
    legacy = WeightedRegularizedTripletLoss(legacy=True)
    value_and_gradient(lambda f: legacy(f, BATCH), [x], want.detach(), gradient)


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.4])
def test_smoothing_over_the_others(value_and_gradient, epsilon):
    theirs = peer("modeling/losses/cross_entroy_loss.py").cross_entropy_loss
    logits, labels = rows(6, 5).requires_grad_(), torch.tensor([0, 4, 2, 2, 1, 3])
    want = theirs(logits, labels, epsilon)
    gradient = torch.autograd.grad(want, logits)
    ours = LabelSmoothedCrossEntropy(epsilon, smoothing="others")
    value_and_gradient(lambda x: ours(x, labels), [logits], want.detach(), gradient)


@pytest.mark.parametrize(
    ("name", "ours"), [("pairwise_circleloss", PairwiseCircleLoss), ("pairwise_cosface", PairwiseCosFaceLoss)]
)
def test_pairwise(value_and_gradient, name, ours):
    theirs = getattr(peer("modeling/losses/circle_loss.py"), name)
    x, labels = rows(7, 6).requires_grad_(), torch.tensor([0, 0, 1, 1, 1, 2, 2])
    want = theirs(x, labels, 0.25, 20.0)
    gradient = torch.autograd.grad(want, x)
    value_and_gradient(lambda f: ours(20.0, 0.25)(f, labels), [x], want.detach(), gradient)


@pytest.mark.parametrize(
    ("name", "ours"),
    [("ArcSoftmax", margin.arcface), ("CosSoftmax", margin.cosface), ("CircleSoftmax", margin.circle)],
)
def test_margins(golden, name, ours):
    """Where theta + margin stays below pi: fast-reid's ArcSoftmax has no other branch."""
    cosine, labels = rows(6, 5).tanh() * 0.8, torch.tensor([0, 4, 2, 2, 1, 3])
    assert math.acos(cosine.min()) + 0.3 < math.pi
    want = getattr(peer("layers/any_softmax.py"), name)(5, 20.0, 0.3)(cosine.clone(), labels)
    assert golden.relative(ours(cosine, labels, scale=20.0, margin=0.3), want) < 1e-6
