# SPDX-License-Identifier: Apache-2.0
"""The attention ops under contract: samples, and what opcheck is asked; the oracles are in attention_oracle.py, the
malformed calls in attention_malformed.py."""

from __future__ import annotations

import itertools

import attention_malformed as malformed
import attention_oracle as oracle
import torch
from attention_oracle import Network
from opspec import OpSpec, Sample

from fastreid_ops.ops.attention import (
    Gate,
    attention_gate,
    attention_pool,
    channel_attention,
    spatial_channel_attention,
)

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
ACTIVATIONS = ("sigmoid", "relu", "linear", "sigmoid_relu")
STATISTICS = ((), ("avg",), ("max",), ("avg", "max"))
# Rows and columns of 1, 3, 17, 63, 64, 65 and 288: on and beside the widths of every instruction set.
SHAPES = (
    (1, 1, 1, 1),
    (3, 17, 3, 1),
    (2, 3, 9, 7),
    (1, 65, 5, 13),
    (3, 5, 24, 12),
    (2, 63, 1, 17),
    (1, 288, 1, 3),
    (2, 33, 8, 8),
    (0, 4, 6, 2),
)


class Maker:
    """Random tensors of one dtype."""

    def __init__(self, dtype, device, seed):
        self.dtype, self.device = dtype, device
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape, scale=1.0, dtype=None):
        value = torch.randn(*shape, generator=self.generator, dtype=torch.float64) * scale
        return value.to(self.device, dtype or self.dtype)


# Statistics


def pool_inputs(dtype, device, seed):
    make = Maker(dtype, device, seed)
    sets = [(c, s) for c in STATISTICS for s in STATISTICS if c or s]
    samples = []
    for i, (channel, spatial) in enumerate(sets):
        name = "+".join(channel) + "|" + "+".join(spatial)
        shapes = SHAPES if len(channel) + len(spatial) == 4 else (SHAPES[i % 9], SHAPES[(i + 4) % 9])
        for shape in shapes:
            kwargs = {"channel": channel, "spatial": spatial, "ties": ("first", "equal")[i % 2]}
            samples.append(Sample(f"{name}/{shape}", (make(*shape) + 0.3,), kwargs))
    everything = {"channel": ("max", "avg"), "spatial": ("max", "avg")}
    zeros = make(2, 9, 5, 7).relu()
    zeros[:, 3], zeros[:, :, 2] = 0, 0
    inputs = {
        "after a ReLU": zeros,
        "negative": -make(2, 6, 3, 11).abs() - 1,
        "constant": torch.full((1, 5, 9, 9), 0.3, device=device, dtype=dtype),
        # Sums that leave the range of float16.
        "large": make(2, 40, 24, 12).abs() * 50 + 1000,
        "infinite": make(2, 6, 4, 5).index_fill(2, torch.tensor([1], device=device), float("inf")),
    }
    return samples + [Sample(f"everything/{name}", (x,), everything) for name, x in inputs.items()]


# Gates


