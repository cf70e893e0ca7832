# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fastreid_ops.losses import BatchHardTripletLoss


def oracle(features: np.ndarray, labels: np.ndarray, margin: float | str) -> float:
    """Anchor by anchor in float64, from the definition."""
    features = features.astype(np.float64)
    terms = []
    for i, anchor in enumerate(features):
        d = np.sqrt(np.maximum(((features - anchor) ** 2).sum(1), 1e-12))
        gap = d[labels == labels[i]].max() - d[labels != labels[i]].min()
        terms.append(math.log1p(math.exp(gap)) if margin == "soft" else max(0.0, gap + margin))
    return float(np.mean(terms))


def clusters(p: int, k: int, d: int, seed: int, spread: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(p), k)
    x = rng.normal(size=(p, d))[labels] + spread * rng.normal(size=(p * k, d))
    return torch.from_numpy(x), torch.from_numpy(labels)


@pytest.mark.parametrize("margin", [0.0, 0.3, 1.2])
def test_golden(golden, margin):
    want = golden.read("losses")
    features = torch.from_numpy(want["feat"]).requires_grad_()
    loss = BatchHardTripletLoss(margin)(features, torch.from_numpy(want["labels"]))
    assert loss.shape == ()
    assert golden.relative(loss.detach(), want[f"triplet_m{margin}"]) < 1e-5
    loss.backward()
    assert golden.relative(features.grad, want[f"triplet_m{margin}_grad"]) < 1e-4


def test_golden_every_identity_once(golden):
    want = golden.read("losses")
    features = torch.from_numpy(want["feat"]).requires_grad_()
    loss = BatchHardTripletLoss(0.3)(features, torch.arange(len(features)))
    assert loss.item() == pytest.approx(float(want["triplet_all_singletons"]), abs=1e-6)
    loss.backward()
    np.testing.assert_allclose(features.grad, want["triplet_all_singletons_grad"], atol=1e-6)


@pytest.mark.parametrize("margin", [0.0, 0.3, "soft"])
@pytest.mark.parametrize("seed", range(4))
def test_definition_in_float64(margin, seed):
    x, y = clusters(p=4, k=3, d=8, seed=seed)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    x, y = x[order], y[order]
    want = oracle(x.numpy(), y.numpy(), margin)
    assert want > 0
    assert BatchHardTripletLoss(margin)(x, y).item() == pytest.approx(want, rel=1e-9)
    assert BatchHardTripletLoss(margin)(x.float(), y).item() == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("margin", [0.3, "soft"])
def test_gradcheck(margin):
    x, y = clusters(p=3, k=2, d=4, seed=1)
    assert torch.autograd.gradcheck(
        lambda f: BatchHardTripletLoss(margin)(f, y), x.requires_grad_(), atol=1e-6
    )


def test_rows_without_a_positive_only_push():
    """Two identities, one image each, 3 apart: the term is max(0, 1e-6 - 3 + margin)."""
    x = torch.tensor([[0.0, 0.0], [3.0, 0.0]], dtype=torch.float64, requires_grad=True)
    loss = BatchHardTripletLoss(4.0)(x, torch.tensor([0, 1]))
    assert loss.item() == pytest.approx(1.0 + 1e-6, rel=1e-9)
    loss.backward()
    torch.testing.assert_close(x.grad, torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64))


def test_equal_rows_give_a_finite_gradient():
    x = torch.ones(6, 4, requires_grad=True)
    loss = BatchHardTripletLoss(0.3)(x, torch.tensor([0, 0, 1, 1, 2, 2]))
    assert loss.item() == pytest.approx(0.3, abs=1e-5)
    loss.backward()
    assert x.grad.isfinite().all()


def test_tied_negatives_share_the_gradient_evenly():
    """An anchor at 0 with negatives at +2 and -2: only its own term counts, and both pull with half the weight."""
    x = torch.tensor([[0.0], [0.0], [2.0], [-2.0]], dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 0, 1, 2])
    distance = (x - x.T).abs()
    loss = BatchHardTripletLoss(2.5)(x, labels)
    loss.backward()
    # anchors 0, 1: d_an = 2 tied between rows 2 and 3; anchors 2, 3: d_an = 2 tied between rows 0 and 1; d_ap at its
    # floor everywhere. Each tied pair gets 1/2 of 1/4.
    want = torch.zeros(4, 4, dtype=torch.float64)
    for anchor, tied in ((0, (2, 3)), (1, (2, 3)), (2, (0, 1)), (3, (0, 1))):
        for other in tied:
            want[anchor, other] = -0.5 / 4
    reference = torch.autograd.grad((distance * want).sum(), x)[0]
    assert loss.item() == pytest.approx(0.5, abs=1e-5)
    torch.testing.assert_close(x.grad, reference)


def test_perfect_clusters_cost_nothing():
    x, y = clusters(p=4, k=4, d=16, seed=0, spread=1e-3)
    assert BatchHardTripletLoss(0.3)(x, y).item() == 0.0


def test_half_precision_is_computed_in_float32():
    x, y = clusters(p=4, k=4, d=64, seed=0)
    loss = BatchHardTripletLoss(0.3)(x.bfloat16(), y)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(oracle(x.bfloat16().double().numpy(), y.numpy(), 0.3), rel=1e-4)


def test_single_identity():
    with pytest.raises(ValueError, match="labels: got one identity in a batch of 4, expected at least 2"):
        BatchHardTripletLoss()(torch.randn(4, 8), torch.zeros(4, dtype=torch.int64))


def test_not_finite_features_are_refused():
    x = torch.randn(4, 8)
    x[2, 3] = math.nan
    with pytest.raises(ValueError, match="pairwise_distance"):
        BatchHardTripletLoss()(x, torch.tensor([0, 0, 1, 1]))
    assert BatchHardTripletLoss(check_inputs=False)(x, torch.tensor([0, 0, 1, 1])).isnan()


@pytest.mark.parametrize("margin", [-0.1, math.inf, math.nan, "hard", "0.3"])
def test_bad_margin(margin):
    with pytest.raises(ValueError, match="BatchHardTripletLoss: margin: got"):
        BatchHardTripletLoss(margin)


@pytest.mark.parametrize("margin", [None, True, [0.3]])
def test_margin_of_a_wrong_type(margin):
    with pytest.raises(TypeError, match="BatchHardTripletLoss: margin: got"):
        BatchHardTripletLoss(margin)


def test_malformed():
    with pytest.raises(TypeError, match=r"features: got int64"):
        BatchHardTripletLoss()(torch.zeros(4, 2, dtype=torch.int64), torch.tensor([0, 0, 1, 1]))
    with pytest.raises(ValueError, match=r"features: got shape \(4, 2, 1\)"):
        BatchHardTripletLoss()(torch.zeros(4, 2, 1), torch.tensor([0, 0, 1, 1]))
    with pytest.raises(ValueError, match=r"labels: got shape \(3,\), expected \(4,\)"):
        BatchHardTripletLoss()(torch.zeros(4, 2), torch.tensor([0, 0, 1]))
