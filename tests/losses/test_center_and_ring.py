# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy

import pytest
import torch

from fastreid_ops.losses import CenterLoss, CenterOptimizer, RingLoss

WEIGHT = 3e-4


@pytest.fixture
def naic(recorded, hashed):
    want = recorded("naic_and_cloth_changing/naic_losses")
    loss = CenterLoss(5, 16)
    with torch.no_grad():
        loss.centers.copy_(hashed("centers", (5, 16)))
    return want, hashed("tri_feat", (12, 16)).requires_grad_(), loss


def test_golden_of_naic(golden, naic):
    want, features, loss = naic
    value = loss(features, want["labels"])
    assert golden.relative(value.detach(), want["center"]) < 1e-5
    (WEIGHT * value).backward()
    assert golden.relative(features.grad, want["center_dfeat_w"]) < 2e-5
    assert golden.relative(loss.centers.grad, want["center_dcenters_w"]) < 2e-5
    CenterOptimizer(loss, weight=WEIGHT, lr=0.5).step()
    assert golden.relative(loss.centers.detach(), want["center_after"]) < 2e-5


def test_golden_of_deep_person_reid(golden):
    want = golden.read("losses")
    loss = CenterLoss(5, 16)
    with torch.no_grad():
        loss.centers.copy_(torch.from_numpy(want["centers"]))
    features, labels = torch.from_numpy(want["feat"]), torch.from_numpy(want["labels"])
    assert golden.relative(loss(features, labels).detach(), want["center"]) < 1e-5
    assert golden.relative(RingLoss()(features).detach(), want["ring_r1"]) < 1e-5


def test_center_definition_in_float64(same_in_float64):
    loss = CenterLoss(4, 3).double()
    labels = torch.tensor([2, 0, 2, 3, 3])

    def ours(features, centers):
        return torch.func.functional_call(loss, {"centers": centers}, (features, labels))

    def oracle(features, centers):
        total = 0
        for feature, label in zip(features, labels, strict=True):
            total = total + feature @ feature + centers[label] @ centers[label] - 2 * feature @ centers[label]
        return total / 5

    same_in_float64(ours, oracle, torch.randn(5, 3), torch.randn(4, 3))


def test_clamp():
    loss = CenterLoss(1, 1)
    with torch.no_grad():
        loss.centers.zero_()
    far = torch.tensor([[1e7]], requires_grad=True)
    assert loss(far, torch.tensor([0])).item() == pytest.approx(1e12)
    loss(far, torch.tensor([0])).backward()
    assert far.grad.item() == 0
    assert loss(torch.zeros(1, 1), torch.tensor([0])).item() == pytest.approx(1e-12)


def test_center_step_does_not_depend_on_the_weight(naic):
    want, features, loss = naic
    after = []
    for weight in (1.0, 3e-4, 3e-3):
        one = copy.deepcopy(loss)
        (weight * one(features, want["labels"])).backward()
        CenterOptimizer(one, weight=weight, lr=0.5).step()
        after.append(one.centers.detach())
    torch.testing.assert_close(after[0], after[1])
    torch.testing.assert_close(after[0], after[2])


def test_center_step_through_a_scaler(golden, naic):
    """The original's rescale worked on gradients that still had the scale of the scaler in them."""
    want, features, loss = naic
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = CenterOptimizer(loss, weight=WEIGHT)
    scaler.scale(WEIGHT * loss(features, want["labels"])).backward()
    optimizer.step(scaler)
    scaler.update()
    assert golden.relative(loss.centers.detach(), want["center_after"]) < 2e-5
    optimizer.zero_grad()
    assert loss.centers.grad is None
    optimizer.step(scaler)  # without a gradient nothing moves
    assert golden.relative(loss.centers.detach(), want["center_after"]) < 2e-5


def test_center_step_is_skipped_at_an_infinite_gradient(naic):
    want, features, loss = naic
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    before = loss.centers.detach().clone()
    scaler.scale(WEIGHT * loss(features, want["labels"])).backward()
    loss.centers.grad[0, 0] = torch.inf
    CenterOptimizer(loss, weight=WEIGHT).step(scaler)
    assert torch.equal(loss.centers.detach(), before)


def test_center_optimizer_state():
    optimizer = CenterOptimizer(CenterLoss(2, 2), weight=1.0, lr=0.25)
    other = CenterOptimizer(CenterLoss(2, 2), weight=1.0)
    other.load_state_dict(optimizer.state_dict())
    assert other.optimizer.param_groups[0]["lr"] == 0.25


def test_ring_definition_in_float64(same_in_float64):
    loss = RingLoss(1.5).double()

    def ours(features, radius):
        return torch.func.functional_call(loss, {"radius": radius}, (features,))

    same_in_float64(
        ours,
        lambda features, radius: ((features @ features.T).diagonal().sqrt() - radius).pow(2).mean(),
        torch.randn(5, 3),
        torch.tensor([1.5]),
    )


def test_malformed():
    labels = torch.tensor([0, 5])
    with pytest.raises(ValueError, match=r"CenterLoss: labels: got 5, expected 0\.\.4 for 5 classes"):
        CenterLoss(5, 3)(torch.zeros(2, 3), labels)
    with pytest.raises(ValueError, match="CenterLoss: features: got width 4, expected 3"):
        CenterLoss(5, 3)(torch.zeros(2, 4), labels)
    with pytest.raises(ValueError, match="CenterLoss: num_classes: got 0"):
        CenterLoss(0, 3)
    with pytest.raises(TypeError, match="CenterLoss: feature_dim: got float, expected an int"):
        CenterLoss(5, 3.0)
    with pytest.raises(ValueError, match="CenterOptimizer: weight: got 0, expected a finite number above 0"):
        CenterOptimizer(CenterLoss(5, 3), weight=0)
    with pytest.raises(TypeError, match="CenterOptimizer: loss: got RingLoss"):
        CenterOptimizer(RingLoss(), weight=1.0)
    with pytest.raises(ValueError, match="RingLoss: radius: got -1"):
        RingLoss(-1)
    with pytest.raises(ValueError, match=r"RingLoss: features: got shape \(2,\)"):
        RingLoss()(torch.zeros(2))