def _logits(make, kind, shape):
    """x and the logits of one kind of gate."""
    batch, channels, height, width = shape
    x, per_channel, per_position = make(*shape), (batch, channels), (batch, height, width)
    odd = {torch.float32: torch.float64, torch.float64: torch.float32}.get(make.dtype, torch.float32)
    if kind == "full":
        # The nearest entry of a map of the same size, of half and of a third of it, of a single entry.
        size = [next(n // f for f in (3, 2, 1) if n % f == 0) for n in (height, width)]
        return x, {"full": make(batch, channels, *size, scale=3)}
    if kind in ("full, one entry", "full, every entry"):
        size = (1, 1) if "one" in kind else (height, width)
        return x, {"full": make(batch, channels, *size, scale=3)}
    if kind == "streams":
        x = [x, *(make(*shape) for _ in range(3))]
        return x, {"channel": [make(*per_channel, scale=3) for _ in x]}
    if kind == "spatial streams":
        x = [x, make(*shape)]
        return x, {"spatial": [make(*per_position, scale=3) for _ in x]}
    given = {
        "channel": lambda: {"channel": make(*per_channel, scale=3)},
        "channel, 4-D": lambda: {"channel": make(*per_channel, 1, 1, scale=3, dtype=odd)},
        "spatial": lambda: {"spatial": make(*per_position, scale=3)},
        "spatial, 4-D": lambda: {"spatial": make(batch, 1, height, width, scale=3, dtype=odd)},
        "outer": lambda: {"channel": make(*per_channel), "spatial": make(*per_position, scale=2)},
        "outer, shift": lambda: {"shift": make(channels)},
        "outer, shifts": lambda: {"shift": make(*per_channel, dtype=odd)},
        "outer, 4-D": lambda: {"shift": make(*per_channel, 1, 1)},
    }
    logits = given[kind]()
    if "shift" in logits:
        logits |= {"channel": make(*per_channel), "spatial": make(batch, 1, height, width, scale=2)}
    return x, logits


KINDS = (
    "channel", "channel, 4-D", "spatial", "spatial, 4-D", "outer", "outer, shift", "outer, shifts", "outer, 4-D",
    "full", "full, one entry", "full, every entry", "streams", "spatial streams",
)  # fmt: skip


def gate_inputs(dtype, device, seed):
    make = Maker(dtype, device, seed)
    shapes, samples = itertools.cycle(SHAPES), []
    ends = tuple(itertools.product((False, True), repeat=2))
    for i, kind in enumerate(KINDS):
        cases = [(name, *ends[(i + j) % 4]) for j, name in enumerate(ACTIVATIONS)]
        cases += [("sigmoid", *end) for end in ends]
        for activation, residual, relu in cases:
            shape = next(shapes)
            x, logits = _logits(make, kind, shape)
            kwargs = {**logits, "activation": activation, "relu": relu}
            if residual:
                kwargs["residual"] = make(*shape)
            name = f"{kind}, {activation}/{shape} {'+ residual' * residual} {'relu' * relu}"
            samples.append(Sample(name, (x,), kwargs))
    x = make(2, 5, 6, 7)
    far = torch.tensor([-1e4, -90.0, 0.0, 90.0, 1e4], device=device).expand(2, 5).to(dtype)
    samples.append(Sample("channel, sigmoid/far logits", (x,), {"channel": far}))
    eight = [make(2, 19, 3, 5) for _ in range(8)]
    samples.append(Sample("streams, sigmoid/8", (eight,), {"channel": [make(2, 19) for _ in eight]}))
    return [*samples, Sample("streams, sigmoid/1", ([x],), {"spatial": [make(2, 6, 7)], "residual": x})]


# Channel attention as a whole


def channel_inputs(dtype, device, seed):
    make = Maker(dtype, device, seed)
    shapes, samples = itertools.cycle(SHAPES), []
    for layers, biases, (statistics, shared), streams in itertools.product(
        (1, 2),
        (False, True),
        ((("avg",), False), (("max",), False), (("max", "avg"), False), (("avg", "max"), True)),
        (None, 3),
    ):
        shape, i = next(shapes), len(samples)
        channels, hidden = shape[1], max(1, shape[1] // 4)
        inputs = channels * (1 if shared else len(statistics))
        rows = hidden if layers == 2 else channels
        x = make(*shape) if streams is None else [make(*shape) for _ in range(streams)]
        weights = [make(rows, inputs, scale=2 / inputs**0.5), make(rows) if biases else None]
        if layers == 2:
            weights += [make(channels, hidden, scale=2 / hidden**0.5), make(channels) if biases else None]
        kwargs = {"statistics": statistics, "shared": shared, "relu": i % 3 == 0}
        kwargs |= {"activation": ACTIVATIONS[i % 4 if i % 2 else 0], "ties": ("first", "equal")[i % 2]}
        if i % 4 == 1:
            kwargs["residual"] = make(*shape)
        name = f"{layers} layers, {'+'.join(statistics)}{', shared' * shared}{f', {streams} streams' * bool(streams)}"
        samples.append(
            Sample(f"{name}/{shape}{' biases' * biases} {kwargs['activation']}", (x, *weights), kwargs)
        )
    # Weights in float32 beside maps in half precision, and the size of a real block.
    wide = (make(4, 66, dtype=torch.float32), None, make(66, 4, dtype=torch.float32))
    samples.append(Sample("2 layers, avg/float32 weights", (make(2, 66, 9, 5), *wide), {}))
    real = (make(16, 512, scale=0.1), make(16), make(256, 16), make(256))
    return [
        *samples,
        Sample("2 layers, avg+max/256", (make(2, 256, 24, 12), *real), {"statistics": ("avg", "max")}),
    ]


# Statistics, a network, gates


def _channel_form(values, weight):
    """Any number of channels, no linear algebra: the same sums in the same order for every number of threads."""
    s = values.channel_avg + values.channel_max * weight[0]
    return Gate(channel=s / (1 + s * s) * weight[1] + weight[2])


def _spatial_form(values, weight):
    s = values.spatial_avg * weight[0] + values.spatial_max
    return Gate(spatial=s * weight[1] + s * s * weight[2])


def _outer_form(values, weight):
    u = values.channel_avg * weight[0]
    return Gate(channel=u, spatial=values.spatial_avg[:, 0] * weight[1], shift=u * u + weight[2])


def _full_form(values, weight):
    return Gate(full=values.channel_max[:, :, None, None] * weight[0] + weight[1])


def _maximum_form(values, weight):
    return Gate(channel=values.channel_max * weight[0])


def _one_position_form(values, weight):
    """Does not use the statistics of channels that it asked for."""
    return Gate(spatial=values.spatial_max * weight[0])


FORMS = {
    "channel": (_channel_form, ("avg", "max"), ()),
    "spatial": (_spatial_form, (), ("avg", "max")),
    "outer": (_outer_form, ("avg",), ("avg",)),
    "full": (_full_form, ("max", "avg"), ()),
    "unused statistics": (_one_position_form, ("avg", "max"), ("max",)),
    "channel streams": (_maximum_form, ("max",), ()),
    "spatial streams": (_spatial_form, (), ("avg", "max")),
}


def whole_inputs(dtype, device, seed):
    make = Maker(dtype, device, seed)
    shapes, samples = itertools.cycle(SHAPES), []
    for i, (name, (form, channel, spatial)) in enumerate(FORMS.items()):
        for j, activation in enumerate((*ACTIVATIONS, "sigmoid")):
            shape = next(shapes)
            x = [make(*shape) for _ in range(3)] if "streams" in name else make(*shape)
            network = Network(form, make(3, scale=2))
            kwargs = {"channel": channel, "spatial": spatial, "activation": activation, "relu": j in (1, 4)}
            kwargs["ties"] = ("first", "equal")[(i + j) % 2]
            if j in (2, 4):
                kwargs["residual"] = make(*shape)
            samples.append(Sample(f"{name}, {activation}/{shape} {j}", (x, network), kwargs))
    return samples


# torch.library.opcheck


def _opcheck_pool(ops):
    cases = itertools.product((torch.float64,), ((3, 0), (0, 3), (3, 3), (1, 2)), (False, True))
    for dtype, (channel, spatial), count in [*cases, (torch.bfloat16, (3, 3), False)]:
        x = Maker(dtype, "cpu", 5)(2, 5, 3, 4).requires_grad_()
        yield ops.attention_pool.default, (x, channel, spatial, count)
        found = [t.detach() for t in ops.attention_pool(x, channel, spatial, count)]
        row, column = found[:3], found[3:]
        grads = [None if not t.numel() else torch.ones_like(t) for t in (*row[:2], *column[:2])]
        places = [t if t.numel() else None for t in (row[2], column[2], row[1], column[1])]
        if count and grads[1] is None and grads[3] is None:
            continue
        gate = (None,) * 6 + (0,)
        yield ops.attention_input.default, (x.detach(), *gate, *grads, *places, count)
    x = Maker(torch.float32, "cpu", 5)(2, 5, 3, 4).contiguous(memory_format=torch.channels_last)
    yield ops.attention_pool.default, (x, 3, 3, False)
    yield ops.attention_pool.default, (x[:0], 3, 3, False)


def _opcheck_gates(ops):
    make = Maker(torch.float64, "cpu", 6)
    x, grad = make(2, 6, 4, 3), make(2, 6, 4, 3)
    row, column, full = make(2, 6), make(2, 4, 3), make(2, 6, 2, 1)
    gates = {
        "row": (row, None, None, None),
        "column": (None, column, None, None),
        "outer": (row, column, None, None),
        "shift": (row, column, make(2, 6), None),
        "full": (None, None, None, full),
    }
    for i, gate in enumerate(gates.values()):
        leaves = [None if t is None else t.clone().requires_grad_() for t in gate]
        parts = [[t] if t is not None else [] for t in leaves[:2]]
        residual = grad.clone().requires_grad_() if i % 2 else None
        yield (
            ops.attention_apply.default,
            ([x.clone().requires_grad_()], *parts, *leaves[2:], residual, i % 4, i > 1),
        )
        result = torch.ops.fastreid.attention_apply(
            [x], *([t] if t is not None else [] for t in gate[:2]), *gate[2:], None, i % 4, True
        )
        for with_map in (False, True):
            yield ops.attention_reduce.default, (x, grad, result, *gate, i % 4, with_map)
        yield ops.attention_input.default, (x, grad, None, *gate, i % 4, row, *(None,) * 7, False)
    streams = [t.requires_grad_() for t in (make(2, 6, 4, 3), make(2, 6, 4, 3))]
    logits = [t.requires_grad_() for t in (make(2, 6), make(2, 6))]
    yield ops.attention_apply.default, (streams, logits, [], None, None, None, 0, True)
    last = x.contiguous(memory_format=torch.channels_last)
    yield ops.attention_apply.default, ([last], [row], [], None, None, None, 0, False)


def _opcheck_channel(ops):
    make = Maker(torch.float64, "cpu", 7)
    for i, (statistics, shared, two, biases, count) in enumerate(
        (
            (1, False, True, True, 1),
            (3, True, True, True, 2),
            (3, False, True, False, 1),
            (2, False, False, True, 1),
        )
    ):
        maps = [make(2, 6, 4, 3).requires_grad_() for _ in range(count)]
        inputs, rows = 12 if statistics == 3 and not shared else 6, 2 if two else 6
        weights = [make(rows, inputs), make(rows) if biases else None, None, None]
        if two:
            weights[2:] = [make(6, 2), make(6) if biases else None]
        weights = [None if w is None else w.requires_grad_() for w in weights]
        setting = (statistics, shared, i % 2 == 0)
        residual = make(2, 6, 4, 3) if i == 2 else None
        yield ops.channel_attention.default, (maps, *weights, *setting, residual, i, i % 2 == 1)
        plain = [None if w is None else w.detach() for w in weights]
        detached = [t.detach() for t in maps]
        result, *kept = ops.channel_attention(detached, *plain, *setting, residual, i, True)
        for with_weights in (True, False):
            yield (
                ops.channel_attention_backward.default,
                (make(2, 6, 4, 3), detached, result, *plain, *kept, *setting, i, with_weights),
            )


def opcheck_calls(*groups):
    return lambda: [call for group in groups for call in group(torch.ops.fastreid)]


_ALL = ("baseline", "avx2", "avx512", "avx512_bf16")
SPECS = [
    OpSpec(
        name="attention_pool",
        fn=attention_pool,
        dtypes=DTYPES,
        sample_inputs=pool_inputs,
        error_samples=malformed.pool,
        reference64=oracle.pool,
        naive=oracle.naive_pool,
        outputs=oracle.outputs,
        ulps=4,
        same_bits=(_ALL,),
        opcheck_calls=opcheck_calls(_opcheck_pool),
    ),
    OpSpec(
        name="attention_gate",
        fn=attention_gate,
        dtypes=DTYPES,
        sample_inputs=gate_inputs,
        error_samples=malformed.gate,
        reference64=oracle.gate,
        naive=oracle.naive_gate,
        ulps=2,
        same_bits=(_ALL,),
        opcheck_calls=opcheck_calls(_opcheck_gates),
    ),
    OpSpec(
        name="channel_attention",
        fn=channel_attention,
        dtypes=DTYPES,
        sample_inputs=channel_inputs,
        error_samples=malformed.channel,
        reference64=oracle.channel,
        naive=oracle.naive_channel,
        ulps=4,
        # The products of the baseline have no fused multiply-add.
        same_bits=(("avx2", "avx512", "avx512_bf16"), ("baseline",)),
        opcheck_calls=opcheck_calls(_opcheck_channel),
    ),
    OpSpec(
        name="spatial_channel_attention",
        fn=spatial_channel_attention,
        dtypes=DTYPES,
        sample_inputs=whole_inputs,
        error_samples=malformed.whole,
        reference64=oracle.spatial_channel,
        naive=oracle.naive_spatial_channel,
        ulps=4,
        same_bits=(_ALL,),
    ),
]
