# SPDX-License-Identifier: Apache-2.0
"""What every loss promises: float32 for half-precision inputs, nothing but finite numbers, one identity refused,
nothing larger than the batch needs, one graph under torch.compile."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

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


def memory():
    loss = ClothesAdversarialMemoryLoss(4, 4)
    return lambda x: loss(x, CLOTHES, PERSONS[CLOTHES])


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
    "clothes memory": memory(),
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


@pytest.mark.parametrize(
    "name",
    [
        "triplet",
        "regularised, normalised",
        "centre",
        "cmkic",
        "cross-modal contrastive",
        "cpm",
        "arcface, smoothed",
        "am-softmax",
        "circle",
        "pairwise circle",
        "contrastive",
        "clothes memory",
        "cross entropy, others",
        "parts",
        "classification, arcface",
        "clothes",
    ],
)
def test_one_graph_under_compile(name):
    """With its checks as they come: what reads labels is left out there."""
    loss = (EMBEDDINGS | LOGITS)[name]
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(2)).requires_grad_()
    (want,) = torch.autograd.grad(loss(x), x)
    value = torch.compile(loss, backend="eager", fullgraph=True)(x)
    torch.testing.assert_close(value, loss(x))
    torch.testing.assert_close(torch.autograd.grad(value, x)[0], want)


@pytest.mark.parametrize("loss", [*EMBEDDINGS.values(), *LOGITS.values()], ids=[*EMBEDDINGS, *LOGITS])
def test_strides_do_not_matter(loss):
    wide = torch.randn(4, 17, generator=torch.Generator().manual_seed(3))
    plain = wide[:, 1::2].T.contiguous().requires_grad_()
    (want,) = torch.autograd.grad(loss(plain), plain)
    leaf = wide.clone().requires_grad_()
    value = loss(leaf[:, 1::2].T)
    torch.testing.assert_close(value, loss(plain))
    torch.testing.assert_close(torch.autograd.grad(value, leaf)[0][:, 1::2].T, want)


@pytest.mark.parametrize("loss", EMBEDDINGS.values(), ids=EMBEDDINGS)
def test_a_step_of_mixed_precision(loss):
    """float16 features of length 100, the loss scaled: no overflow, and the gradient that float32 gives."""
    scaler = torch.amp.GradScaler("cpu", init_scale=128.0)
    rows = torch.randn(8, 4, generator=torch.Generator().manual_seed(4))
    weight = (100 * rows / rows.norm(dim=1, keepdim=True)).requires_grad_()
    (want,) = torch.autograd.grad(loss(weight.half().float()), weight)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    with torch.autocast("cpu", dtype=torch.float16):
        value = loss(torch.eye(8) @ weight)
    assert value.isfinite()
    scaler.scale(value).backward()
    scaler.unscale_(optimizer)
    assert torch.isfinite(weight.grad).all()
    torch.testing.assert_close(weight.grad, want, rtol=0.02, atol=0.002 * want.abs().max().item() + 1e-6)


@pytest.mark.parametrize(
    "name",
    [
        "triplet",
        "triplet, cosine",
        "regularised, normalised",
        "cmkic",
        "cross-modal contrastive",
        "cpm",
        "pairwise circle",
    ],
)
def test_a_second_derivative_is_refused(name):
    """Of what runs on the distance op: an error, not a wrong number."""
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(5)).requires_grad_()
    (first,) = torch.autograd.grad(EMBEDDINGS[name](x), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="pairwise_distance: second derivative: got"):
        first.square().sum().backward()


@pytest.mark.parametrize("name", ["centre", "ring", "orthogonality, cosine", "arcface, smoothed", "cosface"])
def test_second_derivatives(name):
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    assert torch.autograd.gradgradcheck(EMBEDDINGS[name], x.requires_grad_())


@pytest.mark.parametrize(
    "kind",
    [
        BatchHardTripletLoss,
        WeightedTripletLoss,
        WeightedRegularizedTripletLoss,
        CMKICLoss,
        CPMLoss,
        ContrastiveLoss,
        LabelSmoothedCrossEntropy,
        CosineClassificationLoss,
        ClothesAdversarialLoss,
        lambda **options: CenterLoss(2, 4, **options),
        lambda **options: ArcFaceHead(2, 4, **options),
        lambda **options: ClothesAdversarialMemoryLoss(2, 4, **options),
    ],
)
def test_switches_are_true_or_false(kind):
    """The word 'false' of a configuration file is true to Python."""
    with pytest.raises(TypeError, match=r"\w+: check_inputs: got str, expected True or False"):
        kind(check_inputs="false")


@pytest.mark.parametrize(
    "loss",
    [CenterLoss(4, 4), RingLoss(), CircleHead(4, 4), ClothesAdversarialMemoryLoss(4, 4)],
)
def test_devices_that_differ_are_named(loss):
    """A loss with tensors of its own that was not moved with the model."""
    x = torch.zeros(8, 4, device="meta")
    rest = {
        "RingLoss": (),
        "ClothesAdversarialMemoryLoss": (CLOTHES.to("meta"), PERSONS[CLOTHES].to("meta")),
    }.get(type(loss).__name__, (CLOTHES.to("meta"),))
    with pytest.raises(
        ValueError, match=f"{type(loss).__name__}: features: got device meta, expected cpu, the device of"
    ):
        loss(x, *rest)


class Sizes(TorchDispatchMode):
    """The largest number of elements of any result."""

    largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, torch.Tensor):
                self.largest = max(self.largest, value.numel())
        return result


@pytest.mark.parametrize(
    "loss",
    [
        v
        for k, v in EMBEDDINGS.items()
        if not k.startswith(("centre", "arc", "cos", "am-", "circle", "clothes"))
    ],
    ids=[k for k in EMBEDDINGS if not k.startswith(("centre", "arc", "cos", "am-", "circle", "clothes"))],
)
def test_nothing_is_larger_than_the_batch_needs(loss):
    """B x B or B x D, forward and backward; never B x B x D, nor B x B x B. Rows of 40 numbers: B x D is larger."""
    x = torch.randn(8, 40, generator=torch.Generator().manual_seed(6)).requires_grad_()
    with Sizes() as sizes:
        loss(x).backward()
    assert sizes.largest == x.numel()
    narrow = torch.randn(8, 1, generator=torch.Generator().manual_seed(6)).requires_grad_()
    with Sizes() as sizes:
        loss(narrow).backward()
    assert sizes.largest <= 64
