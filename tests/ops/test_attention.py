# SPDX-License-Identifier: Apache-2.0
"""What the contract frame cannot know about the attention ops: values by hand, NaN, layouts, the ways torch calls them,
memory. Gradients are in test_attention_gradients.py, graphs in test_attention_graphs.py."""

import math

import pytest
import torch
from memory import peak

from fastreid_ops.ops import attention as module
from fastreid_ops.ops.attention import (
    Gate,
    Statistics,
    attention_gate,
    attention_pool,
    channel_attention,
    spatial_channel_attention,
)

NAN, INF = math.nan, math.inf
FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
EVERYTHING = {"channel": ("avg", "max"), "spatial": ("avg", "max")}
LAYOUTS = (torch.contiguous_format, torch.channels_last)
by_dtype = pytest.mark.parametrize("dtype", FLOATS, ids=str)


def normal(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# Each op as a step from x to one tensor, with parameters of its own.
ROW, COLUMN, FULL = normal(2, 6, seed=1), normal(2, 1, 4, 3, seed=2), normal(2, 6, 2, 1, seed=3)
W1, B1, W2, B2 = normal(2, 12, seed=4), normal(2, seed=5), normal(6, 2, seed=6), normal(6, seed=7)
SEVEN = normal(1, 2, 7, 7, seed=8)


def cbam(values):
    """A 7 x 7 convolution over both statistics of a position."""
    planes = torch.cat([values.spatial_avg, values.spatial_max], 1)
    return Gate(spatial=torch.nn.functional.conv2d(planes, SEVEN.to(planes.dtype), padding=3))


def outer(values):
    return Gate(channel=values.channel_avg, spatial=values.spatial_max, shift=values.channel_max)


STEPS = {
    "pool": lambda x: torch.cat([v.flatten() for v in attention_pool(x, **EVERYTHING)]),
    "pool, equal": lambda x: attention_pool(x, ties="equal").channel_max,
    "gate, channel": lambda x: attention_gate(x, channel=x.mean((2, 3)) * ROW[0]),
    "gate, spatial": lambda x: attention_gate(x, spatial=x.amax(1) + COLUMN[0, 0], residual=x, relu=True),
    "gate, outer": lambda x: attention_gate(x, channel=x.mean((2, 3)), spatial=x[:, :1], shift=ROW[0]),
    "gate, full": lambda x: attention_gate(x, full=x[:, :, :2, :1] * 2, activation="sigmoid_relu"),
    "gate, streams": lambda x: attention_gate(
        [x, x.flip(1)], channel=[x.mean((2, 3))] * 2, activation="relu"
    ),
    "channel": lambda x: channel_attention(x, W1, B1, W2, B2, statistics=("avg", "max")),
    "channel, streams": lambda x: channel_attention([x, x * 2], W1[:, :6], None, W2, residual=x, relu=True),
    "whole, spatial": lambda x: spatial_channel_attention(x, cbam, channel=(), spatial=("avg", "max")),
    "whole, outer": lambda x: spatial_channel_attention(x, outer, **EVERYTHING, residual=x),
    "whole, streams": lambda x: spatial_channel_attention([x, x * 2], lambda v: Gate(channel=v.channel_max)),
}
by_step = pytest.mark.parametrize("name", STEPS)


def step_with_gradient(step, x):
    """The result and the gradient of x."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    result = step(x)
    weight = normal(*result.shape, seed=9).to(result.dtype)
    (grad,) = torch.autograd.grad(result, x, weight)
    return result.detach(), grad


# Values


@by_dtype
def test_statistics_by_hand(dtype):
    x = torch.tensor(
        [[[[1.0, -2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, -8.0]], [[5.0, 5.0], [-3.0, 1.0]]]], dtype=dtype
    )
    found = attention_pool(x, **EVERYTHING)
    assert isinstance(found, Statistics)
    assert [v.tolist() for v in found[:2]] == [[[1.5, -2.0, 2.0]], [[4.0, 0.0, 5.0]]]
    assert found.spatial_avg.tolist() == [[[[2.0, 1.0], [0.0, -1.0]]]]
    assert found.spatial_max.tolist() == [[[[5.0, 5.0], [3.0, 4.0]]]]
    assert all(v.dtype == dtype for v in found)
    assert attention_pool(x, channel=(), spatial=("max",))[:3] == (None, None, None)
    assert attention_pool(x, channel=["avg"])[1:] == (None, None, None)


def test_gates_by_hand():
    x = torch.tensor([[[[2.0, -4.0]], [[6.0, 8.0]]]])
    row, column, half = torch.tensor([[0.0, 50.0]]), torch.tensor([[[1.0, 0.0]]]), 0.5
    assert attention_gate(x, channel=row).tolist() == [[[[1.0, -2.0]], [[6.0, 8.0]]]]
    assert attention_gate(x, channel=row, relu=True).tolist() == [[[[1.0, 0.0]], [[6.0, 8.0]]]]
    assert attention_gate(x, channel=row, residual=x).tolist() == [[[[3.0, -6.0]], [[12.0, 16.0]]]]
    assert attention_gate(x, spatial=column, activation="linear").tolist() == [[[[2.0, 0.0]], [[6.0, 0.0]]]]
    both = attention_gate(x, channel=row, spatial=column, activation="linear")
    assert both.tolist() == [[[[0.0, 0.0]], [[300.0, 0.0]]]]
    shifted = attention_gate(
        x, channel=row, spatial=column, shift=torch.tensor([-1.0, half]), activation="linear"
    )
    assert shifted.tolist() == [[[[-2.0, 4.0]], [[303.0, 4.0]]]]
    assert attention_gate(x, channel=-row, activation="sigmoid_relu").tolist() == (x * half).tolist()
    assert attention_gate(x, channel=-row, activation="relu").tolist() == [[[[0.0, 0.0]], [[0.0, 0.0]]]]
    full = torch.tensor([[[[3.0]], [[-1.0]]]])
    assert attention_gate(x, full=full, activation="linear").tolist() == [[[[6.0, -12.0]], [[-6.0, -8.0]]]]
    streams = attention_gate([x, x], channel=[row, torch.ones(1, 2)], activation="linear")
    assert streams.tolist() == [[[[2.0, -4.0]], [[306.0, 408.0]]]]


def test_channel_attention_by_hand():
    x = torch.tensor([[[[1.0, 3.0]], [[-4.0, 2.0]]]])  # means 2 and -1, maxima 3 and 2
    identity = torch.eye(2)
    linear = {"activation": "linear"}
    assert channel_attention(x, identity, **linear).tolist() == [[[[2.0, 6.0]], [[4.0, -2.0]]]]
    two = channel_attention(x, identity, torch.ones(2), identity, torch.zeros(2), **linear)
    assert two.tolist() == [[[[3.0, 9.0]], [[0.0, 0.0]]]]
    shared = channel_attention(x, identity, statistics=("max", "avg"), shared=True, **linear)
    assert shared.tolist() == [[[[5.0, 15.0]], [[-4.0, 2.0]]]]
    mean_first = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    for names in (("avg", "max"), ("max", "avg")):
        got = channel_attention(x, mean_first, statistics=names, **linear)
        assert got.tolist() == [[[[2.0, 6.0]], [[-8.0, 4.0]]]]


@by_dtype
def test_nan_and_infinity_go_through(dtype):
    for layout in LAYOUTS:
        x = normal(2, 17, 5, 7, dtype=dtype)
        x[0, 3, 2, 1], x[1, 16, 4, 6], x[1, 0, 0, 0], x[0, 9, 0, 0] = NAN, NAN, -INF, INF
        x = x.contiguous(memory_format=layout)
        found = attention_pool(x, **EVERYTHING)
        rows, columns = torch.zeros(2, 17, dtype=torch.bool), torch.zeros(2, 1, 5, 7, dtype=torch.bool)
        rows[0, 3] = rows[1, 16] = columns[0, 0, 2, 1] = columns[1, 0, 4, 6] = True
        for value, where in zip(found, (rows, rows, columns, columns), strict=True):
            assert torch.equal(value.isnan(), where)
        assert found.channel_avg[0, 9] == found.channel_max[0, 9] == found.spatial_avg[0, 0, 0, 0] == INF
        assert found.channel_avg[1, 0] == found.spatial_avg[1, 0, 0, 0] == -INF
        assert found.channel_max[1, 0].isfinite()
        gated = attention_gate(x, channel=normal(2, 17, dtype=dtype), residual=torch.zeros_like(x))
        assert torch.equal(gated.isnan(), x.isnan())
        assert torch.equal(gated.isinf(), x.isinf())
        logits = normal(2, 5, 7, dtype=dtype)
        logits[0, 1, 1] = NAN
        assert torch.equal(attention_gate(x, spatial=logits).isnan(), x.isnan() | logits.isnan()[:, None])
        zeros = torch.zeros(17, 17, dtype=dtype)
        assert torch.equal(channel_attention(x, zeros).isnan()[:, 0, 0, 0], torch.tensor([True, True]))


@by_dtype
def test_nothing_but_minus_infinity(dtype):
    found = attention_pool(torch.full((1, 3, 2, 9), -INF, dtype=dtype), **EVERYTHING)
    assert all((value == -INF).all() for value in found)


@by_dtype
def test_the_first_nan_gets_the_gradient_of_the_maximum(dtype):
    x = normal(1, 4, 3, 5, dtype=dtype)
    x[0, 2, 1, 3] = x[0, 2, 2, 0] = x[0, 3, 1, 3] = NAN
    x.requires_grad_()
    attention_pool(x, channel=("max",)).channel_max[0, 2].backward()
    assert x.grad.nonzero().tolist() == [[0, 2, 1, 3]]
    x.grad = None
    attention_pool(x, channel=(), spatial=("max",)).spatial_max[0, 0, 1, 3].backward()
    assert x.grad.nonzero().tolist() == [[0, 2, 1, 3]]


# Layouts


@by_step
def test_channels_last_stays_channels_last(name):
    x = normal(2, 6, 4, 3)
    plain, plain_grad = step_with_gradient(STEPS[name], x)
    last, last_grad = step_with_gradient(STEPS[name], x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(last, plain, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(last_grad, plain_grad, rtol=2e-6, atol=2e-6)
    assert last_grad.is_contiguous(memory_format=torch.channels_last)
    assert plain_grad.is_contiguous()
    if last.dim() == 4:
        assert last.is_contiguous(memory_format=torch.channels_last)
        assert plain.is_contiguous()


def test_gates_are_the_same_bits_in_both_layouts():
    x, row, column, full = normal(2, 35, 9, 4), normal(2, 35), normal(2, 9, 4), normal(2, 35, 3, 2)
    last = x.contiguous(memory_format=torch.channels_last)
    for logits in (
        {"channel": row},
        {"spatial": column},
        {"channel": row, "spatial": column},
        {"full": full},
    ):
        assert torch.equal(attention_gate(x, **logits), attention_gate(last, **logits))


@by_step
def test_other_strides_and_other_layouts_of_the_gradient(name):
    wide = normal(2, 6, 9, 8)
    view = wide[:, :, 1::2, :6:2]
    for x in (view, view.transpose(2, 3).contiguous().transpose(2, 3), view[:1].expand(2, 6, 4, 3)):
        want = step_with_gradient(STEPS[name], x.contiguous())
        leaf = x.detach().requires_grad_()
        result = STEPS[name](leaf)
        weight = normal(*result.shape, seed=9)
        torch.testing.assert_close(result, want[0], rtol=1e-6, atol=1e-6)
        for grad in (weight, weight.mT.contiguous().mT if weight.dim() > 1 else weight):
            (got,) = torch.autograd.grad(result, leaf, grad, retain_graph=True)
            torch.testing.assert_close(got, want[1], rtol=2e-6, atol=2e-6)


def test_an_expanded_gradient():
    x = normal(2, 6, 4, 3).requires_grad_()
    for name, step in STEPS.items():
        got = torch.autograd.grad(step(x).sum(), x)[0]
        result = step(x)
        want = torch.autograd.grad(result, x, torch.ones_like(result))[0]
        assert torch.equal(got, want), name


def test_negative_views():
    x = torch.randn(2, 6, 4, 3, dtype=torch.complex64).conj().imag
    assert x.is_neg()
    torch.testing.assert_close(attention_pool(x), attention_pool(x.resolve_neg()))
    assert torch.equal(attention_gate(x, channel=ROW), attention_gate(x.resolve_neg(), channel=ROW))


# The ways torch calls an op


@by_step
def test_autocast_changes_nothing_but_the_network(name):
    """Statistics and gates are those of the dtype they get; what torch makes of a network is torch's."""
    x = normal(2, 6, 4, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = step_with_gradient(STEPS[name], x)
    rough = name == "whole, spatial"  # a convolution in bfloat16
    for value, want in zip(got, step_with_gradient(STEPS[name], x), strict=True):
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, want, rtol=0.05 if rough else 0, atol=0.05 if rough else 0)


def test_autocast_in_bfloat16():
    """Maps of a convolution that autocast ran, weights and statistics' network in float32."""
    weight = normal(6, 3, 1, 1).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = torch.nn.functional.conv2d(normal(2, 3, 4, 3), weight)
        assert x.dtype == torch.bfloat16
        y = channel_attention(x, W1, B1, W2, B2, statistics=("avg", "max"), shared=False)
        assert y.dtype == torch.bfloat16
        assert torch.equal(y, channel_attention(x.detach(), W1, B1, W2, B2, statistics=("avg", "max")))
        z = spatial_channel_attention(y, cbam, channel=(), spatial=("avg", "max"))
    assert z.dtype == torch.bfloat16
    z.float().square().sum().backward()
    assert weight.grad.isfinite().all()
    assert (weight.grad != 0).any()


@by_step
def test_compile_without_breaks_for_any_batch(name):
    torch._dynamo.reset()

    def changed(x):
        return STEPS[name](x * 2).square()

    compiled = torch.compile(changed, fullgraph=True, backend="aot_eager", dynamic=None)
    for layout in LAYOUTS:
        x = normal(2, 6, 4, 3).contiguous(memory_format=layout)
        want, got = step_with_gradient(changed, x), step_with_gradient(compiled, x)
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


def test_compile_for_any_size():
    torch._dynamo.reset()

    def step(x, row):
        y = spatial_channel_attention(x, outer, **EVERYTHING)
        return attention_gate(y, channel=row, residual=x).square().sum()

    compiled = torch.compile(step, fullgraph=True, dynamic=True, backend="aot_eager")
    for batch, channels, height, width in ((2, 5, 4, 3), (3, 7, 6, 5), (4, 5, 2, 9)):
        x, row = normal(batch, channels, height, width), normal(batch, channels, seed=1)
        found = []
        for run in (compiled, step):
            leaves = [x.clone().requires_grad_(), row.clone().requires_grad_()]
            found.append(torch.autograd.grad(run(*leaves), leaves))
        torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)


