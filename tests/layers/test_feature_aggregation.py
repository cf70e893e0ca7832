# SPDX-License-Identifier: Apache-2.0
"""DEEN's aggregation and expansion, AGW's non-local block: recorded numbers of the public code, formulas in float64."""

from __future__ import annotations

import json
import zlib

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fastreid_ops.layers.embedding_expansion import DEE
from fastreid_ops.layers.feature_aggregation import CNL, MFA, PNL
from fastreid_ops.layers.non_local import NonLocal

# name: layer, sizes of its inputs
RECORDED = {
    "cnl_flag0": (lambda: CNL(32, 16, 0), [(2, 32, 6, 4), (2, 16, 6, 4)]),
    "cnl_flag1": (lambda: CNL(32, 16, 1), [(2, 32, 6, 4), (2, 16, 12, 8)]),
    "pnl": (lambda: PNL(32, 16), [(2, 32, 6, 4), (2, 16, 12, 8)]),
    "mfa_flag0": (lambda: MFA(32, 16, 0), [(2, 32, 6, 4), (2, 16, 6, 4)]),
    "mfa_flag1": (lambda: MFA(32, 16, 1), [(2, 32, 6, 4), (2, 16, 12, 8)]),
    "dee": (lambda: DEE(16), [(2, 16, 6, 4)]),
}


def pcg(name, *shape):
    draw = np.random.Generator(np.random.PCG64([0, zlib.crc32(name.encode())]))
    return torch.from_numpy(draw.standard_normal(shape).astype(np.float32))


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def awake(layer, seed=0):
    """In float64, every parameter and statistic away from its initial value."""
    torch.manual_seed(seed)
    layer = layer.double().eval()
    with torch.no_grad():
        for key, value in layer.state_dict().items():
            if not key.endswith("num_batches_tracked"):
                value.uniform_(0.5, 1.5) if key.endswith("running_var") else value.normal_(0, 0.5)
    return layer


@pytest.mark.parametrize("name", list(RECORDED))
def test_recorded_numbers(golden, name):
    make, sizes = RECORDED[name]
    layer = golden.fill_pcg(make()).eval()
    facts = json.loads((golden.rule.FOLDER.parent / "visible_infrared" / "facts.json").read_text())[name]
    with torch.no_grad():
        got = layer(*(pcg(f"{name}_x{i}", *size) for i, size in enumerate(sizes)))
    assert sum(p.numel() for p in layer.parameters()) == facts["params"]
    assert list(got.shape) == facts["out"]["shape"]
    assert got.std(correction=0).item() == pytest.approx(facts["out"]["std"], abs=1e-5)
    assert got.flatten()[:4].tolist() == pytest.approx(facts["out"]["first"], abs=2e-5)
    if name != "mfa_flag1":  # recorded as facts only
        torch.testing.assert_close(
            got, torch.from_numpy(golden.read("visible_infrared", name)["y"]), rtol=0, atol=2e-5
        )


@pytest.mark.parametrize(
    ("size", "flag", "count"),
    [
        ((256, 64), 0, (41_920, 21_344)),
        ((512, 256), 1, (395_520, 198_528)),
        ((1024, 512), 1, (1_577_472, 790_272)),
    ],
)
def test_parameters(size, flag, count):
    with torch.device("meta"):
        layer = MFA(*size, flag)
    assert tuple(sum(p.numel() for p in part.parameters()) for part in (layer.CNL, layer.PNL)) == count


def batch_norm(norm, x):
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)


def test_channel_weights_one_by_one():
    layer = awake(CNL(6, 4, 1))
    x, low = random(2, 6, 3, 2), random(2, 4, 6, 4, seed=1)
    theta, phi, g = layer.theta(x), layer.phi(low), layer.g(low)
    mixed = torch.zeros_like(g)
    for a in range(4):
        for b in range(4):
            weight = (theta[:, a] * phi[:, b]).sum((1, 2)) / 4
            mixed[:, a] += weight[:, None, None] * g[:, b]
    want = batch_norm(layer.W[1], layer.W[0](mixed)) + x
    torch.testing.assert_close(layer(x, low), want)


def test_position_weights_one_by_one():
    """With the whole matrix of weights and the halves of a map cut by their rows."""
    layer = awake(PNL(6, 4))
    x, low = random(2, 6, 4, 2), random(2, 4, 6, 4, seed=1)

    def tokens(value):
        upper, lower = value.chunk(2, 2)
        return torch.stack((upper, lower), 2).flatten(1, 2).flatten(2).transpose(1, 2)

    theta, phi, g = tokens(layer.theta(x)), tokens(layer.phi(low)), tokens(layer.g(low))
    assert phi.shape == (2, 12, 4)
    weights = torch.einsum("bpc,bqc->bpq", theta, phi) / 12
    mixed = torch.einsum("bpq,bqc->bcp", weights, g).reshape(2, 2, 2, 2, 2)
    mixed = torch.cat(mixed.unbind(2), 2)
    torch.testing.assert_close(layer(x, low), batch_norm(layer.W[1], layer.W[0](mixed)) + x)


