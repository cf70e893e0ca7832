# SPDX-License-Identifier: Apache-2.0
"""Every op of tests/ops/specs.py on a GPU against the float64 oracles on the CPU: each cell of variant, dtype and
layout, equal bits in every call, the integers of the CPU, and the gradients of attention. Where there is no GPU the
same harness runs on the CPU, in float32 and as tensors come."""

from __future__ import annotations

import pytest
import torch
from opspec import LAYOUTS, relayout
from specs import SPECS
from test_contract import largest_error

from fastreid_ops import _library, k_reciprocal, rank_features
from fastreid_ops.ops.attention import Gate, attention_gate, spatial_channel_attention
from fastreid_ops.ops.nearest import neighbours

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
DTYPES = FLOATS if DEVICE == "cuda" else FLOATS[:1]
HERE = LAYOUTS if DEVICE == "cuda" else LAYOUTS[:1]
by_spec = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))


def outputs(spec, sample) -> dict[str, torch.Tensor]:
    return {k: v.cpu() for k, v in spec.outputs(spec.fn(*sample.args, **sample.kwargs)).items()}


def check_values(spec, got, sample) -> None:
    """The 2x rule: twice the error of what people write in this dtype, and twice the units in the last place that the
    CPU is given, for an order of sums of its own."""
    want = spec.reference64(*sample.args, **sample.kwargs)
    naive = spec.naive(*sample.args, **sample.kwargs) if spec.naive else {}
    assert got.keys() == want.keys()
    for name, value in got.items():
        where = f"{sample.name}: {name}"
        if not value.dtype.is_floating_point:
            assert torch.equal(value, want[name]), where
            continue
        finite = want[name].double()[want[name].isfinite()].abs()
        scale = finite.max().item() if finite.numel() else 1.0
        limit = 2 * largest_error(naive[name], want[name]) if name in naive else 0.0
        floor = 2 * spec.ulps * torch.finfo(value.dtype).eps * scale
        assert largest_error(value, want[name]) <= limit + floor, where


@by_spec
@by_dtype
@pytest.mark.parametrize("layout", HERE)
def test_values_and_bits(spec, dtype, layout):
    if dtype not in spec.dtypes or layout not in spec.layouts:
        return
    for sample in spec.sample_inputs(dtype, "cpu", 6):
        # Laid out where it is used: moving a tensor may make it dense.
        there = sample.map(lambda value: relayout(value.to(DEVICE), layout))
        got, again = outputs(spec, there), outputs(spec, there)
        for name, value in got.items():
            where = f"{sample.name}: {name}"
            torch.testing.assert_close(value, again[name], rtol=0, atol=0, equal_nan=True, msg=where)
        check_values(spec, got, sample.map(lambda value: relayout(value, layout)))


@by_spec
@by_dtype
def test_integers_are_those_of_the_cpu(gpu, spec, dtype):
    for sample in spec.sample_inputs(dtype, "cpu", 7) if dtype in spec.dtypes else ():
        there = outputs(spec, sample.map(lambda value: value.to(gpu)))
        for name, want in outputs(spec, sample).items():
            if not want.dtype.is_floating_point:
                assert torch.equal(there[name], want), f"{sample.name}: {name}"


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("spread", [0.6, 4.0], ids=["trained", "untrained"])
def test_searches_are_those_of_the_cpu(device, pick, metric, spread):
    """At sizes of several tiles, slabs and chunks, with rows that occur twice."""
    queries, gallery, depth = pick((1500, 9000, 300), (20, 130, 40))
    generator = torch.Generator().manual_seed(3)
    people = torch.randn(gallery // 20 + 1, depth, generator=generator)
    sets = []
    for count in (queries, gallery):
        who = torch.randint(len(people), (count,), generator=generator)
        sets.append((people[who] + spread * torch.randn(count, depth, generator=generator), who))
    (query, query_pids), (rows, gallery_pids) = sets
    rows[1::7] = rows[::7][: len(rows[1::7])]
    cameras = [torch.randint(6, (len(side),), generator=generator) for side in (query, rows)]
    for k in (1, 50):
        here = neighbours(query, rows, k, metric=metric, farthest=True)
        there = neighbours(query.to(device), rows.to(device), k, metric=metric, farthest=True)
        assert torch.equal(there.indices.cpu(), here.indices)
        torch.testing.assert_close(there.squared.cpu(), here.squared, rtol=1e-14, atol=1e-14)
        torch.testing.assert_close(there.farthest.cpu(), here.farthest, rtol=1e-14, atol=1e-14)
    arguments = (query, rows, query_pids, gallery_pids, *cameras)
    here = rank_features(*arguments, metric=metric)
    there = rank_features(*(value.to(device) for value in arguments), metric=metric)
    for name in here._fields:
        if not getattr(here, name).dtype.is_floating_point:
            assert torch.equal(getattr(there, name).cpu(), getattr(here, name)), name
    torch.testing.assert_close(there.mAP.cpu(), here.mAP, rtol=1e-12, atol=0)


def test_rerank_is_that_of_the_cpu(device, pick):
    queries, gallery, depth = pick((300, 2500, 200), (15, 90, 20))
    rows = torch.randn(queries + gallery, depth, generator=torch.Generator().manual_seed(4)).relu()
    query, rows = rows[:queries], rows[queries:]
    here = k_reciprocal(query, rows)
    there = k_reciprocal(query.to(device), rows.to(device))
    torch.testing.assert_close(there.cpu(), here, rtol=1e-5, atol=1e-6)
    head = k_reciprocal(query.to(device), rows.to(device), top=10)
    order = torch.sort(there, dim=1, stable=True)
    assert torch.equal(head.indices, order.indices[:, :10])
    assert torch.equal(head.distances, order.values[:, :10])


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", [(2, 64, 24, 12), (3, 37, 7, 5), (1, 512, 24, 8)])
def test_gradients_of_attention(shape, channels_last):
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).relu().contiguous(memory_format=layout)
    spatial = torch.randn(shape[0], 1, *shape[2:], generator=torch.Generator().manual_seed(1))

    def step(device: str, dtype: torch.dtype) -> list[torch.Tensor]:
        leaves = [t.to(device, dtype).detach().requires_grad_() for t in (x, spatial)]
        gated = spatial_channel_attention(leaves[0], lambda s: Gate(channel=s.channel_avg - s.channel_max))
        result = attention_gate(gated, spatial=leaves[1], residual=leaves[0], relu=True)
        return [t.cpu().double() for t in (result, *torch.autograd.grad(result.square().sum(), leaves))]

    for got, want in zip(step(DEVICE, torch.float32), step("cpu", torch.float64), strict=True):
        assert largest_error(got, want) <= 1e-5 * want.abs().max().item()


def test_the_kernels_of_this_device_are_there():
    status = _library.status()
    assert status.cuda if DEVICE == "cuda" else status.native
