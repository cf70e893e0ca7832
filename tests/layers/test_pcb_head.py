# SPDX-License-Identifier: Apache-2.0
"""Generalised-mean pooling and the part-based head, against recorded numbers and their formulas in float64."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from fastreid_ops.layers.gem import GeM
from fastreid_ops.layers.pcb_head import DynamicPCB, PartOutput

FOLDER = "naic_and_cloth_changing"
SIZES = {"h8": (8, 4), "h12": (12, 4), "h16": (16, 8)}


def plain_gem(x, p):
    return x.clamp(min=1e-6).pow(p).mean((2, 3)).pow(1 / p)


@pytest.mark.parametrize("learnable", [False, True])
def test_recorded_gem(golden, learnable):
    want = golden.read(FOLDER, "gem")
    layer = GeM(3.0, learnable=learnable)
    x = golden.tensor("gem_x", (2, 8, 5, 3), 2.0).requires_grad_()
    y = layer(x)
    y.backward(golden.tensor("gem_cot", (2, 8, 1, 1)).flatten(1))
    tag = "freeze0" if learnable else "freeze1"
    golden.close(y, want[f"y_{tag}"], rtol=1e-5)
    golden.close(x.grad, want[f"dx_{tag}"])
    assert [name for name, _ in layer.named_parameters()] == (["p"] if learnable else [])
    if learnable:
        golden.close(layer.p.grad, want["dp"])
        assert layer.p.shape == (1,)
    assert list(layer.state_dict()) == (["p"] if learnable else [])


def test_recorded_power(golden):
    want = golden.read(FOLDER, "gem")["y_p6.5"]
    golden.close(GeM(6.5)(golden.tensor("gem_x", (2, 8, 5, 3), 2.0)), want, rtol=1e-5)


def test_gem_derivatives():
    x = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    layer = GeM(2.5, learnable=True).double()
    assert torch.autograd.gradcheck(lambda x, p: _gem_of(layer, x, p), (x, layer.p))
    torch.testing.assert_close(layer(x), plain_gem(x, layer.p))


def _gem_of(layer, x, p):
    return torch.func.functional_call(layer, {"p": p}, (x,))


@pytest.mark.parametrize("scale", [1e-4, 1e12])
def test_gem_of_small_and_large_maps(scale):
    """The plain formula gives 0 or infinity, and NaN gradients."""
    x = (0.5 + torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))) * scale
    x.requires_grad_()
    layer = GeM(12.0, learnable=True)
    layer(x).sum().backward()
    torch.testing.assert_close(layer(x).double(), plain_gem(x.double(), 12.0), rtol=1e-5, atol=0)
    assert x.grad.isfinite().all()
    assert layer.p.grad.isfinite().all()
    assert not plain_gem(x, 12.0).isfinite().all() or not plain_gem(x, 12.0).all()


def test_gem_of_zeros_and_half():
    x = torch.zeros(1, 2, 3, 3, requires_grad=True)
    layer = GeM(3.0, learnable=True)
    layer(x).sum().backward()
    assert x.grad.isfinite().all()
    assert layer.p.grad.isfinite().all()
    torch.testing.assert_close(layer(x), torch.full((1, 2), 1e-6))
    half = torch.full((1, 1, 2, 2), 1000.0, dtype=torch.float16)
    torch.testing.assert_close(GeM()(half), torch.full((1, 1), 1000.0, dtype=torch.float16))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"p": 0.0}, "p: got 0.0"), ({"p": float("inf")}, "p: got inf"), ({"eps": -1.0}, "eps: got -1.0")],
)
def test_gem_arguments(arguments, words):
    with pytest.raises(ValueError, match=f"^GeM: {words}, expected a finite number above 0"):
        GeM(**arguments)


def test_gem_shapes():
    with pytest.raises(ValueError, match=r"^GeM: x: got shape \(2, 8\), expected \(B, C, H, W\)"):
        GeM()(torch.zeros(2, 8))
    with pytest.raises(ValueError, match=r"^GeM: x: got shape \(2, 8, 0, 3\)"):
        GeM()(torch.zeros(2, 8, 0, 3))


def head(golden, tag="h8", **options):
    height, width = SIZES[tag]
    module = golden.fill(DynamicPCB(64, 5, features=32, **options))
    return module, golden.tensor(f"pcb_x_{tag}", (3, 64, height, width)) + 0.5


@pytest.mark.parametrize("tag", list(SIZES))
def test_recorded_training(golden, tag):
    want = golden.read(FOLDER, "pcb")
    module, x = head(golden, tag)
    output = module.train()(x)
    assert isinstance(output, PartOutput)
    golden.close(torch.stack([*output.logits, output.merge]), want[f"{tag}_train"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tag", list(SIZES))
@pytest.mark.parametrize("test", ["merge", "split", "ensemble"])
def test_recorded_evaluation(golden, tag, test):
    want = golden.read(FOLDER, "pcb")[f"{tag}_test_{test}"]
    module, x = head(golden, tag, test=test)
    got = module.eval()(x)
    golden.close(torch.stack(got) if test == "split" else got, want, rtol=2e-5, atol=5e-6)
    width = sum(t.shape[1] for t in got) if test == "split" else got.shape[1]
    assert width == module.feature_dim


def test_recorded_step(golden):
    want = golden.read(FOLDER, "pcb")
    module, x = head(golden, "h16")
    x.requires_grad_()
    output = module.train()(x)
    labels = torch.tensor([0, 3, 4])
    losses = [F.cross_entropy(one, labels) for one in (*output.logits, output.merge)]
    total = 0.5 * sum(losses[:6]) / 6 + 0.5 * losses[6]
    golden.close(torch.stack([*losses, total]), want["h16_train_losses"], rtol=1e-5)
    total.backward()
    golden.close(x.grad, want["h16_dx"], rtol=1e-3, atol=1e-4)
    parameters = dict(module.named_parameters())
    assert list(parameters) == want["h16_gradnames"].tolist()
    for name, (_, size) in zip(want["h16_gradnames"].tolist(), want["h16_gradsum"], strict=True):
        grad = parameters[name].grad
        assert (grad is None) == bool(size != size), name
        assert parameters[name].requires_grad == (grad is not None), name
        if grad is not None:
            assert grad.abs().sum().item() == pytest.approx(size, rel=1e-3, abs=1e-5), name
    for key in [k for k in want if k.startswith("h16_buf_")]:
        golden.close(module.state_dict()[key.removeprefix("h16_buf_")], want[key], rtol=1e-5)


def test_bands_overlap_where_six_does_not_divide(golden):
    """Rows of the map that each part sees: [floor(i H / 6), ceil((i + 1) H / 6))."""
    windows = {
        8: [(0, 2), (1, 3), (2, 4), (4, 6), (5, 7), (6, 8)],
        24: [(4 * i, 4 * i + 4) for i in range(6)],
    }
    for height, want in windows.items():
        module, _ = head(golden, test="split")
        x = torch.randn(1, 64, height, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
        bands = F.adaptive_avg_pool2d(x, (6, 1))
        for i, (first, end) in enumerate(want):
            (grad,) = torch.autograd.grad(
                module.eval().local_conv_list[i](bands[:, :, i : i + 1]).sum(), x, retain_graph=True
            )
            seen = grad.abs().sum((0, 1, 3)).nonzero().flatten().tolist()
            assert seen == list(range(first, end))


def test_ensemble_of_a_zero_position(golden):
    module, x = head(golden, test="ensemble")
    x[:, :, 0, 0] = 0
    assert module.eval()(x).isfinite().all()


def test_one_image(golden):
    module, x = head(golden)
    alone = module.eval()(x[:1])
    torch.testing.assert_close(alone, module(x)[:1], rtol=1e-5, atol=1e-5)
    with pytest.raises(
        ValueError, match=r"^DynamicPCB: x: got batch 1, expected at least 2 samples while training"
    ):
        module.train()(x[:1])


def test_without_merge(golden):
    module, x = head(golden, merge=False)
    output = module.train()(x)
    assert output.merge is None
    assert len(output.logits) == 6


@pytest.mark.parametrize("classes", [10, 100, 751, 5000])
def test_parameters(classes):
    with torch.device("meta"):
        module = DynamicPCB(2048, classes)
    assert sum(p.numel() for p in module.parameters()) == 6_877_286 + 3079 * classes


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"test": "both"}, ValueError, "test: got 'both'"),
        ({"merge": 1}, TypeError, "merge: got int"),
        ({"features": 0}, ValueError, "features: got 0"),
    ],
)
def test_arguments(options, error, words):
    with pytest.raises(error, match=f"^DynamicPCB: {words}"):
        DynamicPCB(64, 5, **options)
