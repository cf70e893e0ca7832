# SPDX-License-Identifier: Apache-2.0
"""Squeeze and excitation, ECA, CBAM and OSNet's gate: recorded numbers and plain formulations in float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastreid_ops.layers.cbam import CBAM, CBAMChannel
from fastreid_ops.layers.eca import ECALayer
from fastreid_ops.layers.osnet_gate import ChannelGate
from fastreid_ops.layers.spatial_attention import SpatialAttention
from fastreid_ops.layers.squeeze_excitation import SELayer, SEModule

FOLDER = "naic_and_cloth_changing"


def mean(x):
    return x.mean((2, 3), keepdim=True)


def se(p, x):
    hidden = torch.relu(F.linear(x.mean((2, 3)), p["fc.0.weight"], p.get("fc.0.bias")))
    return x * torch.sigmoid(F.linear(hidden, p["fc.2.weight"], p.get("fc.2.bias")))[:, :, None, None]


def two_convolutions(p, values):
    hidden = torch.relu(F.conv2d(values, p["fc1.weight"], p.get("fc1.bias")))
    return F.conv2d(hidden, p["fc2.weight"], p.get("fc2.bias"))


def se_module(p, x):
    return x * torch.sigmoid(two_convolutions(p, mean(x)))


def eca(p, x):
    row = x.mean((2, 3))[:, None]
    logits = F.conv1d(row, p["conv.weight"], padding=p["conv.weight"].shape[2] // 2)
    return x * torch.sigmoid(logits)[:, 0, :, None, None]


def cbam_channel(p, x):
    return x * torch.sigmoid(two_convolutions(p, mean(x)) + two_convolutions(p, F.adaptive_max_pool2d(x, 1)))


def spatial(p, x):
    planes = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], 1)
    logits = F.conv2d(planes, p["conv1.weight"], padding=p["conv1.weight"].shape[2] // 2)
    if "bn1.weight" in p:
        logits = F.batch_norm(
            logits, p["bn1.running_mean"], p["bn1.running_var"], p["bn1.weight"], p["bn1.bias"]
        )
    return x * torch.sigmoid(logits)


def part(p, name):
    return {key.removeprefix(f"{name}."): value for key, value in p.items() if key.startswith(f"{name}.")}


def cbam(p, x):
    return spatial(part(p, "spatial"), cbam_channel(part(p, "channel"), x))


def os_gate(p, x, activation=torch.sigmoid):
    hidden = F.conv2d(mean(x), p["fc1.weight"], p["fc1.bias"])
    if "norm1.weight" in p:
        centred = hidden - hidden.mean(1, keepdim=True)
        hidden = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
        hidden = hidden * p["norm1.weight"] + p["norm1.bias"]
    return x * activation(F.conv2d(torch.relu(hidden), p["fc2.weight"], p["fc2.bias"]))


CASES = {
    "SELayer": (lambda: SELayer(64), se),
    "SELayer with bias": (lambda: SELayer(64, 8, bias=True), se),
    "SEModule": (lambda: SEModule(64), se_module),
    "ECA 3": (lambda: ECALayer(), eca),
    "ECA 5": (lambda: ECALayer(5), eca),
    "CBAM channel": (lambda: CBAMChannel(64), cbam_channel),
    "CBAM channel without bias": (lambda: CBAMChannel(64, 4, bias=False), cbam_channel),
    "CBAM spatial": (lambda: SpatialAttention(), spatial),
    "CBAM spatial, normalised": (lambda: SpatialAttention(3, batch_norm=True), spatial),
    "CBAM": (lambda: CBAM(64), cbam),
    "CBAM, normalised": (lambda: CBAM(64, batch_norm=True), cbam),
    "OSNet": (lambda: ChannelGate(64), os_gate),
    "OSNet, LayerNorm": (lambda: ChannelGate(64, layer_norm=True), os_gate),
    "OSNet, one gate": (lambda: ChannelGate(64, num_gates=1), os_gate),
    "OSNet, one gate, LayerNorm": (lambda: ChannelGate(64, num_gates=1, layer_norm=True), os_gate),
    "OSNet, relu": (
        lambda: ChannelGate(64, gate_activation="relu"),
        lambda p, x: os_gate(p, x, torch.relu),
    ),
    "OSNet, LayerNorm, linear": (
        lambda: ChannelGate(64, layer_norm=True, gate_activation="linear"),
        lambda p, x: os_gate(p, x, lambda z: z),
    ),
    "OSNet, linear": (
        lambda: ChannelGate(64, gate_activation="linear"),
        lambda p, x: os_gate(p, x, lambda z: z),
    ),
}


@pytest.mark.parametrize("name", list(CASES))
def test_plain_formulation(golden, name):
    make, plain = CASES[name]
    layer = golden.fill(make()).double().eval()
    values = {key: t.detach().clone() for key, t in layer.state_dict().items()}
    for key, _ in layer.named_parameters():
        values[key].requires_grad_()
    x = golden.tensor("attn_x", (3, 64, 6, 4), 2.0).double().requires_grad_()
    other = x.detach().clone().requires_grad_()
    dy = golden.tensor("attn_cotangent", (3, 64, 6, 4)).double()
    got, want = layer(x), plain(values, other)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)
    got.backward(dy)
    want.backward(dy)
    torch.testing.assert_close(x.grad, other.grad, rtol=1e-10, atol=1e-12)
    for key, parameter in layer.named_parameters():
        torch.testing.assert_close(parameter.grad, values[key].grad, rtol=1e-10, atol=1e-11)


class Holder(nn.Module):
    """Gives a convolution the name it has in the file."""

    def __init__(self, name: str, module: nn.Module):
        super().__init__()
        self.add_module(name, module)


@pytest.mark.parametrize("name", ["se", "eca3", "eca5", "cbam_c"])
def test_recorded_numbers(golden, name):
    want = golden.read(FOLDER, "attn_extra_se_eca_cbam")
    if name == "se":
        layer = golden.fill(SELayer(64))
    elif name == "cbam_c":
        layer = golden.fill(CBAMChannel(64), "cbam.")
    else:
        layer = ECALayer(int(name[3]))
        golden.fill(Holder(name, layer.conv))
    x = golden.tensor("attn_x", (3, 64, 6, 4), 2.0).requires_grad_()
    y = layer(x)
    y.backward(golden.tensor("attn_cotangent", (3, 64, 6, 4)))
    golden.close(y, want[f"{name}_y"])
    golden.close(x.grad, want[f"{name}_dx"])


@pytest.mark.parametrize("name", ["SELayer", "SEModule", "ECA 3", "CBAM spatial", "CBAM"])
def test_the_end_of_a_residual_block(golden, name):
    make, plain = CASES[name]
    layer = golden.fill(make()).eval()
    x, shortcut = (golden.tensor(key, (2, 64, 5, 3), 2.0) for key in ("block_x", "block_shortcut"))
    with torch.no_grad():
        values = {key: t.double() for key, t in layer.state_dict().items()}
        want = torch.relu(plain(values, x.double()) + shortcut.double())
        golden.close(layer(x, residual=shortcut, relu=True), want.float())


@pytest.mark.parametrize("options", [{}, {"layer_norm": True}, {"num_gates": 1, "gate_activation": "relu"}])
def test_streams_are_gated_and_added(golden, options):
    layer = golden.fill(ChannelGate(32, **options)).double()
    streams = [golden.tensor(f"stream{i}", (2, 32, 4, 3), 2.0).double().requires_grad_() for i in range(4)]
    torch.testing.assert_close(layer(streams), sum(layer(stream) for stream in streams))
    together = torch.autograd.grad(layer(streams).square().sum(), [*streams, *layer.parameters()])
    apart = torch.autograd.grad(
        sum(layer(stream) for stream in streams).square().sum(), [*streams, *layer.parameters()]
    )
    for got, want in zip(together, apart, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("activation", ["sigmoid", "relu", "linear"])
def test_gates_alone(golden, activation, layer_norm):
    layer = golden.fill(
        ChannelGate(64, num_gates=5, return_gates=True, gate_activation=activation, layer_norm=layer_norm)
    ).double()
    x = golden.tensor("attn_x", (3, 64, 6, 4), 2.0).double()
    function = {"sigmoid": torch.sigmoid, "relu": torch.relu, "linear": lambda z: z}[activation]
    p = layer.state_dict()
    hidden = F.conv2d(mean(x), p["fc1.weight"], p["fc1.bias"])
    if layer_norm:
        hidden = F.layer_norm(hidden, hidden.shape[1:], p["norm1.weight"], p["norm1.bias"])
    want = function(F.conv2d(torch.relu(hidden), p["fc2.weight"], p["fc2.bias"]))
    gates = layer(x)
    assert gates.shape == (3, 5, 1, 1)
    torch.testing.assert_close(gates, want, rtol=1e-10, atol=1e-12)
    first, second = layer([x, 2 * x])
    torch.testing.assert_close(first, gates)
    assert not torch.allclose(second, gates)


@pytest.mark.parametrize(
    ("make", "want"),
    [
        (lambda: SELayer(512), 32_768),
        (lambda: SELayer(2048), 524_288),
        (lambda: ChannelGate(64), 580),
        (lambda: ChannelGate(96), 1_254),
        (lambda: ChannelGate(128), 2_184),
        (lambda: SpatialAttention(), 98),
        (lambda: ECALayer(5), 5),
    ],
)
def test_counts(make, want):
    assert sum(p.numel() for p in make().parameters()) == want


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SELayer(8), "SELayer: channels: got 8, expected at least the reduction, 16"),
        (lambda: SEModule(8), "SEModule: channels: got 8, expected at least the reduction, 16"),
        (lambda: CBAM(8), "CBAMChannel: channels: got 8, expected at least the reduction, 16"),
        (lambda: SpatialAttention(4), "SpatialAttention: kernel: got 4, expected an odd size"),
        (lambda: ECALayer(2), "ECALayer: kernel: got 2, expected an odd width"),
        (
            lambda: ChannelGate(64, num_gates=2),
            "ChannelGate: num_gates: got 2, expected 1 or 64, the channels",
        ),
        (
            lambda: ChannelGate(64, gate_activation="sigmoids"),
            r"ChannelGate: gate_activation: got 'sigmoids', expected one of sigmoid, relu or linear \(did you",
        ),
        (
            lambda: SELayer(64)(torch.zeros(1, 32, 2, 2)),
            r"SELayer: x: got shape \(1, 32, 2, 2\), expected size 64",
        ),
        (lambda: SEModule(64)(torch.zeros(1, 32, 2, 2)), r"SEModule: x: got shape \(1, 32, 2, 2\)"),
        (lambda: CBAM(64)(torch.zeros(1, 32, 2, 2)), r"CBAMChannel: x: got shape \(1, 32, 2, 2\)"),
        (lambda: ChannelGate(64)(torch.zeros(1, 32, 2, 2)), r"ChannelGate: x: got shape \(1, 32, 2, 2\)"),
        (
            lambda: ECALayer()(torch.zeros(1, 32)),
            r"ECALayer: x: got shape \(1, 32\), expected \(B, C, H, W\)",
        ),
        (
            lambda: SELayer(64)(torch.zeros(1, 64, 2, 2), residual=torch.zeros(1, 64, 2, 1)),
            r"channel_attention: residual: got shape \(1, 64, 2, 1\)",
        ),
    ],
)
def test_errors(make, words):
    with pytest.raises(ValueError, match=f"^{words}"):
        make()
