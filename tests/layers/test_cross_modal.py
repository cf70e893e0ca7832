# SPDX-License-Identifier: Apache-2.0
"""WRIM-Net's interaction: the recorded reconstruction, the formulas in float64, the printed tree."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastreid_ops.layers.cross_modal import FORMS, MDI, MHSA, SCI, MDI_sep, SpatialChannelCompress

TREE = """\
SCI(
  (scc): SpatialChannelCompress(
    (proj): Conv2d(256, 128, kernel_size=(4, 4), stride=(4, 4))
  )
  (mhsa): MHSA(
    (norm): LayerNorm((128,), eps=1e-05, elementwise_affine=True)
    (qkv): Linear(in_features=128, out_features=384, bias=False)
    (attn_drop): Dropout(p=0.0, inplace=False)
    (proj): Linear(in_features=128, out_features=128, bias=True)
    (proj_drop): Dropout(p=0.0, inplace=False)
  )
  (fc): Linear(in_features=128, out_features=256, bias=True)
  (sigmoid): Sigmoid()
  (upsample): Upsample(scale_factor=4.0, mode=nearest)
  (relu): ReLU(inplace=True)
  (si): BatchNorm2d(256, eps=1e-05, momentum=0.1, affine=False, track_running_stats=True)
)"""


def norm(p, name, x, training):
    mean, var = p[f"{name}.running_mean"].clone(), p[f"{name}.running_var"].clone()
    return F.batch_norm(x, mean, var, training=training)


def attention(p, z, heads, residual=True):
    width = z.shape[2] // heads
    q, k, v = (F.layer_norm(z, z.shape[2:], p["norm.weight"], p["norm.bias"]) @ p["qkv.weight"].T).chunk(3, 2)
    out = []
    for h in range(heads):
        part = slice(h * width, (h + 1) * width)
        scores = q[..., part] @ k[..., part].transpose(1, 2) / width**0.5
        out.append(scores.softmax(2) @ v[..., part])
    out = torch.cat(out, 2) @ p["proj.weight"].T + p["proj.bias"]
    return z + out if residual else out


def inside(p, name):
    return {key.removeprefix(f"{name}."): value for key, value in p.items() if key.startswith(f"{name}.")}


def sci(p, u, heads, stride, training=False, residual=True):
    z = F.conv2d(u, p["scc.proj.weight"], p["scc.proj.bias"], stride)
    tokens = attention(inside(p, "mhsa"), z.flatten(2).transpose(1, 2), heads, residual)
    logits = (tokens @ p["fc.weight"].T + p["fc.bias"]).transpose(1, 2).reshape(*u.shape[:2], *z.shape[2:])
    gate = F.interpolate(torch.sigmoid(logits), scale_factor=stride, mode="nearest")
    return norm(p, "si", torch.relu(u * gate), training)


def mdi(p, x, heads, stride, form, training, residual=True, kind=""):
    si = norm(p, f"si{kind}", x, training)
    part = inside(p, f"sci{kind}")
    if form == "residual":
        return x + sci(part, si, heads, stride, training, residual)
    if form == "serial":
        return sci(part, si, heads, stride, training, residual)
    return si + sci(part, x, heads, stride, training, residual)


def test_recorded_numbers(golden):
    want = golden.read("visible_infrared", "self_sci")
    layer = golden.fill_pcg(SCI(8, 32, 2, 2)).eval()
    x = torch.from_numpy(want["x"])
    gate = F.interpolate(torch.sigmoid(layer.logits(x)), scale_factor=2, mode="nearest")
    golden.close(gate, want["gate"], rtol=0, atol=1e-5)
    golden.close(layer(x), want["y"], rtol=0, atol=1e-5)
    assert gate.mean().item() == pytest.approx(0.512106, abs=1e-5)


def compare(golden, layer, plain, shape):
    """Values and gradients of a layer and of a function of its state dict."""
    values = {key: t.detach().clone() for key, t in layer.state_dict().items()}
    for key, _ in layer.named_parameters():
        values[key].requires_grad_()
    x = golden.tensor("sci_x", shape, 2.0).double().requires_grad_()
    other = x.detach().clone().requires_grad_()
    got, want = layer(x), plain(values, other)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10)
    dy = golden.tensor("sci_dy", tuple(want.shape)).double()
    got.backward(dy)
    want.backward(dy)
    torch.testing.assert_close(x.grad, other.grad, rtol=1e-8, atol=1e-9)
    for key, parameter in layer.named_parameters():
        torch.testing.assert_close(parameter.grad, values[key].grad, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("training", [False, True])
def test_sci(golden, stride, training, residual):
    layer = golden.fill_pcg(SCI(4, 32, 2, stride, attn_residual=residual)).double().train(training)
    compare(golden, layer, lambda p, u: sci(p, u, 4, stride, training, residual), (2, 32, 8, 4))


@pytest.mark.parametrize("residual", [True, False])
def test_mhsa(golden, residual):
    layer = golden.fill_pcg(MHSA(24, 3, attn_residual=residual)).double()
    compare(golden, layer, lambda p, z: attention(p, z, 3, residual), (2, 5, 24))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("training", [False, True])
def test_mdi(golden, form, training):
    layer = golden.fill_pcg(MDI(4, 32, 2, 2, mdi_form=form)).double().train(training)
    compare(golden, layer, lambda p, x: mdi(p, x, 4, 2, form, training), (2, 32, 8, 4))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("training", [False, True])
def test_mdi_for_each_modality(golden, form, training):
    layer = golden.fill_pcg(MDI_sep(4, 32, 2, 2, mdi_form=form, attn_residual=False)).double().train(training)

    def plain(p, x):
        halves = zip(x.chunk(2), ("_v", "_i"), strict=True)
        return torch.cat([mdi(p, half, 4, 2, form, training, False, kind) for half, kind in halves])

    compare(golden, layer, plain, (4, 32, 8, 4))


def test_modes_agree_in_evaluation(golden):
    layer = golden.fill_pcg(MDI_sep(4, 32, 2, 2)).eval()
    x = golden.tensor("sci_x", (6, 32, 8, 4), 2.0)
    with torch.no_grad():
        both = layer(x)
        assert torch.equal(both, layer(x, 0))
        torch.testing.assert_close(both[:3], layer(x[:3], 1), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(both[3:], layer(x[3:], mode=2), rtol=1e-5, atol=1e-5)
        assert not torch.allclose(layer(x, 1), layer(x, 2))


@pytest.mark.parametrize(("mode", "touched"), [(0, ("_v", "_i")), (1, ("_v",)), (2, ("_i",))])
def test_statistics_of_the_other_modality_stay(golden, mode, touched):
    layer = golden.fill_pcg(MDI_sep(4, 32, 2, 2)).train()
    before = {key: t.clone() for key, t in layer.named_buffers()}
    layer(golden.tensor("sci_x", (4, 32, 8, 4), 2.0), mode)
    for key, value in layer.named_buffers():
        assert torch.equal(value, before[key]) == (not key.split(".")[0].endswith(touched)), key


def test_printed_tree():
    """As the network was printed, but for what newer versions of torch print besides."""
    text = repr(SCI(8, 256, 2, 4)).replace("'nearest'", "nearest")
    lines = [
        line.replace(", bias=True)", ")") if "BatchNorm" in line or "LayerNorm" in line else line
        for line in text.split("\n")
    ]
    assert "\n".join(lines).replace("affine=False, bias=False,", "affine=False,") == TREE
    assert [name for name, _ in MDI_sep(8, 256, 2, 4).named_children()] == ["si_v", "si_i", "sci_v", "sci_i"]
    assert [name for name, _ in MDI(8, 256, 2, 4).named_children()] == ["si", "sci"]


@pytest.mark.parametrize(
    ("make", "want", "parts"),
    [
        (lambda: MDI_sep(8, 256, 2, 4), 1_246_720, (524_416, 65_920, 33_024)),
        (lambda: MDI_sep(8, 512, 2, 2), 1_838_080, (524_544, 262_912, 131_584)),
        (lambda: MDI(8, 1024, 4, 1), 788_480, (262_400, 262_912, 263_168)),
        (lambda: MDI(8, 2048, 4, 1), 3_149_824, (1_049_088, 1_050_112, 1_050_624)),
    ],
)
def test_counts(make, want, parts):
    def count(module):
        return sum(p.numel() for p in module.parameters())

    with torch.device("meta"):
        layer = make()
    assert count(layer) == want
    inner = layer.sci if isinstance(layer, MDI) else layer.sci_v
    assert (count(inner.scc), count(inner.mhsa), count(inner.fc)) == parts


def test_dropout_of_the_attention_is_off_in_evaluation(golden):
    layer = golden.fill_pcg(MHSA(16, 2, attn_drop=0.5, proj_drop=0.5)).eval()
    z = golden.tensor("z", (2, 5, 16))
    torch.manual_seed(0)
    assert torch.equal(layer(z), layer(z))
    layer.train()
    assert not torch.equal(layer(z), layer(z))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MHSA(30, 8), "MHSA: dim: got 30, expected a multiple of the 8 heads"),
        (lambda: SCI(8, 30, 4, 1), "SCI: channel: got 30, expected a multiple of the reduction, 4"),
        (lambda: SCI(8, 64, 2, 0), "SCI: stride: got 0, expected an int of at least 1"),
        (
            lambda: MDI(8, 64, 2, 1, mdi_form="series"),
            "MDI: mdi_form: got 'series', expected one of residual, serial",
        ),
        (lambda: MDI_sep(8, 64, 2, 1, mdi_form="x"), "MDI_sep: mdi_form: got 'x', expected one of"),
        (
            lambda: SCI(8, 64, 2, 4)(torch.zeros(2, 64, 6, 8)),
            "SCI: x: got 6 x 8, expected multiples of 4, the stride",
        ),
        (
            lambda: SCI(8, 64, 2, 1)(torch.zeros(2, 32, 6, 8)),
            r"SCI: x: got shape \(2, 32, 6, 8\), expected size 64",
        ),
        (
            lambda: MDI_sep(8, 64, 2, 1)(torch.zeros(3, 64, 4, 4)),
            "MDI_sep: x: got batch 3, expected an even batch",
        ),
        (lambda: MDI_sep(8, 64, 2, 1)(torch.zeros(2, 64, 4, 4), 3), "MDI_sep: mode: got 3, expected 0"),
    ],
)
def test_errors(make, words):
    with pytest.raises(ValueError, match=f"^{words}"):
        make()


def test_compression():
    layer = SpatialChannelCompress(8, 4, 2)
    assert isinstance(layer.proj, nn.Conv2d)
    assert layer(torch.zeros(2, 8, 6, 4)).shape == (2, 4, 3, 2)