def test_inductor():
    torch._dynamo.reset()

    def changed(x):
        y = channel_attention(x * 2, W1, B1, W2, B2, statistics=("avg", "max"))
        return spatial_channel_attention(y, cbam, channel=(), spatial=("avg", "max"), residual=x) + 1

    compiled = torch.compile(changed, fullgraph=True)
    x = normal(2, 6, 4, 3)
    torch.testing.assert_close(step_with_gradient(compiled, x), step_with_gradient(changed, x))


class Step(torch.nn.Module):
    def __init__(self, name):
        super().__init__()
        self.step = STEPS[name]

    def forward(self, x):
        return self.step(x)


@by_step
def test_export(name):
    program = torch.export.export(Step(name), (normal(2, 6, 4, 3),))
    x = normal(2, 6, 4, 3, seed=5)
    torch.testing.assert_close(program.module()(x), STEPS[name](x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["pool", "channel", "whole, spatial", "whole, outer"])
def test_export_with_a_dynamic_batch(name):
    batch = torch.export.Dim("batch")
    program = torch.export.export(Step(name), (normal(3, 6, 4, 3),), dynamic_shapes=({0: batch},))
    x = normal(5, 6, 4, 3, seed=5)
    torch.testing.assert_close(program.module()(x), STEPS[name](x), rtol=1e-6, atol=1e-6)


def test_meta_and_fake_tensors():
    from torch._subclasses import FakeTensorMode

    x = torch.empty(2, 6, 4, 3, device="meta", requires_grad=True)
    found = attention_pool(x, **EVERYTHING)
    assert [tuple(v.shape) for v in found] == [(2, 6), (2, 6), (2, 1, 4, 3), (2, 1, 4, 3)]
    y = attention_gate(x, channel=found.channel_avg, spatial=found.spatial_max)
    y = spatial_channel_attention(y, lambda v: Gate(channel=v.channel_max))
    y.sum().backward()
    assert (y.shape, y.device.type, x.grad.shape) == (x.shape, "meta", x.shape)
    with FakeTensorMode():
        last = torch.empty(2, 6, 4, 3).contiguous(memory_format=torch.channels_last)
        y = channel_attention(last, torch.empty(6, 6))
        assert y.shape == last.shape
        assert y.is_contiguous(memory_format=torch.channels_last)


def test_what_onnx_records_and_what_runs_without_the_native_library(monkeypatch):
    """Plain torch, the same numbers."""
    x = normal(2, 6, 4, 3)
    want = {name: step_with_gradient(step, x) for name, step in STEPS.items()}
    unavailable = module._STATUS._replace(native=False, cuda=False)
    for place, name, value in (
        (module, "_STATUS", unavailable),
        (torch.onnx, "is_in_onnx_export", lambda: True),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, value)
            for operator in ("attention_pool", "attention_apply", "channel_attention"):
                patch.setattr(torch.ops.fastreid, operator, None)
            for step_name, step in STEPS.items():
                got = step_with_gradient(step, x)
                torch.testing.assert_close(got, want[step_name], rtol=2e-6, atol=2e-6)


# Memory


@pytest.mark.parametrize(
    ("name", "streams", "beside"),
    [
        ("pool and gate", 1, 0.02),
        ("SE", 1, 0.02),
        ("197", 1, 0.02),
        # Networks of torch: a dozen (B, C) tensors, of which each is 0.4 % of a 16 x 16 map; the convolution's buffers.
        ("203", 1, 0.04),
        ("CBAM channel", 1, 0.02),
        ("CBAM spatial", 1, 0.04),
        ("OSNet gate", 4, 0.02),
    ],
)
def test_memory_of_forward_and_backward(name, streams, beside):
    """The result and the gradients of the maps, and a few hundredths of them. All maps have 96 MiB."""
    sizes = (96 // streams, 1024, 16, 16)
    assert peak(f"ours: {name}", *sizes) <= (1 + beside) * (1 + streams) * math.prod(sizes) * 4 / 2**30
