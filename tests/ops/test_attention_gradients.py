# SPDX-License-Identifier: Apache-2.0
"""First derivatives of the attention ops: every sample of the contract, ties, bits, and what a second derivative
says."""

import pytest
import torch
import torch.nn.functional as F
from attention_oracle import Network
from opspec import ISAS, Sample
from spec_attention import ACTIVATIONS, KINDS, SPECS, Maker, _logits

from fastreid_ops import _C
from fastreid_ops.ops import _attention_reference as plain
from fastreid_ops.ops.attention import (
    Gate,
    attention_gate,
    attention_pool,
    channel_attention,
    spatial_channel_attention,
)

F64 = torch.float64
by_name = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)


def normal(*shape, dtype=F64, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64).to(dtype)


def with_leaves(sample, dtype=None):
    """The same call on leaves that want gradients, in ``dtype``; and the leaves, the network's among them."""
    leaves = []

    def leaf(value):
        value = value.detach().to(dtype or value.dtype).clone().requires_grad_()
        leaves.append(value)
        return value

    copy = sample.map(leaf)
    args = tuple(Network(a.form, leaf(a.weight)) if isinstance(a, Network) else a for a in copy.args)
    return Sample(sample.name, args, copy.kwargs), leaves


def gradients(spec, sample, dtype=None):
    """Of the sum of all outputs, each entry with its own weight."""
    call, leaves = with_leaves(sample, dtype)
    outputs = spec.outputs(spec.fn(*call.args, **call.kwargs)).values()
    weights = [normal(*value.shape, seed=i).to(value.dtype) for i, value in enumerate(outputs)]
    return torch.autograd.grad(outputs, leaves, weights, allow_unused=True)


# Values


@by_name
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.bfloat16, torch.float16], ids=str)
def test_every_sample_against_autograd_in_float64(spec, dtype, layout, in_plain_torch):
    """Within twice the error of the same formulas in plain torch, in the dtype of the sample."""
    for sample in spec.sample_inputs(dtype, "cpu", 10):
        if "infinite" in sample.name:
            continue  # its gradients are no numbers
        if layout == "channels_last":
            sample = sample.map(
                lambda t: t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t
            )
        got = gradients(spec, sample)
        want = in_plain_torch(gradients, spec, sample, F64)
        same = in_plain_torch(gradients, spec, sample)
        for i, (value, expected, rough) in enumerate(zip(got, want, same, strict=True)):
            assert (value is None) == (expected is None), f"{sample.name}: {i}"
            if value is None or not value.numel():
                continue
            assert value.isfinite().all(), f"{sample.name}: {i}"
            limit = 2 * (rough.double() - expected).abs().max()
            # Sums of some hundred terms of about 1 may cancel; in 16 bits the rounding of the result is all there is.
            units = 2 if dtype.itemsize == 2 else 32
            limit += units * torch.finfo(dtype).eps * max(1.0, expected.abs().max())
            assert (value.double() - expected).abs().max() <= limit, f"{sample.name}: {i}"


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck_of_gates(kind):
    make = Maker(F64, "cpu", 3)
    for i, activation in enumerate(ACTIVATIONS):
        x, logits = _logits(make, kind, (2, 3, 4, 2))
        maps = x if isinstance(x, list) else [x]
        names = [
            name for name, value in logits.items() for _ in (value if isinstance(value, list) else [value])
        ]
        values = [v for value in logits.values() for v in (value if isinstance(value, list) else [value])]
        # gradcheck wants float64; logits of another dtype are among the contract's samples.
        leaves = [t.double().requires_grad_() for t in (*maps, *values, make(2, 3, 4, 2))]

        def run(*tensors, x=x, names=names, i=i, activation=activation):
            *tensors, residual = tensors
            count = len(tensors) - len(names)
            found = tensors[count:] if not isinstance(x, list) else [list(tensors[count:])]
            keys = list(dict.fromkeys(names))
            first = list(tensors[:count]) if isinstance(x, list) else tensors[0]
            return attention_gate(
                first,
                **dict(zip(keys, found, strict=True)),
                activation=activation,
                residual=residual if i % 2 else None,
                relu=i > 1,
            )

        unused = [] if i % 2 else [leaves[-1]]
        for leaf in unused:
            leaf.requires_grad_(False)
        assert torch.autograd.gradcheck(run, leaves)


@pytest.mark.parametrize("ties", ["first", "equal"])
def test_gradcheck_of_statistics_and_of_channel_attention(ties):
    x = normal(2, 3, 4, 2).requires_grad_()
    for channel, spatial in ((("avg", "max"), ()), ((), ("avg", "max")), (("max",), ("max", "avg"))):

        def run(x, channel=channel, spatial=spatial):
            found = attention_pool(x, channel=channel, spatial=spatial, ties=ties)
            return tuple(v for v in found if v is not None)

        assert torch.autograd.gradcheck(run, (x,))
    weights = [
        w.requires_grad_() for w in (normal(2, 6), normal(2, seed=1), normal(3, 2, seed=2), normal(3, seed=3))
    ]
    both = {"statistics": ("avg", "max"), "ties": ties}
    assert torch.autograd.gradcheck(lambda *a: channel_attention(*a, **both), (x, *weights))
    shared = [normal(2, 3, seed=4).requires_grad_(), *weights[1:]]

    def streams(x, y, *weights):
        return channel_attention([x, y], *weights, **both, shared=True, residual=x, relu=True)

    assert torch.autograd.gradcheck(streams, (x, normal(2, 3, 4, 2, seed=5).requires_grad_(), *shared))


