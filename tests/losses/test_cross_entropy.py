# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch

from fastreid_ops.losses import ClothesCrossEntropy, LabelSmoothedCrossEntropy


def oracle(logits: np.ndarray, labels: np.ndarray, epsilon: float, smoothing: str = "uniform") -> float:
    """The definition in float64: soft targets, log-sum-exp, mean over the batch."""
    logits = logits.astype(np.float64)
    classes = logits.shape[1]
    if smoothing == "uniform":
        q = np.full_like(logits, epsilon / classes)
        q[np.arange(len(labels)), labels] += 1.0 - epsilon
    else:
        q = np.full_like(logits, epsilon / (classes - 1))
        q[np.arange(len(labels)), labels] = 1.0 - epsilon
    log_p = logits - logits.max(1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(1, keepdims=True))
    return float(-(q * log_p).sum(1).mean())


@pytest.mark.parametrize(("key", "epsilon"), [("xent_ls1", 0.1), ("xent_ls0", 0.0)])
def test_golden(golden, key, epsilon):
    want = golden.read("losses")
    logits = torch.from_numpy(want["logits"]).requires_grad_()
    loss = LabelSmoothedCrossEntropy(epsilon)(logits, torch.from_numpy(want["labels"]))
    assert loss.shape == ()
    assert golden.relative(loss.detach(), want[key]) < 1e-5
    loss.backward()
    assert golden.relative(logits.grad, want[f"{key}_grad"]) < 1e-4


@pytest.mark.parametrize(("key", "epsilon"), [("ls_ce", 0.1), ("ce", 0.0)])
def test_golden_of_naic(recorded, hashed, value_and_gradient, key, epsilon):
    want = recorded("naic_and_cloth_changing/naic_losses")
    loss = LabelSmoothedCrossEntropy(epsilon)
    labels = recorded("naic_and_cloth_changing/naic_heads")["labels"]
    value_and_gradient(lambda x: loss(x, labels), [hashed("ls_logits", (6, 7), 3)], want[key])


def test_golden_of_simple_ccreid(recorded, golden):
    """Its logits are not recorded; value and gradient depend on them through their softmax p alone, which is what
    the gradient (p - q) / B gives."""
    want = recorded("naic_and_cloth_changing/cal_losses")
    labels, gradient = want["clothes"], want["ce_ls_grad"].double()
    q = torch.full_like(gradient, 0.1 / 12).scatter_add(
        1, labels.unsqueeze(1), torch.full((8, 1), 0.9).double()
    )
    logits = (8 * gradient + q).log().requires_grad_()
    loss = LabelSmoothedCrossEntropy(0.1)(logits, labels)
    loss.backward()
    assert golden.relative(loss.detach(), want["ce_ls"]) < 1e-5
    assert golden.relative(logits.grad, gradient) < 1e-5


@pytest.mark.parametrize("smoothing", ["uniform", "others"])
@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.5, 0.95])
@pytest.mark.parametrize("shape", [(1, 2), (1, 7), (6, 2), (32, 751)])
def test_definition_in_float64(epsilon, shape, smoothing):
    rng = np.random.default_rng(0)
    logits, labels = 5 * rng.normal(size=shape), rng.integers(0, shape[1], shape[0])
    loss = LabelSmoothedCrossEntropy(epsilon, smoothing=smoothing)
    got = loss(torch.from_numpy(logits), torch.from_numpy(labels))
    assert got.item() == pytest.approx(oracle(logits, labels, epsilon, smoothing), rel=1e-12, abs=1e-12)


def test_one_class():
    one = torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64)
    assert LabelSmoothedCrossEntropy(0.1)(*one).item() == 0
    with pytest.raises(ValueError, match="got 1 class, expected at least 2"):
        LabelSmoothedCrossEntropy(0.1, smoothing="others")(*one)


@pytest.mark.parametrize(("smoothing", "others"), [("uniform", 0.1 / 2), ("others", 0.1)])
def test_huge_logits_stay_finite(smoothing, others):
    loss = LabelSmoothedCrossEntropy(0.1, smoothing=smoothing)(torch.tensor([[1e4, -1e4]]), torch.tensor([0]))
    assert loss.item() == pytest.approx(others * 2e4, rel=1e-6)


