# SPDX-License-Identifier: Apache-2.0
"""Equal bits in a hundred calls on a GPU, with other work in between: what moves between calls is a race."""

from __future__ import annotations

import pytest
import torch
from device_calls import problem, tensors
from specs import SPECS

from fastreid_ops import gnn_rerank, jaccard, k_reciprocal, nearest, pairwise_distance, rank_features
from fastreid_ops.ops.attention import attention_gate, attention_pool


def assert_same_bits(call, times: int, device: str, where: str) -> None:
    want = tensors(call())
    assert want, where
    for turn in range(1, times):
        # Blocks arrive at another moment each time, and memory that is handed out again holds something else.
        torch.randn(1 + 997 * (turn % 13), device=device).fill_(float("nan"))
        got = tensors(call())
        assert len(got) == len(want)
        assert all(map(torch.equal, got, want)), f"{where}, call {turn + 1}"


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_samples(spec, device, pick):
    """One sample of each variant, in each dtype."""
    for dtype in pick(spec.dtypes, spec.dtypes[:1]):
        first = {}
        for sample in spec.sample_inputs(dtype, "cpu", 8):
            first.setdefault(sample.name.split("/")[0], sample)
        for sample in first.values():
            there = sample.map(lambda value: value.to(device))

            def call(sample=there):
                found = spec.outputs(spec.fn(*sample.args, **sample.kwargs))
                return tuple(found[name] for name in sorted(found))

            assert_same_bits(call, pick(20, 2), device, f"{sample.name} {dtype}")


SEARCHES = {
    "nearest": lambda rows, who, cameras: nearest(rows[0], rows[1], 20),
    "all among all": lambda rows, who, cameras: nearest(rows[1], rows[1], 20, exclude_self=True),
    "rank_features": lambda rows, who, cameras: rank_features(*rows, *who, *cameras),
    "k_reciprocal": lambda rows, who, cameras: k_reciprocal(*rows),
    "k_reciprocal, first": lambda rows, who, cameras: k_reciprocal(*rows, top=30),
    "jaccard": lambda rows, who, cameras: jaccard(rows[1]),
    "gnn_rerank": lambda rows, who, cameras: gnn_rerank(*rows),
    "pairwise_distance": lambda rows, who, cameras: pairwise_distance(*rows),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_searches(name, device, pick):
    given = problem(device, *pick((400, 4000, 256), (9, 70, 16)))
    assert_same_bits(lambda: SEARCHES[name](*given), pick(100, 2), device, name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_attention_with_its_gradients(dtype, device, pick):
    x = torch.randn(pick((16, 256, 24, 12), (2, 8, 4, 3)), device=device).to(dtype).requires_grad_()
    spatial = torch.randn(len(x), 1, *x.shape[2:], device=device).to(dtype).requires_grad_()
    above = torch.randn_like(x)

    def step():
        found = attention_pool(x, channel=("avg", "max"), spatial=("avg", "max"))
        gated = attention_gate(
            x, channel=found.channel_avg + found.channel_max, spatial=spatial + found.spatial_max
        )
        return gated, *torch.autograd.grad(gated, (x, spatial), above)

    assert_same_bits(step, pick(100, 3), device, str(dtype))
