# SPDX-License-Identifier: Apache-2.0
"""Work is queued on the current stream of the tensors' own device. A stream of its own stands for a second device: an
operator that used another stream would read what is not written yet."""

from __future__ import annotations

import pytest
import torch
from device_calls import problem, tensors

from fastreid_ops import (
    gnn_rerank,
    jaccard,
    k_reciprocal,
    nearest,
    pairwise_distance,
    rank_features,
    rank_metrics,
)
from fastreid_ops.ops.attention import attention_gate, attention_pool, channel_attention

CYCLES = 200_000_000  # a tenth of a second, and more
CALLS = {
    "pairwise_distance": lambda x, y: pairwise_distance(x, y, check_finite=False),
    "nearest, few": lambda x, y: nearest(x[:3], y, 5, check_finite=False),
    "nearest": lambda x, y: nearest(x, y, 5, check_finite=False),
    "nearest, cosine": lambda x, y: nearest(x, y, 5, metric="cosine"),
    "rank_features": lambda x, y: rank_features(x, y, *labels(x, y)),
    "rank_metrics": lambda x, y: rank_metrics(torch.cdist(x, y), *labels(x, y)),
    "k_reciprocal": lambda x, y: k_reciprocal(x, y, k1=8, k2=3),
    "jaccard": lambda x, y: jaccard(y, k1=8, k2=3),
    "gnn_rerank": lambda x, y: gnn_rerank(x, y, k1=8, k2=3),
    "attention_pool": lambda x, y: attention_pool(x.view(-1, 4, 4, 4), spatial=("avg", "max")),
    "attention_gate": lambda x, y: attention_gate(x.view(-1, 4, 4, 4), channel=x.view(-1, 4, 16)[..., 0]),
    "channel_attention": lambda x, y: channel_attention(x.view(-1, 4, 4, 4), y[:4, :4].contiguous()),
    "gradient of a gate": lambda x, y: _gradient(x),
    "gradient of a distance": lambda x, y: _distance_gradient(x, y),
}
by_name = pytest.mark.parametrize("name", CALLS)


def labels(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Person i for query i; the gallery holds each several times, under another camera."""
    people = torch.arange(len(x), device=x.device)
    own = torch.arange(len(y), device=x.device) % len(x)
    return people, own, torch.zeros_like(people), torch.ones_like(own)


def _gradient(x: torch.Tensor) -> torch.Tensor:
    leaf = x.view(-1, 4, 4, 4).detach().requires_grad_()
    return torch.autograd.grad(
        attention_gate(leaf, channel=attention_pool(leaf).channel_max).square().sum(), leaf
    )[0]


def _distance_gradient(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    leaf = x.detach().requires_grad_()
    return torch.autograd.grad(pairwise_distance(leaf, y, check_finite=False).sum(), leaf)[0]


def rows(seed: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(count, 64, generator=generator).to(device) for count in (24, 300))


def same(got: object, want: object) -> bool:
    return all(map(torch.equal, tensors(got), tensors(want)))


@by_name
def test_calls_and_their_comparison(name, device):
    """What the tests below rely on: the call gives the same bits again, and others for other rows."""
    call = CALLS[name]
    assert same(call(*rows(0, device)), call(*rows(0, device)))
    if name != "rank_metrics":  # integers of small problems may agree
        assert not same(call(*rows(0, device)), call(*rows(1, device)))


@by_name
def test_the_current_stream_is_used(gpu, name):
    """The rows are written on a side stream, late; the default stream never waits for it."""
    call, given = CALLS[name], rows(0, gpu)
    want = call(*given)
    late = tuple(torch.full_like(value, 0.5) for value in given)
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(CYCLES)
        for to, value in zip(late, given, strict=True):
            to.copy_(value)
        got = call(*late)
    side.synchronize()
    assert same(got, want)


@by_name
def test_two_streams_at_once(gpu, name):
    call = CALLS[name]
    given = [rows(seed, gpu) for seed in (0, 1)]
    want = [call(*value) for value in given]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in given]
    for _ in range(10):
        got = []
        for stream, value in zip(streams, given, strict=True):
            with torch.cuda.stream(stream):
                got.append(call(*value))
        torch.cuda.synchronize()
        assert all(map(same, got, want))


@by_name
def test_a_busy_default_stream_changes_nothing(gpu, name):
    """Work of the operator that went there would come after a long kernel, too late for the side stream's result."""
    call, given = CALLS[name], rows(2, gpu)
    want = call(*given)
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    torch.cuda._sleep(CYCLES)
    with torch.cuda.stream(side):
        got = call(*given)
    side.synchronize()
    assert same(got, want)


@by_name
def test_another_device_than_the_current_one(gpu, name):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs a second CUDA device")
    given = rows(0, "cuda:0")
    want = tensors(CALLS[name](*given))
    with torch.cuda.device(0):
        got = CALLS[name](*(value.to("cuda:1") for value in given))
    assert all(value.device.index == 1 for value in tensors(got))
    assert all(
        torch.equal(value.cpu(), expected.cpu()) for value, expected in zip(tensors(got), want, strict=True)
    )


def test_larger_searches_on_two_streams(gpu):
    """Kernels that are still running while the other stream's begin."""
    given = [problem(gpu, 300, size, 128) for size in (3000, 3100)]
    want = [nearest(*value[0], 9) for value in given]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in given]
    for _ in range(5):
        got = []
        for stream, value in zip(streams, given, strict=True):
            with torch.cuda.stream(stream):
                got.append(nearest(*value[0], 9, check_finite=False))
        torch.cuda.synchronize()
        assert all(map(same, got, want))