def test_clothes_are_smoothed_over_the_clothes():
    """The original built the smoother of the clothes logits for the identities: its targets sum to 1.02 here."""
    rng = np.random.default_rng(0)
    identities, clothes = 5, 6
    logits, labels = rng.normal(size=(8, clothes)), rng.integers(0, clothes, 8)
    log_p = torch.from_numpy(logits).log_softmax(1).numpy()
    q = np.full((8, clothes), 0.1 / identities)
    q[np.arange(8), labels] += 0.9
    original = -(q * log_p).sum(1).mean()
    got = ClothesCrossEntropy(clothes)(torch.from_numpy(logits), torch.from_numpy(labels)).item()
    assert got == pytest.approx(oracle(logits, labels, 0.1), rel=1e-12)
    assert original - got > 0.01
    with pytest.raises(ValueError, match="ClothesCrossEntropy: logits: got 6 classes, expected 5"):
        ClothesCrossEntropy(identities)(torch.from_numpy(logits), torch.zeros(8, dtype=torch.int64))


def test_half_precision_is_summed_in_float32():
    logits = torch.randn(8, 300, generator=torch.Generator().manual_seed(0)).bfloat16()
    labels = torch.arange(8)
    loss = LabelSmoothedCrossEntropy(0.1)(logits, labels)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(oracle(logits.float().numpy(), labels.numpy(), 0.1), rel=1e-5)


@pytest.mark.parametrize("smoothing", ["uniform", "others"])
def test_gradcheck(smoothing):
    logits = torch.randn(
        4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()
    loss = LabelSmoothedCrossEntropy(0.2, smoothing=smoothing)
    assert torch.autograd.gradcheck(lambda x: loss(x, torch.tensor([0, 4, 2, 2])), logits)


@pytest.mark.parametrize(("label", "text"), [(5, "got 5, expected 0..4"), (-1, "got -1, expected 0..4")])
def test_label_out_of_range(label, text):
    with pytest.raises(ValueError, match=f"LabelSmoothedCrossEntropy: labels: {text} for 5 classes"):
        LabelSmoothedCrossEntropy()(torch.zeros(2, 5), torch.tensor([0, label]))


@pytest.mark.parametrize(
    ("logits", "labels", "error", "text"),
    [
        (
            torch.zeros(2, 5, dtype=torch.int64),
            torch.zeros(2, dtype=torch.int64),
            TypeError,
            "logits: got int64",
        ),
        (torch.zeros(2, 5), torch.zeros(2), TypeError, "labels: got float32, expected int64"),
        (torch.zeros(2, 5), torch.zeros(2, dtype=torch.int32), TypeError, "labels: got int32"),
        (torch.zeros(2, 5), [0, 1], TypeError, "labels: got list"),
        (torch.zeros(5), torch.zeros(5, dtype=torch.int64), ValueError, r"logits: got shape \(5,\)"),
        (torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64), ValueError, r"logits: got shape \(0, 5\)"),
        (
            torch.zeros(2, 5),
            torch.zeros(3, dtype=torch.int64),
            ValueError,
            r"labels: got shape \(3,\), expected \(2,\)",
        ),
        (
            torch.zeros(2, 5),
            torch.zeros(2, dtype=torch.int64, device="meta"),
            ValueError,
            "labels: got device meta",
        ),
    ],
)
def test_malformed(logits, labels, error, text):
    with pytest.raises(error, match=f"LabelSmoothedCrossEntropy: {text}"):
        LabelSmoothedCrossEntropy()(logits, labels)


@pytest.mark.parametrize("epsilon", [-0.1, 1.0, float("nan")])
def test_bad_epsilon(epsilon):
    with pytest.raises(ValueError, match="epsilon: got"):
        LabelSmoothedCrossEntropy(epsilon)


def test_bad_options():
    with pytest.raises(ValueError, match="smoothing: got 'true', expected one of uniform or others"):
        LabelSmoothedCrossEntropy(smoothing="true")
    with pytest.raises(ValueError, match="num_classes: got 0, expected an int of at least 1"):
        LabelSmoothedCrossEntropy(num_classes=0)
    with pytest.raises(TypeError, match="epsilon: got str, expected a number"):
        LabelSmoothedCrossEntropy("0.1")
