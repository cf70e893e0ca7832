# SPDX-License-Identifier: Apache-2.0
"""The attention ops and the distances in CUDA graphs: captured once, replayed on other values, the bits of a call."""

from __future__ import annotations

import pytest
import torch
from device_calls import CALLS, values


def forward(call, x: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        return [call(x)]


def step(call, x: torch.Tensor) -> list[torch.Tensor]:
    leaf = x.detach().requires_grad_()
    result = call(leaf)
    return [result.detach(), *torch.autograd.grad(result.square().sum(), leaf)]


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("way", [forward, step], ids=lambda way: way.__name__)
def test_the_call_alone(name, way, device):
    """What is captured below: finite, and another result for other values."""
    found = [way(CALLS[name], values(seed, device)) for seed in (0, 1)]
    assert all(value.isfinite().all() for value in found[0])
    assert not torch.equal(found[0][-1], found[1][-1])


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("way", [forward, step], ids=lambda way: way.__name__)
@pytest.mark.parametrize("channels_last", [False, True])
def test_capture_and_replay(gpu, name, way, channels_last):
    layout = torch.channels_last if channels_last else torch.contiguous_format
    given = values(0, gpu).contiguous(memory_format=layout)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            way(CALLS[name], given)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = way(CALLS[name], given)
    for seed in (1, 2, 1):
        given.copy_(values(seed, gpu))
        graph.replay()
        torch.cuda.synchronize()
        want = way(CALLS[name], given.clone(memory_format=torch.preserve_format))
        assert all(map(torch.equal, captured, want)), seed