def test_non_local_weights_one_by_one():
    layer = awake(NonLocal(6, 2))
    x = random(2, 6, 4, 3)
    theta, phi, g = (part(x).flatten(2) for part in (layer.theta, layer.phi, layer.g))
    mixed = torch.einsum("bcp,bcq,bdq->bdp", theta, phi, g) / 12
    want = batch_norm(layer.W[1], layer.W[0](mixed.reshape(2, 2, 4, 3))) + x
    torch.testing.assert_close(layer(x), want)


@pytest.mark.parametrize(
    ("layer", "sizes"),
    [
        (lambda: MFA(8, 4, 0), [(3, 8, 4, 2), (3, 4, 4, 2)]),
        (lambda: MFA(8, 4, 2), [(3, 8, 4, 2), (3, 4, 8, 4)]),
        (lambda: NonLocal(8), [(3, 8, 4, 2)]),
    ],
)
@pytest.mark.parametrize("training", [False, True])
def test_starts_as_the_identity(layer, sizes, training):
    inputs = [random(*size, seed=i).float() for i, size in enumerate(sizes)]
    assert torch.equal(layer().train(training)(*inputs), inputs[0])


@pytest.mark.parametrize("flag", [1, 2])
def test_stride_of_the_flags(flag):
    layer = CNL(8, 4, flag)
    assert layer.phi.stride == layer.W[0].stride == (2, 2)
    assert layer.theta.stride == layer.g.stride == (1, 1)


def test_expansion_formula():
    layer = awake(DEE(8))
    x = random(2, 8, 5, 4)
    want = [x]
    for branch in "12":
        hidden = sum(
            F.conv2d(x, getattr(layer, f"FC{branch}{k}").weight, padding=k, dilation=k) for k in (1, 2, 3)
        )
        want.append(getattr(layer, f"FC{branch}")(torch.relu(hidden / 3)))
    torch.testing.assert_close(layer(x), torch.cat(want))
    layer.train()
    torch.manual_seed(0)
    layer.dropout.p = 0.5
    assert 0.3 < (layer(x) == 0).double().mean() < 0.7


@pytest.mark.parametrize(
    ("make", "sizes"),
    [
        (lambda: MFA(6, 4, 1), [(2, 6, 3, 2), (2, 4, 6, 4)]),
        (lambda: DEE(8), [(2, 8, 3, 2)]),
        (lambda: NonLocal(6), [(2, 6, 3, 2)]),
    ],
)
@pytest.mark.parametrize("training", [False, True])
def test_gradients(make, sizes, training):
    layer = awake(make()).train(training)
    for module in layer.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    inputs = [random(*size, seed=i).requires_grad_() for i, size in enumerate(sizes)]
    parameters = list(layer.parameters())
    assert torch.autograd.gradcheck(
        lambda *values: layer(*values[: len(inputs)]), (*inputs, *parameters), fast_mode=True
    )


def test_channels_last():
    layer = awake(MFA(8, 4, 1))
    x, low = random(2, 8, 4, 2), random(2, 4, 8, 4, seed=1)
    want = layer(x, low)
    last = torch.channels_last
    got = layer.to(memory_format=last)(x.to(memory_format=last), low.to(memory_format=last))
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: CNL(8, 4, 3), "CNL: flag: got 3, expected 0, 1 or 2"),
        (
            lambda: CNL(8, 4, 1)(random(2, 8, 3, 2), random(2, 4, 3, 2)),
            "CNL: low: got 3 x 2, expected 2 times",
        ),
        (lambda: CNL(8, 4)(random(2, 8, 3, 2), random(2, 5, 3, 2)), "CNL: low: got shape"),
        (lambda: CNL(8, 4)(random(2, 7, 3, 2), random(2, 4, 3, 2)), "CNL: x: got shape"),
        (lambda: CNL(8, 4)(random(2, 8, 3, 2), random(1, 4, 3, 2)), "CNL: low: got shape"),
        (
            lambda: PNL(8, 4)(random(2, 8, 3, 3), random(2, 4, 4, 4)),
            "PNL: x: got 3 x 3, expected an even number",
        ),
        (
            lambda: PNL(8, 4)(random(2, 8, 4, 3), random(2, 4, 3, 3)),
            "PNL: low: got 3 x 3, expected an even number",
        ),
        (lambda: PNL(8, 5), "PNL: low_dim: got 5, expected a multiple of the reduction, 2"),
        (lambda: DEE(3), "DEE: channels: got 3, expected at least the reduction, 4"),
        (lambda: DEE(8)(random(2, 6, 3, 3)), "DEE: x: got shape"),
        (lambda: NonLocal(8)(random(2, 6, 3, 3)), "NonLocal: x: got shape"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
