# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from fastreid_ops.losses import (
    AMSoftmaxHead,
    ArcFaceHead,
    CircleHead,
    CosFaceHead,
    CosineClassificationLoss,
    LabelSmoothedCrossEntropy,
)

HEADS = {
    "arcface": lambda: ArcFaceHead(24, 7),
    "arcface_s30_m0.4": lambda: ArcFaceHead(24, 7, margin=0.4),
    "arcface_easy": lambda: ArcFaceHead(24, 7, margin=0.4, easy_margin=True),
    "arcface_ls": lambda: ArcFaceHead(24, 7, margin=0.4, ls_eps=0.1),
    "cosface_s30_m0.4": lambda: CosFaceHead(24, 7, margin=0.4),
    "amsoftmax_s30_m0.4": lambda: AMSoftmaxHead(24, 7, margin=0.4),
    "circle_s30_m0.4": lambda: CircleHead(24, 7, scale=30.0, margin=0.4),
    "circle_s256_m0.25": lambda: CircleHead(24, 7),
}


def load(head, rows):
    """Class rows (K, D) into a head, whichever way it stores them; returns the parameter."""
    (parameter,) = head.parameters()
    with torch.no_grad():
        parameter.copy_(rows.T if isinstance(head, AMSoftmaxHead) else rows)
    return parameter


@pytest.fixture
def inputs(recorded, hashed):
    want = recorded("naic_and_cloth_changing/naic_heads")
    return want, hashed("head_feat", (6, 24), 2), hashed("head_weight", (7, 24))


@pytest.mark.parametrize("key", HEADS)
def test_golden(golden, inputs, key):
    want, features, rows = inputs
    features.requires_grad_()
    head = HEADS[key]()
    parameter = load(head, rows)
    logits = head(features, want["labels"])
    assert golden.relative(logits.detach(), want[f"{key}_logits"]) < 1e-5
    loss = LabelSmoothedCrossEntropy(0.0)(logits, want["labels"])
    assert golden.relative(loss.detach(), want[f"{key}_ce"]) < 1e-5
    loss.backward()
    gradient = parameter.grad.T if isinstance(head, AMSoftmaxHead) else parameter.grad
    assert golden.relative(features.grad, want[f"{key}_dfeat"]) < 2e-5
    assert golden.relative(gradient, want[f"{key}_dw"]) < 2e-5


def test_golden_beyond_pi(golden, inputs):
    want, features, rows = inputs
    rows[3] = -features[1] + 0.05 * rows[3]
    head = ArcFaceHead(24, 7, margin=0.4)
    load(head, rows)
    logits = head(features, want["labels"])
    assert F.cosine_similarity(features[1:2], rows[3:4]).item() < math.cos(math.pi - 0.4)
    assert golden.relative(logits.detach(), want["arcface_fallback_logits"]) < 1e-5


@pytest.mark.parametrize("key", ["arcface", "cosface", "circle", "cosface_m0"])
def test_golden_of_classification_losses(recorded, value_and_gradient, key):
    want = recorded("naic_and_cloth_changing/cal_losses")
    loss = CosineClassificationLoss(key.split("_")[0], margin=0 if key.endswith("m0") else None)
    value_and_gradient(
        lambda c: loss(c, want["clothes"]), [want["cos"]], want[f"cls_{key}"], [want[f"cls_{key}_grad"]]
    )


def oracle(form, cosine, labels, s, m, easy=False):
    """Entry by entry in angles."""
    out = []
    for row, label in zip(cosine, labels, strict=True):
        logits = []
        for k, c in enumerate(row):
            true = k == label
            if form == "arcface" and true and (c > 0 if easy else c.arccos() + m < math.pi):
                logit = (c.arccos() + m).cos()
            elif form == "arcface" and true and not easy:
                logit = c - m * math.sin(m)
            elif form == "cosface" and true:
                logit = c - m
            elif form == "circle" and true:
                logit = (1 + m - c).detach().relu() * (c - 1 + m)
            elif form == "circle":
                logit = (c + m).detach().relu() * (c - m)
            else:
                logit = c
            logits.append(s * logit)
        out.append(torch.stack(logits))
    return torch.stack(out)


@pytest.mark.parametrize(
    ("head", "form", "easy"),
    [
        (ArcFaceHead(3, 5, scale=8.0, margin=0.6), "arcface", False),
        (ArcFaceHead(3, 5, scale=8.0, margin=0.6, easy_margin=True), "arcface", True),
        (CosFaceHead(3, 5, scale=8.0, margin=0.6), "cosface", False),
        (AMSoftmaxHead(3, 5, scale=8.0, margin=0.6), "cosface", False),
        (CircleHead(3, 5, scale=8.0, margin=0.6), "circle", False),
    ],
)
def test_definition_in_float64(same_in_float64, head, form, easy):
    """12 rows of 3 numbers: true classes at angles all round."""
    generator = torch.Generator().manual_seed(3)
    features, rows = torch.randn(12, 3, generator=generator), torch.randn(5, 3, generator=generator)
    labels = torch.arange(12) % 5
    (name, _) = next(head.named_parameters())

    def ours(features, rows):
        parameter = {name: rows.T if name == "W" else rows}
        return F.cross_entropy(torch.func.functional_call(head, parameter, (features, labels)), labels)

    def want(features, rows):
        cosine = torch.stack(
            [torch.stack([F.cosine_similarity(f, r, dim=0) for r in rows]) for f in features]
        )
        return F.cross_entropy(oracle(form, cosine, labels, 8.0, 0.6, easy), labels)

    same_in_float64(ours, want, features, rows)


