# SPDX-License-Identifier: Apache-2.0
"""Arguments of the attention ops: refused in words, or brought into the one form the kernels take."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastreid_ops.ops import _checks as check
from fastreid_ops.ops._attention_reference import ACTIVATIONS, compute_dtype

STATISTICS = ("avg", "max")
TIES = ("first", "equal")
MOST_BRANCHES = 8


def feature_map(op: str, argument: str, x: object) -> Tensor:
    x = check.tensor(op, argument, x)
    check.floating(op, argument, x)
    check.rank(op, argument, x, 4, "(B, C, H, W)")
    for dim, what in ((1, "the channels"), (2, "the height"), (3, "the width")):
        check.not_empty(op, argument, x, dim, what)
    return x


def branches(op: str, x: object) -> tuple[list[Tensor], bool]:
    """The maps of one call, and whether a single tensor came."""
    if isinstance(x, Tensor):
        return [feature_map(op, "x", x)], True
    if not isinstance(x, (list, tuple)):
        return [feature_map(op, "x", x)], True  # raises
    if not 1 <= len(x) <= MOST_BRANCHES:
        raise ValueError(check.message(op, "x", f"{len(x)} maps", f"1 to {MOST_BRANCHES} maps"))
    maps = [feature_map(op, "x", one) for one in x]
    for one in maps[1:]:
        like(op, "x", one, maps[0], "the first map")
    return maps, False


def like(op: str, argument: str, value: object, x: Tensor, other: str = "x") -> Tensor:
    """A map of the shape, dtype and device of x."""
    value = check.tensor(op, argument, value)
    check.same_dtype(op, argument, value, other, x)
    check.same_device(op, argument, value, other, x)
    if value.shape != x.shape:
        raise ValueError(
            check.message(
                op, argument, f"shape {tuple(value.shape)}", f"{tuple(x.shape)}, the shape of {other}"
            )
        )
    return value


def statistics(op: str, argument: str, names: object, *, needed: bool = False) -> tuple[str, ...]:
    """Some of avg and max, without repetition."""
    if isinstance(names, str) or not isinstance(names, (list, tuple)):
        got = repr(names) if isinstance(names, str) else type(names).__name__
        raise TypeError(check.message(op, argument, got, "a tuple of avg and max"))
    for name in names:
        check.choice(op, argument, name, STATISTICS)
    if len(set(names)) != len(names):
        raise ValueError(check.message(op, argument, tuple(names), "no name twice"))
    if needed and not names:
        raise ValueError(check.message(op, argument, "()", "at least one of avg and max"))
    return tuple(names)


def activation(op: str, name: object) -> int:
    check.choice(op, "activation", name, ACTIVATIONS)
    return ACTIVATIONS.index(name)


def _logits(
    op: str, argument: str, value: object, x: Tensor, shapes: Sequence[tuple[int, ...]], words: str
) -> Tensor:
    value = check.tensor(op, argument, value)
    check.floating(op, argument, value)
    check.same_device(op, argument, value, "x", x)
    # Lengths first: tuples of unequal length compare entries too, and an exported batch must not be compared with C.
    if not any(value.dim() == len(shape) and tuple(value.shape) == shape for shape in shapes):
        raise ValueError(check.message(op, argument, f"shape {tuple(value.shape)}", words))
    return value


def channel_logits(op: str, argument: str, value: object, x: Tensor) -> Tensor:
    """(B, C) or (B, C, 1, 1) to (B, C), contiguous, in the compute dtype of x."""
    batch, channels = x.shape[:2]
    shapes = ((batch, channels), (batch, channels, 1, 1))
    words = f"{shapes[0]} or {shapes[1]}, one logit for each channel of x"
    value = _logits(op, argument, value, x, shapes, words)
    return value.reshape(batch, channels).to(compute_dtype(x)).contiguous()


def spatial_logits(op: str, argument: str, value: object, x: Tensor) -> Tensor:
    """(B, H, W) or (B, 1, H, W) to (B, H, W), contiguous, in the compute dtype of x."""
    batch, _, height, width = x.shape
    shapes = ((batch, height, width), (batch, 1, height, width))
    words = f"{shapes[0]} or {shapes[1]}, one logit for each position of x"
    value = _logits(op, argument, value, x, shapes, words)
    return value.reshape(batch, height, width).to(compute_dtype(x)).contiguous()


def shift_logits(op: str, argument: str, value: object, x: Tensor) -> Tensor:
    """(C,), (B, C) or (B, C, 1, 1) to (B, C), contiguous, in the compute dtype of x."""
    batch, channels = x.shape[:2]
    shapes = ((channels,), (batch, channels), (batch, channels, 1, 1))
    words = f"{shapes[0]}, {shapes[1]} or {shapes[2]}"
    value = _logits(op, argument, value, x, shapes, words)
    value = value.to(compute_dtype(x))
    return (
        value.expand(batch, channels) if value.dim() == 1 else value.reshape(batch, channels)
    ).contiguous()


def full_logits(op: str, argument: str, value: object, x: Tensor) -> Tensor:
    """(B, C, h, w) with h and w that divide H and W, in the dtype and memory order of x."""
    value = check.tensor(op, argument, value)
    check.floating(op, argument, value)
    check.same_device(op, argument, value, "x", x)
    batch, channels, height, width = x.shape
    fits = value.dim() == 4 and tuple(value.shape[:2]) == (batch, channels) and 0 not in value.shape[2:]
    if not fits or height % value.shape[2] or width % value.shape[3]:
        want = f"({batch}, {channels}, h, w) with h a divisor of {height} and w a divisor of {width}"
        raise ValueError(check.message(op, argument, f"shape {tuple(value.shape)}", want))
    return value.to(x.dtype).contiguous(memory_format=memory_format(x))


def each(
    op: str, argument: str, value: object, maps: Sequence[Tensor], single: bool, convert
) -> list[Tensor]:
    """The logits of every branch: one tensor for one map, a sequence for several."""
    if value is None:
        return []
    if single:
        return [convert(op, argument, value, maps[0])]
    if not isinstance(value, (list, tuple)):
        raise TypeError(
            check.message(op, argument, type(value).__name__, "a sequence, one entry for each map")
        )
    if len(value) != len(maps):
        raise ValueError(
            check.message(op, argument, f"{len(value)} entries", f"{len(maps)}, one for each map")
        )
    return [convert(op, argument, one, x) for one, x in zip(value, maps, strict=True)]


def memory_format(x: Tensor) -> torch.memory_format:
    """channels_last for a map that lies so and not otherwise, else contiguous."""
    if not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


def weights(
    op: str, values: Sequence[object], x: Tensor, inputs: int
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """weight1, bias1, weight2, bias2 in the compute dtype of x."""
    channels, dtype = x.shape[1], compute_dtype(x)
    weight1, bias1, weight2, bias2 = values

    def one(argument: str, value: object, *shape: int) -> Tensor:
        value = check.tensor(op, argument, value)
        check.floating(op, argument, value)
        check.same_device(op, argument, value, "x", x)
        # A first size of 0 stands for any. Words are made for refusals only: this runs at every step of a network.
        got = value.shape
        if len(got) != len(shape) or got[-1] != shape[-1] or got[0] == 0 or (shape[0] and got[0] != shape[0]):
            sizes = ", ".join(str(size) if size else "h" for size in shape)
            want = f"({sizes}{',' * (len(shape) == 1)}) for {channels} channels"
            raise ValueError(check.message(op, argument, f"shape {tuple(got)}", want))
        if value.dtype != dtype:
            value = value.to(dtype)
        return value.contiguous()

    first = one("weight1", weight1, 0 if weight2 is not None else channels, inputs)
    hidden = first.shape[0]
    first_bias = None if bias1 is None else one("bias1", bias1, hidden)
    if weight2 is None:
        if bias2 is not None:
            raise ValueError(check.message(op, "bias2", "a bias", "None without weight2"))
        return first, first_bias, None, None
    second = one("weight2", weight2, channels, hidden)
    second_bias = None if bias2 is None else one("bias2", bias2, channels)
    return first, first_bias, second, second_bias
