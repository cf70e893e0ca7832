# SPDX-License-Identifier: Apache-2.0
"""What every attention layer owes: memory orders, one sample, derivatives, state dicts, autocast, compilation."""

from __future__ import annotations

import warnings

import pytest
import torch

from fastreid_ops.layers.cbam import CBAM
from fastreid_ops.layers.channel_attention import VARIANTS, ChannelAttention
from fastreid_ops.layers.cross_modal import MDI, SCI, MDI_sep
from fastreid_ops.layers.eca import ECALayer
from fastreid_ops.layers.harmonious_attention import HarmAttn, SoftAttn
from fastreid_ops.layers.osnet_gate import ChannelGate
from fastreid_ops.layers.spatial_attention import SpatialAttention
from fastreid_ops.layers.squeeze_excitation import SELayer, SEModule

LAYERS = {f"ChannelAttention {v}": lambda c, v=v: ChannelAttention(c, v) for v in VARIANTS}
LAYERS |= {
    "SELayer": SELayer,
    "SEModule": SEModule,
    "ECALayer": lambda c: ECALayer(),
    "SpatialAttention": lambda c: SpatialAttention(batch_norm=True),
    "CBAM": CBAM,
    "ChannelGate": ChannelGate,
    "ChannelGate with LayerNorm": lambda c: ChannelGate(c, layer_norm=True),
    "SoftAttn": SoftAttn,
    "HarmAttn": HarmAttn,
    "SCI": lambda c: SCI(4, c, 2, 2),
    "MDI": lambda c: MDI(4, c, 2, 2),
    "MDI_sep": lambda c: MDI_sep(4, c, 2, 2),
}
BATCH_STATISTICS = {"ChannelAttention 202", "ChannelAttention 203", "SoftAttn", "HarmAttn"}


@pytest.fixture(params=list(LAYERS))
def name(request):
    return request.param


def make(golden, name, channels=32):
    return golden.fill(LAYERS[name](channels), "layer.")


def values(result):
    return result if isinstance(result, tuple) else (result,)


@pytest.mark.parametrize("training", [False, True])
def test_channels_last(golden, name, training):
    layer = make(golden, name).train(training)
    state = {key: t.clone() for key, t in layer.state_dict().items()}
    x = golden.tensor("order", (4, 32, 6, 4), 2.0)
    leaves = [x.clone().requires_grad_(), x.to(memory_format=torch.channels_last).requires_grad_()]
    results = []
    for leaf in leaves:
        layer.load_state_dict(state)
        results.append(values(layer(leaf)))
        results[-1][0].square().sum().backward()
    for first, second in zip(*results, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad, rtol=1e-3, atol=1e-4)


def test_one_sample(golden, name):
    layer = make(golden, name).eval()
    x = golden.tensor("batch", (4, 32, 6, 4), 2.0)
    with torch.no_grad():
        for one, every in zip(
            values(layer(x[:1] if name != "MDI_sep" else x[0:3:2])), values(layer(x)), strict=True
        ):
            torch.testing.assert_close(one[:1], every[:1], rtol=1e-5, atol=1e-6)
    layer.train()
    if name in BATCH_STATISTICS:
        with pytest.raises(ValueError, match="got batch 1, expected at least 2 samples while training"):
            layer(x[:1])
    elif name != "MDI_sep":
        assert values(layer(x[:1]))[0].shape == (1, 32, 6, 4)


@pytest.mark.parametrize("training", [False, True])
def test_gradients(golden, name, training):
    layer = make(golden, name, 16).double().train(training)
    x = (golden.tensor("small", (4, 16, 4, 2), 2.0).double() + 0.3).requires_grad_()
    parameters = [p for p in layer.parameters() if p.numel() <= 200]

    def result(x, *_):
        return tuple(values(layer(x)))

    assert torch.autograd.gradcheck(result, (x, *parameters), fast_mode=True)


def test_state_dict(golden, name):
    first, second = make(golden, name), LAYERS[name](32)
    missing = second.load_state_dict(first.state_dict())
    assert not missing.missing_keys
    assert not missing.unexpected_keys
    x = golden.tensor("state", (2, 32, 6, 4), 2.0)
    for got, want in zip(values(second.eval()(x)), values(first.eval()(x)), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("training", [False, True])
def test_autocast(golden, name, training):
    layer = make(golden, name).train(training)
    state = {key: t.clone() for key, t in layer.state_dict().items()}
    x = golden.tensor("half", (8, 32, 6, 4), 2.0)
    want = values(layer(x))
    layer.load_state_dict(state)
    leaf = x.to(torch.bfloat16).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        got = values(layer(leaf))
    for one, other in zip(got, want, strict=True):
        assert one.isfinite().all()
        # Batch normalisation of few samples makes much of the rounding of what it divides by.
        loose = 0.5 if training and name in BATCH_STATISTICS else 0.05
        assert (one - other).abs().max() < loose * other.abs().max()
    got[0].float().square().mean().backward()
    assert leaf.grad.isfinite().all()


def test_bfloat16_parameters(golden, name):
    layer = make(golden, name).to(torch.bfloat16).eval()
    x = golden.tensor("half", (2, 32, 6, 4), 2.0).to(torch.bfloat16)
    with torch.no_grad():
        for value in values(layer(x)):
            assert value.dtype == torch.bfloat16
            assert value.isfinite().all()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "name", ["ChannelAttention 202", "SELayer", "ChannelGate with LayerNorm", "SoftAttn", "SCI"]
)
def test_compiled_whole(golden, name, training):
    layer = make(golden, name).train(training)
    state = {key: t.clone() for key, t in layer.state_dict().items()}
    x = golden.tensor("compile", (4, 32, 6, 4), 2.0)
    want = values(layer(x))
    buffers = [b.clone() for b in layer.buffers()]
    layer.load_state_dict(state)
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about its configuration
        got = values(torch.compile(layer, fullgraph=True, backend="aot_eager")(x))
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    for one, other in zip(layer.buffers(), buffers, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