def test_gradcheck_of_the_whole():
    x, weight = normal(2, 3, 4, 2).requires_grad_(), normal(3, 3, seed=1).requires_grad_()

    def network(values, weight):
        row = values.channel_avg @ weight + values.channel_max
        return Gate(channel=row, spatial=values.spatial_avg * values.spatial_max, shift=row.square())

    def run(x, weight):
        everything = {"channel": ("avg", "max"), "spatial": ("avg", "max")}
        return spatial_channel_attention(x, lambda v: network(v, weight), **everything, residual=x)

    assert torch.autograd.gradcheck(run, (x, weight))


# Ties


def relued(dtype=torch.float32, layout=torch.contiguous_format):
    """Many zeros: whole channels, whole positions, single entries; and a plateau above zero."""
    x = normal(3, 20, 9, 7, dtype=dtype).relu()
    x[:, 4:9], x[:, :, 2], x[1] = 0, 0, x[1].round()
    x[2, 10] = 2
    return x.contiguous(memory_format=layout).requires_grad_()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.bfloat16], ids=str)
def test_ties_as_torch_breaks_them(dtype, layout):
    x = relued(dtype, layout)
    row, column = normal(3, 20, dtype=dtype, seed=1), normal(3, 1, 9, 7, dtype=dtype, seed=2)

    def grad(function):
        return torch.autograd.grad(function(x), x)[0]

    def of(name, weight, **kwargs):
        return grad(lambda x: (getattr(attention_pool(x, **kwargs), name) * weight).sum())

    first = grad(lambda x: (F.adaptive_max_pool2d(x, 1).flatten(1) * row).sum())
    assert torch.equal(of("channel_max", row, ties="first"), first)
    first = grad(lambda x: (x.max(1, keepdim=True).values * column).sum())
    assert torch.equal(of("spatial_max", column, channel=(), spatial=("max",)), first)
    even = {"rtol": 2 * torch.finfo(dtype).eps, "atol": 0}
    equal = grad(lambda x: (x.amax((2, 3)) * row).sum())
    torch.testing.assert_close(of("channel_max", row, ties="equal"), equal, **even)
    equal = grad(lambda x: (x.amax(1, keepdim=True) * column).sum())
    torch.testing.assert_close(
        of("spatial_max", column, channel=(), spatial=("max",), ties="equal"), equal, **even
    )


@pytest.mark.parametrize("ties", ["first", "equal"])
def test_ties_in_the_whole(ties, in_plain_torch):
    weights = [normal(2, 20, dtype=torch.float32, seed=1), None, normal(20, 2, dtype=torch.float32, seed=2)]
    kwargs = {"statistics": ("avg", "max"), "shared": True, "ties": ties}

    def grad():
        x = relued()
        channel_attention(x, *weights, **kwargs).square().sum().backward()
        return x.grad

    def composed():
        x = relued()
        network = Network(lambda v, w: Gate(v.channel_max * w, v.spatial_max), weights[2][:, 0].clone())
        spatial_channel_attention(x, network, spatial=("max",), ties=ties).square().sum().backward()
        return x.grad

    for step in (grad, composed):
        torch.testing.assert_close(step(), in_plain_torch(step), rtol=1e-5, atol=1e-6)
    other = "equal" if ties == "first" else "first"
    before, kwargs["ties"] = grad(), other
    assert not torch.allclose(before, grad())


# Bits


@by_name
def test_gradient_bits_for_any_thread_count_and_instruction_set(spec, restore_threads, restore_isa):
    best = ISAS.index(_C.best_isa().name)
    for dtype in (torch.float32, torch.bfloat16):
        for sample in spec.sample_inputs(dtype, "cpu", 11):
            if "infinite" in sample.name:
                continue
            for group in spec.same_bits:
                expected = None
                for isa in (name for name in group if ISAS.index(name) <= best):
                    for threads in (1, 2, 3):
                        _C.set_isa(isa)
                        torch.set_num_threads(threads)
                        got = gradients(spec, sample)
                        expected = got if expected is None else expected
                        for value, want in zip(got, expected, strict=True):
                            assert value is want is None or torch.equal(value, want), (
                                f"{sample.name} {isa} {threads}"
                            )


# Second derivatives


def test_a_second_derivative_is_refused():
    x, row = normal(2, 3, 4, 2).requires_grad_(), normal(3, 3, seed=1).requires_grad_()
    calls = {
        "attention_pool": lambda: attention_pool(x).channel_max,
        "attention_gate": lambda: attention_gate(x, channel=x.mean((2, 3)) @ row),
        "channel_attention": lambda: channel_attention(x, row),
        "attention_(pool|gate)": lambda: spatial_channel_attention(
            x, lambda v: Gate(channel=v.channel_avg @ row)
        ),
    }
    for name, call in calls.items():
        wanted = (x,) if name == "attention_pool" else (x, row)
        for i in range(len(wanted)):
            grads = torch.autograd.grad(call().square().sum(), wanted, create_graph=True)
            with pytest.raises(
                NotImplementedError, match=rf"{name}: second derivative: got .*, expected first"
            ):
                grads[i].sum().backward()


@pytest.mark.parametrize("ties", ["first", "equal"])
def test_the_reference_has_second_derivatives(ties):
    x, row = normal(2, 3, 2, 2).requires_grad_(), normal(2, 3, seed=1).requires_grad_()
    column = normal(2, 2, 2, seed=2).requires_grad_()
    gate = lambda *t: plain.gate([t[0]], [t[1]], [t[2]], None, None, None, "sigmoid", False)  # noqa: E731
    assert torch.autograd.gradgradcheck(gate, (x, row, column))
    pool = lambda x: plain.pool(x.square(), ("avg", "max"), ("avg", "max"), ties)  # noqa: E731
    assert torch.autograd.gradgradcheck(pool, (x,))
