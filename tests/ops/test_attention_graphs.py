# SPDX-License-Identifier: Apache-2.0
"""The attention ops in graphs that are walked in unusual ways: in part, twice, one inside another, after a change; and
what they keep in memory."""

import gc
import weakref

import pytest
import torch

from fastreid_ops.ops.attention import (
    Gate,
    attention_gate,
    attention_pool,
    channel_attention,
    spatial_channel_attention,
)


def normal(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


class Network203(torch.nn.Module):
    """Two layers with batch normalisation between them."""

    def __init__(self, channels):
        super().__init__()
        self.first = torch.nn.Linear(2 * channels, 4, bias=False)
        self.norm = torch.nn.BatchNorm1d(4)
        self.second = torch.nn.Linear(4, channels, bias=False)

    def forward(self, values):
        statistics = torch.cat([values.channel_avg, values.channel_max], 1)
        return Gate(channel=self.second(self.norm(self.first(statistics)).relu()))


def module203(dtype=torch.float32):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Network203(6).to(dtype)


def test_parameters_of_a_module_and_its_batch_statistics(in_plain_torch):
    x, cotangent = normal(5, 6, 4, 3).requires_grad_(), normal(5, 6, 4, 3, seed=1)
    found = []
    for call in (lambda function: function(), in_plain_torch):
        network = module203(torch.float64)
        x.grad = None
        call(lambda n=network: spatial_channel_attention(x, n).backward(cotangent))
        assert network.norm.num_batches_tracked == 1
        found.append([x.grad, *(p.grad for p in network.parameters()), *network.norm.buffers()])
    for value, want in zip(*found, strict=True):
        torch.testing.assert_close(value, want, rtol=1e-12, atol=1e-12)
    assert all((p.grad != 0).any() for p in network.parameters())


def test_a_network_that_leaves_its_statistics_alone(in_plain_torch):
    x, row = normal(2, 6, 4, 3).requires_grad_(), normal(2, 6, seed=1).requires_grad_()

    def run():
        y = spatial_channel_attention(x, lambda _: Gate(channel=row), spatial=("max",))
        return torch.autograd.grad(y.square().sum(), (x, row))

    torch.testing.assert_close(run(), in_plain_torch(run))

    def constant():
        y = spatial_channel_attention(x, lambda _: Gate(channel=row.detach()))
        return torch.autograd.grad(y.square().sum(), x)

    torch.testing.assert_close(constant(), in_plain_torch(constant))


def test_backward_twice_through_one_graph():
    x, network = normal(2, 6, 4, 3).requires_grad_(), module203(torch.float64)
    y = spatial_channel_attention(x, network, residual=x, relu=True)
    first = torch.autograd.grad(y.sum(), (x, *network.parameters()), retain_graph=True)
    second = torch.autograd.grad(y.sum(), (x, *network.parameters()), retain_graph=True)
    assert all(map(torch.equal, first, second))
    doubled = torch.autograd.grad(2 * y.sum(), x)[0]
    torch.testing.assert_close(doubled, 2 * first[0])


def test_calls_that_overlap(in_plain_torch):
    x, z = normal(2, 6, 4, 3).requires_grad_(), normal(2, 6, 4, 3, seed=1).requires_grad_()

    def nested(values):
        """A network that calls the op on another map."""
        inner = spatial_channel_attention(z, lambda v: Gate(spatial=v.spatial_max), spatial=("max",))
        return Gate(channel=values.channel_avg + inner.mean((2, 3)))

    def run():
        first = spatial_channel_attention(x, nested)
        second = spatial_channel_attention(z, lambda v: Gate(channel=v.channel_max))
        third = spatial_channel_attention(first, lambda v: Gate(channel=v.channel_avg), residual=x)
        return torch.autograd.grad((second * 3 + third).square().sum() + first.sum(), (z, x))

    torch.testing.assert_close(run(), in_plain_torch(run))


def test_parts_of_a_graph(in_plain_torch):
    """The residual alone, the parameters alone, then a loss on the statistics alone, then everything."""
    x, residual = normal(2, 6, 4, 3).requires_grad_(), normal(2, 6, 4, 3, seed=1).requires_grad_()
    row = normal(2, 6, seed=2).requires_grad_()

    def run():
        kept = []

        def network(values):
            kept.append(values)
            return Gate(channel=values.channel_avg + values.channel_max * row)

        y = (
            spatial_channel_attention(x, network, spatial=("max",), residual=residual, relu=True)
            .square()
            .sum()
        )
        own = kept[0].channel_max.square().sum() + kept[0].spatial_max.sum()
        parts = [(y, (residual,)), (y, (row,)), (own, (x,)), (y + own, (x, row, residual)), (own, (x,))]
        return [torch.autograd.grad(loss, wanted, retain_graph=True) for loss, wanted in parts]

    torch.testing.assert_close(run(), in_plain_torch(run))


def test_only_the_network_wants_gradients(in_plain_torch):
    x = normal(3, 6, 4, 3)

    def run():
        network = module203(torch.float64)
        spatial_channel_attention(x, network).square().sum().backward()
        return [p.grad for p in network.parameters()]

    torch.testing.assert_close(run(), in_plain_torch(run))
    weight = normal(6, 6, seed=1).requires_grad_()

    def channel():
        return torch.autograd.grad(channel_attention(x, weight).square().sum(), weight)

    torch.testing.assert_close(channel(), in_plain_torch(channel))


def test_one_of_several_maps_wants_a_gradient(in_plain_torch):
    maps = [normal(2, 6, 4, 3, seed=i) for i in range(3)]
    maps[1].requires_grad_()
    weight = normal(6, 6, seed=4).requires_grad_()

    def run():
        own = channel_attention(maps, weight, residual=maps[0]).square().sum()
        network = lambda v: Gate(channel=v.channel_avg @ weight)  # noqa: E731
        whole = spatial_channel_attention(maps, network, channel=("avg",)).square().sum()
        return torch.autograd.grad(own + whole, (maps[1], weight))

    torch.testing.assert_close(run(), in_plain_torch(run))


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing(reentrant):
    x, network = normal(4, 6, 4, 3).requires_grad_(), module203(torch.float64).eval()
    want = torch.autograd.grad(spatial_channel_attention(x, network).square().sum(), x)[0]
    y = torch.utils.checkpoint.checkpoint(
        lambda x: spatial_channel_attention(x, network), x, use_reentrant=reentrant
    )
    y.square().sum().backward()
    assert torch.equal(x.grad, want)


def test_a_map_changed_in_place_before_backward_is_noticed():
    x = normal(2, 6, 4, 3).requires_grad_()
    inner = x * 1
    y = spatial_channel_attention(inner, lambda v: Gate(channel=v.channel_max))
    inner.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("backward", [False, True])
def test_nothing_is_kept_alive(backward):
    weights = [torch.randn(2, 6), None, torch.randn(6, 2)]
    calls = {
        "pool": lambda x: attention_pool(x, spatial=("avg", "max")).spatial_max,
        "gate": lambda x: attention_gate(x, channel=x.mean((2, 3))),
        "channel": lambda x: channel_attention(x, *weights),
        "whole": lambda x: spatial_channel_attention(x, lambda v: Gate(channel=v.channel_max)),
        "streams": lambda x: spatial_channel_attention([x, x], lambda v: Gate(channel=v.channel_max)),
    }
    gc.collect()
    gc.disable()
    try:
        for name, call in calls.items():
            x = torch.randn(2, 6, 4, 3).requires_grad_()
            inner = x * 1
            seen = [weakref.ref(x), weakref.ref(inner)]
            y = call(inner)
            if backward:
                y.sum().backward()
            del x, inner, y
            assert [ref() for ref in seen] == [None, None], name
    finally:
        gc.enable()
