# SPDX-License-Identifier: Apache-2.0
"""The native attention operators: calls, shapes for tracing, first derivatives."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastreid_ops.ops._attention_checks import memory_format
from fastreid_ops.ops._attention_reference import ACTIVATIONS, compute_dtype

_ops = torch.ops.fastreid
_BITS = {"avg": 1, "max": 2}


def bits(statistics: Sequence[str]) -> int:
    return sum(_BITS[name] for name in statistics)


def dense(x: Tensor, like: Tensor | None = None) -> Tensor:
    """Contiguous or channels_last, whichever ``like`` (or x itself) is."""
    return x.contiguous(memory_format=memory_format(x if like is None else like))


def given(value: Tensor) -> Tensor | None:
    """An operator returns an empty tensor for what it was not asked for."""
    return value if value.numel() else None


def pool(
    x: Tensor, channel: Sequence[str], spatial: Sequence[str], ties: str
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """As `_attention_reference.pool`."""
    found = _ops.attention_pool(dense(x), bits(channel), bits(spatial), ties == "equal")
    wanted = ("avg" in channel, "max" in channel, "avg" in spatial, "max" in spatial)
    values = (found[0], found[1], found[3], found[4])
    return tuple(v.to(x.dtype) if want else None for v, want in zip(values, wanted, strict=True))


def gate(
    maps: Sequence[Tensor],
    channel: Sequence[Tensor],
    spatial: Sequence[Tensor],
    shift: Tensor | None,
    full: Tensor | None,
    residual: Tensor | None,
    activation: str,
    relu: bool,
) -> Tensor:
    """As `_attention_reference.gate`, every argument as `_attention_checks` leaves it."""
    first = dense(maps[0])
    maps = [first, *(dense(x, first) for x in maps[1:])]
    residual = None if residual is None else dense(residual, first)
    full = None if full is None else dense(full, first)
    kind = ACTIVATIONS.index(activation)
    return _ops.attention_apply(maps, list(channel), list(spatial), shift, full, residual, kind, relu)


def channel(
    maps: Sequence[Tensor],
    weights: tuple[Tensor, Tensor | None, Tensor | None, Tensor | None],
    statistics: Sequence[str],
    shared: bool,
    ties: str,
    residual: Tensor | None,
    activation: str,
    relu: bool,
) -> Tensor:
    first = dense(maps[0])
    maps = [first, *(dense(x, first) for x in maps[1:])]
    residual = None if residual is None else dense(residual, first)
    kind = ACTIVATIONS.index(activation)
    return _ops.channel_attention(
        maps, *weights, bits(statistics), shared, ties == "equal", residual, kind, relu
    )[0]


def through_relu(grad: Tensor, result: Tensor | None) -> Tensor:
    return grad if result is None else torch.ops.aten.threshold_backward(grad, result, 0)


# attention_pool


def _pool_context(ctx, inputs, output) -> None:
    x, ctx.channel, ctx.spatial, ctx.count_ties = inputs
    _, channel_max, channel_place, _, spatial_max, spatial_place = output
    ctx.mark_non_differentiable(channel_place, spatial_place)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, channel_max, channel_place, spatial_max, spatial_place)


def _pool_backward(ctx, channel_mean, channel_max, _cp, spatial_mean, spatial_max, _sp):
    x, row_max, channel_place, column_max, spatial_place = ctx.saved_tensors
    grads = [
        None if g is None or not g.numel() else g.contiguous()
        for g in (channel_mean, channel_max, spatial_mean, spatial_max)
    ]
    if not any(g is not None for g in grads):
        return (None if x.numel() else torch.empty_like(x)), None, None, None
    grad_x = _ops.attention_input(
        x, None, None, None, None, None, None, 0, *grads,
        channel_place, spatial_place, row_max, column_max, ctx.count_ties,
    )  # fmt: skip
    return grad_x, None, None, None


def _pool_fake(x: Tensor, channel: int, spatial: int, count_ties: bool):
    batch, channels, height, width = x.shape
    dtype = compute_dtype(x)
    row, column = (batch, channels), (batch, height, width)

    def one(wanted: int, shape: tuple[int, ...], kind: torch.dtype) -> Tensor:
        return x.new_empty(shape if wanted else (0,), dtype=kind)

    return tuple(
        one(wanted & bit, shape, kind)
        for wanted, shape in ((channel, row), (spatial, column))
        for bit, kind in ((1, dtype), (2, dtype), (2, torch.int32))
    )


# attention_apply


def _apply_context(ctx, inputs, output) -> None:
    maps, channel, spatial, shift, full, residual, ctx.activation, ctx.relu = inputs
    ctx.counts = len(maps), len(channel), len(spatial)
    ctx.residual = residual is not None
    kept = [*maps, *channel, *spatial, shift, full]
    ctx.save_for_backward(*kept, output if ctx.relu else None)


def _apply_backward(ctx, grad: Tensor):
    maps, channels, positions = ctx.counts
    saved = list(ctx.saved_tensors)
    result = saved.pop()
    full, shift = saved.pop(), saved.pop()
    xs, channel, spatial = saved[:maps], saved[maps : maps + channels], saved[maps + channels :]
    grad = dense(grad, xs[0])
    grads = []
    for i, x in enumerate(xs):
        own = (channel[i] if channels else None, spatial[i] if positions else None, shift, full)
        grads.append(_ops.attention_reduce(x, grad, result, *own, ctx.activation, True))
    return (
        [g[0] for g in grads],
        [g[1] for g in grads] if channels else [],
        [g[2] for g in grads] if positions else [],
        None if shift is None else grads[0][3],
        None if full is None else grads[0][4],
        through_relu(grad, result) if ctx.residual else None,
        None,
        None,
    )


def _apply_fake(maps, channel, spatial, shift, full, residual, activation, relu) -> Tensor:
    return torch.empty_like(maps[0], memory_format=memory_format(maps[0]))


def _reduce_fake(x, grad, result, channel, spatial, shift, full, activation, with_map):
    def like(value: Tensor | None, kind: torch.dtype) -> Tensor:
        return x.new_empty((0,), dtype=kind) if value is None else torch.empty_like(value)

    wide = compute_dtype(x)
    grad_x = torch.empty_like(x, memory_format=memory_format(x)) if with_map else x.new_empty((0,))
    return grad_x, like(channel, wide), like(spatial, wide), like(shift, wide), like(full, x.dtype)


def _input_fake(x, *_: object) -> Tensor:
    return torch.empty_like(x, memory_format=memory_format(x))


# channel_attention


def _channel_context(ctx, inputs, output) -> None:
    (maps, weight1, bias1, weight2, bias2, ctx.statistics, ctx.shared, ctx.count_ties, residual,
     ctx.activation, ctx.relu) = inputs  # fmt: skip
    result, statistics, place, hidden, logits = output
    ctx.mark_non_differentiable(statistics, place, hidden, logits)
    ctx.set_materialize_grads(False)
    ctx.residual, ctx.maps = residual is not None, len(maps)
    ctx.biases = bias1 is not None, bias2 is not None
    ctx.save_for_backward(
        *maps, weight1, bias1, weight2, bias2, result if ctx.relu else None, statistics, place, hidden, logits
    )


def _channel_backward(ctx, grad: Tensor | None, *_: object):
    if grad is None:
        return [None] * ctx.maps, *(None,) * 10
    xs, rest = ctx.saved_tensors[: ctx.maps], ctx.saved_tensors[ctx.maps :]
    weight1, bias1, weight2, bias2, result, statistics, place, hidden, logits = rest
    grad = dense(grad, xs[0])
    grad_maps, *grad_weights = _ops.channel_attention_backward(
        grad, list(xs), result, weight1, bias1, weight2, bias2, statistics, place, hidden, logits,
        ctx.statistics, ctx.shared, ctx.count_ties, ctx.activation, any(ctx.needs_input_grad[1:5]),
    )  # fmt: skip
    wanted = (weight1, bias1, weight2, bias2)
    grad_weights = [
        g if w is not None and g.numel() else None for g, w in zip(grad_weights, wanted, strict=True)
    ]
    through = through_relu(grad, result) if ctx.residual else None
    return grad_maps, *grad_weights, None, None, None, through, None, None


def _channel_fake(
    maps, weight1, bias1, weight2, bias2, statistics, shared, count_ties, residual, activation, relu
):
    x = maps[0]
    rows, channels, dtype = len(maps) * x.shape[0], x.shape[1], weight1.dtype
    maximum = bool(statistics & 2)
    width = channels * ((statistics & 1) + maximum)
    hidden = (0,) if weight2 is None else (rows, (2 if shared else 1) * weight1.shape[0])
    return (
        torch.empty_like(x, memory_format=memory_format(x)),
        x.new_empty((rows, width), dtype=dtype),
        x.new_empty((rows, channels) if maximum else (0,), dtype=torch.int32),
        x.new_empty(hidden, dtype=dtype),
        x.new_empty((rows, channels), dtype=dtype),
    )


def _channel_backward_fake(grad, maps, result, weight1, bias1, weight2, bias2, *rest):
    wanted = rest[-1]

    def like(value: Tensor | None) -> Tensor:
        return (
            torch.empty_like(value)
            if wanted and value is not None
            else grad.new_empty((0,), dtype=weight1.dtype)
        )

    grad_maps = [torch.empty_like(x, memory_format=memory_format(x)) for x in maps]
    return grad_maps, *(like(w) for w in (weight1, bias1, weight2, bias2))


def _no_second_derivative(name: str):
    def refuse(ctx, *grads: object) -> None:
        raise NotImplementedError(
            f"{name}: second derivative: got a gradient of its gradient, expected first derivatives only "
            "(fastreid_ops.ops._attention_reference can be differentiated any number of times)"
        )

    return refuse


def _register() -> None:
    library = torch.library
    fakes = {
        "attention_pool": _pool_fake,
        "attention_apply": _apply_fake,
        "attention_reduce": _reduce_fake,
        "attention_input": _input_fake,
        "channel_attention": _channel_fake,
        "channel_attention_backward": _channel_backward_fake,
    }
    for name, fake in fakes.items():
        library.register_fake(f"fastreid::{name}", fake)
    library.register_autograd("fastreid::attention_pool", _pool_backward, setup_context=_pool_context)
    library.register_autograd("fastreid::attention_apply", _apply_backward, setup_context=_apply_context)
    library.register_autograd(
        "fastreid::channel_attention", _channel_backward, setup_context=_channel_context
    )
    # Without these a second derivative would be wrong with a warning.
    for backward, name in (
        ("attention_reduce", "attention_gate"),
        ("attention_input", "attention_pool"),
        ("channel_attention_backward", "channel_attention"),
    ):
        library.register_autograd(f"fastreid::{backward}", _no_second_derivative(name))


_register()
