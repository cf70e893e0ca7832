# SPDX-License-Identifier: Apache-2.0
"""What every loss promises: float32 for half-precision inputs, nothing but finite numbers, one identity refused."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from fastreid_ops.losses import (
    AMSoftmaxHead,
    ArcFaceHead,
    BatchHardTripletLoss,
    CenterLoss,
    CircleHead,
    ClothesAdversarialLoss,
    ClothesAdversarialMemoryLoss,
    CMKICLoss,
    ContrastiveLoss,
    CosFaceHead,
    CosineClassificationLoss,
    CPMLoss,
    CrossModalContrastiveLoss,
    KnowledgeDistillationLoss,
    LabelSmoothedCrossEntropy,
    OrthogonalityLoss,
    PairwiseCircleLoss,
    PairwiseCosFaceLoss,
    PartLoss,
    RingLoss,
    WeightedRegularizedTripletLoss,
    WeightedTripletLoss,
)

LABELS = torch.tensor([0, 0, 1, 1, 0, 0, 1, 1])
CLASSES = 4
PERSONS = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]).bool()
CLOTHES = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])


def with_head(head):
    """Class rows on the axes: features there are at cosine exactly 1, -1 and 0."""
    (parameter,) = head.parameters()
    with torch.no_grad():
        parameter.copy_(torch.eye(4))
    return lambda x: cross_entropy(head(x, CLOTHES), CLOTHES)


def centres():
    loss = CenterLoss(2, 4)
    with torch.no_grad():
        loss.centers.copy_(torch.eye(4)[:2])
    return lambda x: loss(x, LABELS)


def memory(x):
    return ClothesAdversarialMemoryLoss(4, 4)(x, CLOTHES, PERSONS[CLOTHES])


# name -> loss of (8, 4) features; the first half stands for one modality, branch or set where there are two
EMBEDDINGS = {
    "triplet": lambda x: BatchHardTripletLoss()(x, LABELS),
    "triplet, soft": lambda x: BatchHardTripletLoss("soft")(x, LABELS),
    "triplet, cosine": lambda x: BatchHardTripletLoss(metric="cosine")(x, LABELS),
    "weighted triplet": lambda x: WeightedTripletLoss()(x, LABELS),
    "weighted triplet, margin": lambda x: WeightedTripletLoss(0.3)(x, LABELS),
    "regularised": lambda x: WeightedRegularizedTripletLoss()(x, LABELS),
    "regularised, legacy": lambda x: WeightedRegularizedTripletLoss(legacy=True)(x, LABELS),
    "regularised, normalised": lambda x: WeightedRegularizedTripletLoss(normalize=True)(x, LABELS),
    "centre": centres(),
    "ring": RingLoss(),
    "cmkic": lambda x: CMKICLoss()(x[:4], x[4:], LABELS[:4]),
    "cmkic, other positives": lambda x: CMKICLoss(1, other_positives=True)(x[:4], x[4:], LABELS[:4]),
    "cross-modal contrastive": lambda x: CrossModalContrastiveLoss()(x[:4], x[4:], LABELS[:4]),
    "cpm": lambda x: CPMLoss()(x, x.flip(0), LABELS),
    "cpm, paper": lambda x: CPMLoss(2.0, form="paper")(x, x.flip(0), LABELS),
    "orthogonality": lambda x: OrthogonalityLoss()([x[:4], x[4:]]),
    "orthogonality, cosine": lambda x: OrthogonalityLoss("cosine")([x[:4], x[4:]]),
    "arcface": with_head(ArcFaceHead(4, 4)),
    "arcface, easy": with_head(ArcFaceHead(4, 4, easy_margin=True)),
    "arcface, smoothed": with_head(ArcFaceHead(4, 4, ls_eps=0.1)),
    "cosface": with_head(CosFaceHead(4, 4)),
    "am-softmax": with_head(AMSoftmaxHead(4, 4)),
    "circle": with_head(CircleHead(4, 4)),
    "pairwise cosface": lambda x: PairwiseCosFaceLoss()(x, LABELS),
    "pairwise circle": lambda x: PairwiseCircleLoss()(x, LABELS),
    "contrastive": lambda x: ContrastiveLoss()(x, LABELS),
    "clothes memory": memory,
}
# name -> loss of (8, 4) logits
LOGITS = {
    "cross entropy": lambda x: LabelSmoothedCrossEntropy()(x, CLOTHES),
    "cross entropy, others": lambda x: LabelSmoothedCrossEntropy(smoothing="others")(x, CLOTHES),
    "distillation": lambda x: KnowledgeDistillationLoss()(x, x.flip(0).roll(1, 1)),
    "parts": lambda x: PartLoss()([x, x.flip(1)], CLOTHES, x.roll(1, 1)),
    "classification, arcface": lambda x: CosineClassificationLoss("arcface")(x, CLOTHES),
    "classification, cosface": lambda x: CosineClassificationLoss("cosface")(x, CLOTHES),
    "classification, circle": lambda x: CosineClassificationLoss("circle")(x, CLOTHES),
    "clothes": lambda x: ClothesAdversarialLoss()(x, CLOTHES, PERSONS[CLOTHES]),
}
AXES = torch.eye(4).repeat(2, 1)
CORNERS = {
    "equal rows": torch.ones(8, 4),
    "zeros": torch.zeros(8, 4),
    "one row of zeros": torch.cat([torch.zeros(1, 4), torch.ones(7, 4)]),
    "axes": AXES,
    "opposite axes": torch.cat([AXES[:4], -AXES[4:]]),
    "all on one line": AXES[:1] * torch.tensor([1.0, -1, 1, -1, -1, 1, -1, 1]).unsqueeze(1),
    "large": 3e4 * AXES,
    "large differences": 3e4 * torch.cat([AXES[:4], -AXES[4:]]).roll(1, 1),
    "small": 1e-7 * torch.cat([AXES[:4], -AXES[4:]]),
}
COSINES = {
    "one": torch.ones(8, 4),
    "minus one": -torch.ones(8, 4),
    "both": 2 * AXES - 1,
    "beyond by rounding": 1.0000001 * (2 * AXES - 1),
    "zero": torch.zeros(8, 4),
}
HUGE = {f"{sign * size:g}": sign * size * (2 * AXES - 1) for size in (1e4, 1e30) for sign in (1, -1)}


def cases(losses, inputs):
    return [pytest.param(loss, x, id=f"{a}: {b}") for a, loss in losses.items() for b, x in inputs.items()]


def check_finite(loss, x):
    for dtype in (torch.float32, torch.float64):
        leaf = x.detach().to(dtype, copy=True).requires_grad_()
        value = loss(leaf)
        assert value.shape == ()
        assert value.isfinite()
        value.backward()
        assert leaf.grad.isfinite().all()


@pytest.mark.parametrize(("loss", "x"), cases(EMBEDDINGS, CORNERS))
def test_embeddings_in_the_corners(loss, x):
    check_finite(loss, x)


@pytest.mark.parametrize(("loss", "x"), cases(LOGITS, COSINES))
def test_cosines_in_the_corners(loss, x):
    check_finite(loss, x)


@pytest.mark.parametrize(
    ("loss", "x"), cases({k: v for k, v in LOGITS.items() if not k.startswith("cl")}, HUGE)
)
def test_huge_logits(loss, x):
    check_finite(loss, x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("loss", [*EMBEDDINGS.values(), *LOGITS.values()], ids=[*EMBEDDINGS, *LOGITS])
def test_half_precision_is_computed_in_float32(loss, dtype):
    """Same inputs, same value and gradient, whether they come as half or as float32, under autocast or not."""
    half = torch.rand(8, 4, generator=torch.Generator().manual_seed(0)).sub(0.5).to(dtype)
    full = half.float().requires_grad_()
    want = loss(full)
    want.backward()
    for autocast in (False, True):
        for x in (half.clone().requires_grad_(), half.float().requires_grad_()):
            with torch.autocast("cpu", dtype=dtype, enabled=autocast):
                got = loss(x)
            assert got.dtype == torch.float32
            assert got.item() == want.item()
            got.backward()
            torch.testing.assert_close(x.grad, full.grad.to(x.dtype), rtol=0.02, atol=1e-4)


@pytest.mark.parametrize(
    "name",
    [
        "triplet",
        "triplet, soft",
        "triplet, cosine",
        "weighted triplet",
        "regularised",
        "cmkic",
        "cross-modal contrastive",
        "cpm",
        "pairwise cosface",
        "pairwise circle",
        "contrastive",
    ],
)
def test_one_identity_is_refused(monkeypatch, name):
    monkeypatch.setitem(globals(), "LABELS", torch.zeros(8, dtype=torch.int64))
    with pytest.raises(
        ValueError, match=r"labels: got (one identity in a batch|\d of \d rows without a negative)"
    ):
        EMBEDDINGS[name](torch.randn(8, 4))


@pytest.mark.parametrize("loss", EMBEDDINGS.values(), ids=EMBEDDINGS)
def test_descends(loss):
    """A few gradient steps from noise lower the loss."""
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    optimizer = torch.optim.SGD([x], lr=1e-3)
    before = loss(x).item()
    for _ in range(5):
        optimizer.zero_grad()
        loss(x).backward()
        optimizer.step()
    assert loss(x).item() < before
