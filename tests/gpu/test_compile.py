# SPDX-License-Identifier: Apache-2.0
"""torch.compile around the operators on a GPU, with its own kernels before and after ours; on the CPU tests/ops has the
same."""

from __future__ import annotations

import pytest
import torch
from device_calls import CALLS, values

from fastreid_ops import nearest


def changed(call):
    return lambda x: call(x * 2 + 1).tanh()


def step(function, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    leaf = x.detach().requires_grad_()
    result = function(leaf)
    return result.detach(), *torch.autograd.grad(result.square().sum(), leaf)


@pytest.mark.parametrize("name", CALLS)
def test_compiled_with_gradient(gpu, name):
    torch._dynamo.reset()
    function = changed(CALLS[name])
    compiled = torch.compile(function, fullgraph=True)
    for seed in (0, 1):
        given = values(seed, gpu)
        for got, want in zip(step(compiled, given), step(function, given), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_compiled_for_any_size(gpu):
    torch._dynamo.reset()
    compiled = torch.compile(changed(CALLS["whole"]), fullgraph=True, dynamic=True)
    for batch in (2, 3, 7):
        given = values(0, gpu)[:1].repeat(batch, 1, 1, 1)
        want = changed(CALLS["whole"])(given)
        torch.testing.assert_close(compiled(given), want, rtol=1e-4, atol=1e-5)


def test_reduced_overhead(gpu):
    """mode="reduce-overhead" captures what it compiled in graphs of its own."""
    torch._dynamo.reset()
    function = changed(CALLS["channel gate"])
    compiled = torch.compile(function, fullgraph=True, mode="reduce-overhead")
    for seed in range(4):
        given = values(seed, gpu)
        torch.testing.assert_close(compiled(given).clone(), function(given), rtol=1e-4, atol=1e-5)


def test_search(gpu):
    torch._dynamo.reset()

    def indices(x: torch.Tensor) -> torch.Tensor:
        return nearest(x, x, 3, check_finite=False).indices + 1

    x = values(0, gpu).flatten(1)
    assert torch.equal(torch.compile(indices, fullgraph=True)(x), indices(x))