def test_additive_margin_softmax_is_cosface(inputs):
    want, features, rows = inputs
    a, b = CosFaceHead(24, 7), AMSoftmaxHead(24, 7)
    load(a, rows)
    load(b, rows)
    torch.testing.assert_close(a(features, want["labels"]), b(features, want["labels"]))


def test_arcface_at_cosine_one_in_any_class():
    """The original took sqrt(1 - c^2) of every class and multiplied its infinite slope by 0."""
    features = torch.eye(2).requires_grad_()
    labels = torch.tensor([0, 0])
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    cosine = F.linear(features, rows)
    onehot = F.one_hot(labels, 3)
    phi = cosine * math.cos(0.3) - (1 - cosine**2).sqrt() * math.sin(0.3)
    original = torch.autograd.grad(F.cross_entropy(onehot * phi + (1 - onehot) * cosine, labels), features)[0]
    assert original.isnan().any()
    for options in ({}, {"easy_margin": True}, {"ls_eps": 0.1}):
        head = ArcFaceHead(2, 3, **options)
        load(head, rows)
        logits = head(features, labels)
        assert logits.isfinite().all()
        for gradient in torch.autograd.grad(F.cross_entropy(logits, labels), [features, head.weight]):
            assert gradient.isfinite().all()


def test_cosine_above_one_by_rounding():
    cosine = torch.tensor([[1.0000001, -1.0000001]], requires_grad=True)
    assert cosine.detach()[0, 0] > 1
    for label in (0, 1):
        loss = CosineClassificationLoss("arcface")(cosine, torch.tensor([label]))
        (gradient,) = torch.autograd.grad(loss, cosine)
        assert loss.isfinite()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("make", HEADS.values(), ids=HEADS)
def test_without_labels_cosines_are_scaled(make):
    head = make()
    features = torch.randn(4, 24)
    rows = head.class_rows().detach()
    want = head.scale * F.cosine_similarity(features.unsqueeze(1), rows.unsqueeze(0), dim=-1)
    torch.testing.assert_close(head(features).detach(), want, rtol=1e-5, atol=1e-4)
    # a margin can only take from the true class
    labels = torch.tensor([0, 1, 2, 3])
    with_margin = head(features, labels).detach()
    if not isinstance(head, CircleHead):
        assert (with_margin <= want + 1e-4).all()


def test_rows_of_zeros_get_no_gradient():
    """Features and class rows alike, and the others get theirs all the same (F.normalize: 1e12 times too much)."""
    head = CosFaceHead(3, 4)
    features = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    features[1] = 0
    features.requires_grad_()
    with torch.no_grad():
        head.weight[2] = 0
    logits = head(features, torch.tensor([0, 1, 2]))
    assert logits[1].tolist() == [0, pytest.approx(-9.0), 0, 0]
    assert (logits[0, 2].item(), logits[2, 2].item()) == (0, pytest.approx(-9.0))
    logits.square().sum().backward()
    for gradient, zero in ((features.grad, 1), (head.weight.grad, 2)):
        assert [bool(row.any()) for row in gradient] == [i != zero for i in range(len(gradient))]


def test_initial_weights():
    torch.manual_seed(0)
    assert AMSoftmaxHead(64, 500).state_dict().keys() == {"W"}
    for head in (ArcFaceHead(64, 500), CosFaceHead(64, 500), CircleHead(64, 500)):
        assert head.weight.shape == (500, 64)
        bound = math.sqrt(1 / 64) if isinstance(head, CircleHead) else math.sqrt(6 / 564)
        assert 0.99 * bound < head.weight.abs().max().item() <= bound
    assert AMSoftmaxHead(64, 500).W.std().item() == pytest.approx(math.sqrt(2 / 564), rel=0.02)


def test_malformed():
    head = ArcFaceHead(4, 3)
    x, y = torch.randn(2, 4), torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"ArcFaceHead: labels: got 3, expected 0\.\.2 for 3 classes"):
        head(x, torch.tensor([0, 3]))
    with pytest.raises(ValueError, match="ArcFaceHead: features: got width 5, expected 4"):
        head(torch.randn(2, 5), y)
    with pytest.raises(ValueError, match=r"features: got shape \(4,\)"):
        head(x[0])
    with pytest.raises(
        ValueError, match=r"margin: got 3\.5, expected a finite number of at least 0 and of at most"
    ):
        ArcFaceHead(4, 3, margin=3.5)
    with pytest.raises(ValueError, match="ls_eps: got 1, expected"):
        ArcFaceHead(4, 3, ls_eps=1)
    with pytest.raises(ValueError, match="CircleHead: scale: got 0, expected a finite number above 0"):
        CircleHead(4, 3, scale=0)
    with pytest.raises(ValueError, match="CosFaceHead: num_classes: got 0"):
        CosFaceHead(4, 0)
    with pytest.raises(ValueError, match="form: got 'softmax', expected one of arcface, cosface or circle"):
        CosineClassificationLoss("softmax")
    with pytest.raises(ValueError, match=r"cosine: got shape \(4,\)"):
        CosineClassificationLoss()(torch.zeros(4), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"CosineClassificationLoss: labels: got -1, expected 0\.\.2"):
        CosineClassificationLoss()(torch.zeros(1, 3), torch.tensor([-1]))
