# SPDX-License-Identifier: Apache-2.0
"""The layers of rivals/attention.py from our ops, with the rivals' own parameters; the calls that are measured; the
bytes that none could do without."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from rivals.attention import LAYERS
from torch import Tensor, nn

from fastreid_ops.ops.attention import Gate, Statistics, channel_attention, spatial_channel_attention


def _both(values: Statistics) -> Tensor:
    return torch.cat([values.channel_avg, values.channel_max], 1)


def _pool_and_gate(layer: nn.Module, x: Tensor) -> Tensor:
    return spatial_channel_attention(x, lambda values: Gate(channel=values.channel_avg + values.channel_max))


def _two_layers(layer: nn.Module, x: Tensor, **settings: object) -> Tensor:
    weights = (layer.fc1.weight, layer.fc1.bias, layer.fc2.weight, layer.fc2.bias)
    return channel_attention(
        x, *(None if w is None else w.flatten(1) if w.dim() > 2 else w for w in weights), **settings
    )


def _run197(layer: nn.Module, x: Tensor) -> Tensor:
    return _two_layers(layer, x, statistics=("avg", "max"))


def _run201(layer: nn.Module, x: Tensor) -> Tensor:
    return channel_attention(x, layer.fc.weight, layer.fc.bias, statistics=("avg", "max"))


def _run203(layer: nn.Module, x: Tensor) -> Tensor:
    return spatial_channel_attention(x, lambda values: Gate(channel=layer.network(_both(values))))


def _eca(layer: nn.Module, x: Tensor) -> Tensor:
    def network(values: Statistics) -> Gate:
        return Gate(channel=layer.conv(values.channel_avg[:, None]).squeeze(1))

    return spatial_channel_attention(x, network, channel=("avg",))


def _cbam_channel(layer: nn.Module, x: Tensor) -> Tensor:
    return _two_layers(layer, x, statistics=("avg", "max"), shared=True)


def _cbam_spatial(layer: nn.Module, x: Tensor) -> Tensor:
    def network(values: Statistics) -> Gate:
        return Gate(spatial=layer.conv(torch.cat([values.spatial_avg, values.spatial_max], 1)))

    return spatial_channel_attention(x, network, channel=(), spatial=("avg", "max"))


def _cbam(layer: nn.Module, x: Tensor) -> Tensor:
    return _cbam_spatial(layer.spatial, _cbam_channel(layer.channel, x))


def _osnet(layer: nn.Module, *maps: Tensor) -> Tensor:
    return _two_layers(layer, list(maps))


OURS: dict[str, Callable[..., Tensor]] = {
    "pool and gate": _pool_and_gate,
    "SE": _two_layers,
    "196": _two_layers,
    "197": _run197,
    "201": _run201,
    "203": _run203,
    "ECA": _eca,
    "CBAM channel": _cbam_channel,
    "CBAM spatial": _cbam_spatial,
    "CBAM": _cbam,
    "OSNet gate": _osnet,
}


class Case(NamedTuple):
    """A layer, its maps, and what comes from above."""

    layer: nn.Module
    maps: list[Tensor]
    grad: Tensor

    def forward(self, run: Callable[..., Tensor]) -> list[Tensor]:
        with torch.no_grad():
            return self._done([run(*self.maps)])

    def step(self, run: Callable[..., Tensor]) -> list[Tensor]:
        """The result and the gradients of maps and parameters."""
        result = run(*self.maps)
        grads = torch.autograd.grad(result, (*self.maps, *self.layer.parameters()), self.grad)
        return self._done([result.detach(), *grads])

    def _done(self, found: list[Tensor]) -> list[Tensor]:
        if self.grad.is_cuda:
            torch.cuda.synchronize()
        return found

    def floor_bytes(self, *, backward: bool) -> int:
        """Maps read and the result written once, parameters read once; backwards the maps and what comes from above
        read and the maps' gradients written once, parameters read and their gradients written. (2 N + P) e and
        (3 N + 2 P) e for one map."""
        parameters = sum(p.numel() for p in self.layer.parameters())
        streams, size = len(self.maps), self.grad.numel()
        count = (streams + 1) * size + parameters
        if backward:
            count += (2 * streams + 1) * size + 2 * parameters
        return count * self.grad.element_size()


def case(name: str, shape: Sequence[int], device: str = "cpu") -> Case:
    """float32. In training where the layer has batch statistics and the batch is no single image."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = LAYERS[name](shape[1]).to(device)
        tensors = [torch.randn(*shape, device=device) for _ in range(layer.streams + 1)]
    layer.train(shape[0] > 1)
    return Case(layer, [x.requires_grad_() for x in tensors[1:]], tensors[0])


def ours(name: str, layer: nn.Module) -> Callable[..., Tensor]:
    return lambda *maps: OURS[name](layer, *maps)


def same(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> None:
    """Float32 sums of some ten thousand terms in two orders."""
    for value, want in zip(ours, theirs, strict=True):
        assert value.shape == want.shape
        assert (value - want).abs().max() <= 2e-5 * (1 + want.abs().max())
