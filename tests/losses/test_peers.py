# SPDX-License-Identifier: Apache-2.0
"""Against fast-reid itself, where it is installed: its smoothing has no recorded figures."""

from __future__ import annotations

import math

import pytest
import torch
from rivals.ranking import load_file, package_file

from fastreid_ops.losses import LabelSmoothedCrossEntropy, PairwiseCircleLoss, PairwiseCosFaceLoss, margin


def peer(place):
    file = package_file("fastreid", place)
    if file is None:
        pytest.skip("fastreid is not installed")
    return load_file(file)


def rows(count, width, seed=0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


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
