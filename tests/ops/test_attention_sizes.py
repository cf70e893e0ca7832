# SPDX-License-Identifier: Apache-2.0
"""The attention ops at every length around the widths of a vector, at maps long enough to be cut into blocks and shared
between threads, and on direct calls that the Python side never makes."""

import itertools

import pytest
import torch

from fastreid_ops.ops.attention import (
    Gate,
    attention_gate,
    attention_pool,
    channel_attention,
    spatial_channel_attention,
)

EVERYTHING = {"channel": ("avg", "max"), "spatial": ("avg", "max")}
LAYOUTS = (torch.contiguous_format, torch.channels_last)
by_layout = pytest.mark.parametrize("layout", LAYOUTS, ids=str)


def normal(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def steps(x, dtype=None):
    """name -> (op on leaves, leaves): every kind of kernel once."""
    batch, channels, height, width = x.shape
    dtype = dtype or x.dtype

    def leaves(*tensors):
        return [t.detach().to(dtype, copy=True).requires_grad_() for t in (x, *tensors)]

    row, column, shift = (
        normal(batch, channels, seed=1),
        normal(batch, height, width, seed=2),
        normal(channels, seed=3),
    )
    first, second = normal(3, 2 * channels, seed=4) / channels**0.5, normal(channels, 3, seed=5)
    full = normal(batch, channels, 1, width, seed=6)
    return {
        "pool": (lambda x: torch.cat([v.flatten() for v in attention_pool(x, **EVERYTHING)]), leaves()),
        "pool, equal": (
            lambda x: torch.cat(attention_pool(x, ties="equal")[:2]),
            leaves(),
        ),
        "channel": (lambda x, c: attention_gate(x, channel=c, relu=True), leaves(row)),
        "spatial": (lambda x, s: attention_gate(x, spatial=s, residual=x, activation="relu"), leaves(column)),
        "outer": (
            lambda x, c, s, b: attention_gate(x, channel=c, spatial=s, shift=b),
            leaves(row, column, shift),
        ),
        "full": (lambda x, f: attention_gate(x, full=f), leaves(full)),
        "streams": (lambda x, c, d: attention_gate([x, x], channel=[c, d], relu=True), leaves(row, row + 1)),
        "network": (
            lambda x, a, b: channel_attention(x, a, None, b, statistics=("avg", "max"), residual=x),
            leaves(first, second),
        ),
        "whole": (
            lambda x, c: spatial_channel_attention(
                x,
                lambda v: Gate(v.channel_max * c, v.spatial_avg + v.spatial_max, v.channel_avg),
                **EVERYTHING,
            ),
            leaves(row),
        ),
    }


def run(step, leaves):
    result = step(*leaves)
    return [
        result.detach(),
        *torch.autograd.grad(result, leaves, normal(*result.shape, seed=9).to(result.dtype)),
    ]


def assert_right(in_plain_torch, x, tolerance):
    for (name, case), exact in zip(steps(x).items(), steps(x, torch.float64).values(), strict=True):
        for value, want in zip(run(*case), in_plain_torch(run, *exact), strict=True):
            error = (value.double() - want).abs().max()
            assert error <= tolerance * (1 + want.abs().max()), f"{name} {tuple(x.shape)} {x.dtype}: {error}"


@by_layout
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_length(dtype, layout, in_plain_torch):
    tolerance = 4e-6 if dtype == torch.float32 else 2e-2
    lengths = range(1, 70) if dtype == torch.float32 else (*range(1, 20), 31, 32, 33, 63, 64, 65)
    for length in lengths:
        for shape in ((2, length, 1, 3), (1, 2, length, 1)):
            assert_right(
                in_plain_torch, normal(*shape, dtype=dtype).contiguous(memory_format=layout), tolerance
            )


@by_layout
@pytest.mark.parametrize(
    "shape", [(1, 3, 97, 131), (2, 2305, 3, 2), (1, 520, 33, 17), (9, 40, 16, 9)], ids=str
)
def test_long_maps(shape, layout, in_plain_torch):
    assert_right(in_plain_torch, normal(*shape).contiguous(memory_format=layout), 2e-5)


@by_layout
@pytest.mark.parametrize("shape", [(1, 512, 24, 12), (2, 1100, 17, 11), (7, 160, 24, 9)], ids=str)
def test_same_bits_where_threads_share_the_work(shape, layout, restore_threads):
    for dtype in (torch.float32, torch.float16):
        x = normal(*shape, dtype=dtype).contiguous(memory_format=layout)
        for name, (step, leaves) in steps(x).items():
            torch.set_num_threads(1)
            expected = run(step, leaves)
            for threads in (2, 3, 5):
                torch.set_num_threads(threads)
                for value, want in zip(run(step, leaves), expected, strict=True):
                    assert torch.equal(value, want), f"{name}, {threads} threads"


@by_layout
def test_a_sample_depends_on_itself_alone(layout):
    """The same bits in another batch."""
    x = normal(6, 130, 12, 5).contiguous(memory_format=layout)
    weights = (normal(9, 260, seed=1), normal(9, seed=2), normal(130, 9, seed=3))
    whole = channel_attention(x, *weights, statistics=("avg", "max"))
    pooled = attention_pool(x, **EVERYTHING)
    for part in (slice(0, 1), slice(4, 6), slice(1, 4)):
        assert torch.equal(channel_attention(x[part], *weights, statistics=("avg", "max")), whole[part])
        for value, want in zip(attention_pool(x[part], **EVERYTHING), pooled, strict=True):
            assert torch.equal(value, want[part])


# Direct calls


def direct_calls():
    """Calls of the operators with tensors that do not belong together; ``name`` is in the refusal."""
    ops = torch.ops.fastreid
    x, row, column = torch.randn(2, 6, 4, 3), torch.randn(2, 6), torch.randn(2, 4, 3)
    none, weight = (None,) * 5, torch.randn(6, 6)
    empty, places = torch.empty(0), torch.zeros(2, 6, dtype=torch.int32)
    apply, reduce, input_ = ops.attention_apply, ops.attention_reduce, ops.attention_input
    bad = {
        "attention_pool": [
            lambda: ops.attention_pool(x[0], 3, 3, False),
            lambda: ops.attention_pool(x.long(), 3, 3, False),
            lambda: ops.attention_pool(x, 0, 0, False),
            lambda: ops.attention_pool(x, 4, 0, False),
            lambda: ops.attention_pool(x, 3, -1, False),
            lambda: ops.attention_pool(x[:, :, :0], 3, 0, False),
        ],
        "attention_apply": [
            lambda: apply([x] * 9, [row] * 9, [], *none[:3], 0, False),
            lambda: apply([x], [], [], *none[:3], 0, False),
            lambda: apply([x], [row[:, :5].contiguous()], [], *none[:3], 0, False),
            lambda: apply([x], [row.double()], [], *none[:3], 0, False),
            lambda: apply([x], [row.mT], [], *none[:3], 0, False),
            lambda: apply([x], [], [column[:1]], *none[:3], 0, False),
            lambda: apply([x, x], [row], [], *none[:3], 0, False),
            lambda: apply([x, x[:1]], [row, row], [], *none[:3], 0, False),
            lambda: apply([x, x.double()], [row, row], [], *none[:3], 0, False),
            lambda: apply([x], [row], [], row, None, None, 0, False),
            lambda: apply([x], [], [], None, x[:, :, :3].contiguous(), None, 0, False),
            lambda: apply([x], [row], [], None, None, x[:1], 0, False),
            lambda: apply([x], [row], [], None, None, x.double(), 0, False),
            lambda: apply([x], [row], [], *none[:3], 4, False),
            lambda: apply([x], [row], [], *none[:3], -1, False),
        ],
        "attention_reduce": [
            lambda: reduce(x, x[:1], None, row, *none[:3], 0, True),
            lambda: reduce(x, x.double(), None, row, *none[:3], 0, True),
            lambda: reduce(x, x, x[:1], row, *none[:3], 0, True),
            lambda: reduce(x, x, None, row[:1], *none[:3], 0, True),
            lambda: reduce(x, x, None, *none[:4], 0, True),
            lambda: reduce(x, x, None, row, *none[:3], 7, True),
        ],
        "attention_input": [
            lambda: input_(x, x[:1], None, row, *none[:3], 0, *none[:4], *none[:4], False),
            lambda: input_(x, x, None, row[:1], *none[:3], 0, *none[:4], *none[:4], False),
            lambda: input_(x, *none, None, 0, row[:1], *none[:3], *none[:4], False),
            lambda: input_(x, *none, None, 0, None, row, *none[:2], *none[:4], False),
            lambda: input_(x, *none, None, 0, None, row, None, None, places[:1], *none[:3], False),
            lambda: input_(x, *none, None, 0, None, row, None, None, places.long(), *none[:3], False),
            lambda: input_(x, *none, None, 0, None, row, None, None, places, *none[:3], True),
        ],
        "channel_attention": [
            lambda: ops.channel_attention([], weight, *none[:3], 1, False, False, None, 0, False),
            lambda: ops.channel_attention([x], weight[:5], *none[:3], 1, False, False, None, 0, False),
            lambda: ops.channel_attention([x], weight.double(), *none[:3], 1, False, False, None, 0, False),
            lambda: ops.channel_attention(
                [x], weight, row[0, :5], None, None, 1, False, False, None, 0, False
            ),
            lambda: ops.channel_attention(
                [x], weight, None, weight[:5], None, 1, False, False, None, 0, False
            ),
            lambda: ops.channel_attention([x], weight, *none[:3], 0, False, False, None, 0, False),
            lambda: ops.channel_attention([x], weight, *none[:3], 3, False, False, None, 0, False),
            lambda: ops.channel_attention([x], weight, *none[:3], 1, True, False, None, 0, False),
        ],
        "channel_attention_backward": [
            lambda kept=kept: ops.channel_attention_backward(
                x, [x], None, weight, *none[:3], *kept, 1, False, False, 0, True
            )
            for kept in (
                (row[:1], empty.int(), empty, row),
                (row, empty.int(), empty, row[:1]),
                (row.double(), empty.int(), empty, row),
            )
        ],
    }
    return [(name, call) for name, calls in bad.items() for call in calls]


@pytest.mark.parametrize(("name", "call"), direct_calls(), ids=itertools.count())
def test_direct_calls_of_the_operators_stay_inside_their_memory(name, call):
    with pytest.raises((RuntimeError, ValueError), match=f"{name}: "):
        call()
