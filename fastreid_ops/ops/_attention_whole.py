# SPDX-License-Identifier: Apache-2.0
"""Statistics, any network, gate: with the gradient of the map made in one place.

Two autograd nodes around the network. Backwards the gate's node runs first; it makes the gradients of the logits and
leaves what came from above with the link. The network's own graph carries on from there to the statistics, whose node
then has everything the gradient of the map is made of. A token, an empty tensor from the first node to the second,
keeps the order where a network does not use its statistics.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastreid_ops.ops import _attention_autograd as native
from fastreid_ops.ops import _attention_checks as own
from fastreid_ops.ops._attention_reference import ACTIVATIONS

_ops = torch.ops.fastreid


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(ctx, link: Link, index: int, x: Tensor, channel: int, spatial: int, count_ties: bool):
        found = _ops.attention_pool(x, channel, spatial, count_ties)
        ctx.link, ctx.index, ctx.count_ties = link, index, count_ties
        ctx.save_for_backward(x, found[1], found[2], found[4], found[5])
        ctx.set_materialize_grads(False)
        return found[0], found[1], found[3], found[4], x.new_empty(0)

    @staticmethod
    def backward(ctx, *grads):
        x, channel_max, channel_place, spatial_max, spatial_place = ctx.saved_tensors
        *grads, token = grads
        # Without a token this pass never came by the gate: the statistics went somewhere else too.
        grad, result, *gate = ctx.link.take(ctx.index) if token is not None else (None,) * 6 + (0,)
        statistics = [None if g is None or not g.numel() else g.contiguous() for g in grads]
        places = (channel_place, spatial_place, channel_max, spatial_max)
        grad_x = _ops.attention_input(x, grad, result, *gate, *statistics, *places, ctx.count_ties)
        return None, None, grad_x, None, None, None


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, link: Link, activation: int, relu: bool, counts, residual, shift, full, *tensors):
        _, channels, positions = counts
        ctx.link, ctx.activation, ctx.counts = link, activation, counts
        ctx.residual = residual is not None
        xs = [entry.detach() for entry in link.maps]
        channel, spatial = list(tensors[:channels]), list(tensors[channels : channels + positions])
        result = _ops.attention_apply(xs, channel, spatial, shift, full, residual, activation, relu)
        ctx.save_for_backward(*xs, *channel, *spatial, shift, full, result if relu else None)
        return result

    @staticmethod
    def backward(ctx, grad):
        maps, channels, positions = ctx.counts
        saved = list(ctx.saved_tensors)
        result, full, shift = saved.pop(), saved.pop(), saved.pop()
        xs, channel, spatial = saved[:maps], saved[maps : maps + channels], saved[maps + channels :]
        grad = native.dense(grad, xs[0])
        found = []
        for i, x in enumerate(xs):
            gate = (channel[i] if channels else None, spatial[i] if positions else None, shift, full)
            found.append(_ops.attention_reduce(x, grad, result, *gate, ctx.activation, False))
            ctx.link.leave(i, (grad, result, *gate, ctx.activation))
        tokens = [grad.new_empty(0)] * maps
        return (
            None,
            None,
            None,
            None,
            native.through_relu(grad, result) if ctx.residual else None,
            None if shift is None else found[0][3],
            None if full is None else found[0][4],
            *(f[1] for f in found[:channels]),
            *(f[2] for f in found[:positions]),
            *tokens,
        )


class Link:
    """One call of `spatial_channel_attention` that records a gradient: ``pool`` once for each map, then ``gate``."""

    def __init__(self) -> None:
        self.maps: list[Tensor] = []
        self._tokens: list[Tensor] = []
        self._left: dict[int, tuple[object, ...]] = {}

    def leave(self, index: int, value: tuple[object, ...]) -> None:
        self._left[index] = value

    def take(self, index: int) -> tuple[object, ...]:
        return self._left.pop(index)

    def pool(
        self, x: Tensor, channel: Sequence[str], spatial: Sequence[str], ties: str
    ) -> tuple[Tensor | None, ...]:
        """As `_attention_autograd.pool`."""
        x = native.dense(x, self.maps[0] if self.maps else None)
        *values, token = _Pool.apply(
            self, len(self.maps), x, native.bits(channel), native.bits(spatial), ties == "equal"
        )
        self.maps.append(x)
        self._tokens.append(token)
        wanted = ("avg" in channel, "max" in channel, "avg" in spatial, "max" in spatial)
        return tuple(v.to(x.dtype) if want else None for v, want in zip(values, wanted, strict=True))

    def gate(self, maps, channel, spatial, shift, full, residual, activation: str, relu: bool) -> Tensor:
        """As `_attention_autograd.gate`; ``maps`` are those that ``pool`` was called with."""
        first = self.maps[0]
        residual = None if residual is None else native.dense(residual, first)
        full = None if full is None else full.contiguous(memory_format=own.memory_format(first))
        counts = (len(self.maps), len(channel), len(spatial))
        kind = ACTIVATIONS.index(activation)
        result = _Gate.apply(
            self, kind, relu, counts, residual, shift, full, *channel, *spatial, *self._tokens
        )
        self.maps.clear()  # else the nodes and the link would keep each other alive
        self._tokens.clear()
        return result
