# SPDX-License-Identifier: Apache-2.0
"""Argument checks shared by the ops: every refusal reads ``op: argument: got X, expected Y``.

Wrong kinds (type, dtype, layout) raise TypeError; wrong values (shape, device, range, content) raise
ValueError. Nothing here changes its argument.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)

_PLAIN = frozenset({Tensor, torch.nn.Parameter, torch.nn.Buffer})


def message(op: str, argument: str, got: object, expected: str) -> str:
    return f"{op}: {argument}: got {got}, expected {expected}"


def names(choices: Iterable[Any]) -> str:
    """'float32, float64 or bfloat16' from dtypes or strings."""
    words = [str(choice).removeprefix("torch.") for choice in choices]
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " or " + words[-1]


def _shape(value: Tensor) -> str:
    return "shape (" + ", ".join(str(size) for size in value.shape) + ")"


def tensor(op: str, argument: str, value: object) -> Tensor:
    """A dense, strided torch.Tensor (not a list or array, not sparse, nested, quantised or mkldnn)."""
    if not isinstance(value, Tensor):
        kind = type(value)
        got = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
        raise TypeError(message(op, argument, got, "a torch.Tensor"))
    if value.is_nested:
        raise TypeError(message(op, argument, "a nested tensor", "a dense tensor"))
    if value.layout != torch.strided:
        layout = str(value.layout).removeprefix("torch.")
        raise TypeError(message(op, argument, f"layout {layout}", "a dense (strided) tensor"))
    return value


def dtype(op: str, argument: str, value: Tensor, allowed: Sequence[torch.dtype]) -> None:
    if value.dtype not in allowed:
        raise TypeError(message(op, argument, str(value.dtype).removeprefix("torch."), names(allowed)))


def floating(op: str, argument: str, value: Tensor) -> None:
    dtype(op, argument, value, FLOATING)


def integers(op: str, argument: str, value: Tensor) -> None:
    """Any integer dtype; bool and floats are refused by name."""
    dtype(op, argument, value, INTEGERS)


def same_dtype(op: str, argument: str, value: Tensor, other: str, than: Tensor) -> None:
    if value.dtype != than.dtype:
        got, want = (str(t.dtype).removeprefix("torch.") for t in (value, than))
        raise TypeError(message(op, argument, got, f"{want}, the dtype of {other}"))


def same_device(op: str, argument: str, value: Tensor, other: str, than: Tensor) -> None:
    if value.device != than.device:
        raise ValueError(
            message(op, argument, f"device {value.device}", f"{than.device}, the device of {other}")
        )


def rank(op: str, argument: str, value: Tensor, dims: int, shape: str, *, or_more: bool = False) -> None:
    """``dims`` dimensions (at least, with ``or_more``); ``shape`` says them in words, for example "(Q,
    G)"."""
    if value.dim() != dims and not (or_more and value.dim() > dims):
        raise ValueError(
            message(op, argument, _shape(value), f"{shape}, {dims} dimensions{' or more' * or_more}")
        )


def size(op: str, argument: str, value: Tensor, dim: int, want: int, why: str) -> None:
    if value.shape[dim] != want:
        raise ValueError(message(op, argument, _shape(value), f"size {want} in dimension {dim}, {why}"))


def not_empty(op: str, argument: str, value: Tensor, dim: int, why: str) -> None:
    if value.shape[dim] == 0:
        raise ValueError(message(op, argument, _shape(value), f"at least 1 in dimension {dim}, {why}"))


def choice(op: str, argument: str, value: object, choices: Sequence[str]) -> None:
    if not isinstance(value, str):
        raise TypeError(message(op, argument, type(value).__name__, f"one of {names(choices)}"))
    if value not in choices:
        near = difflib.get_close_matches(value, choices, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(message(op, argument, repr(value), f"one of {names(choices)}{hint}"))


def positive_int(op: str, argument: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | torch.SymInt):
        raise TypeError(message(op, argument, type(value).__name__, "an int of at least 1"))
    if value < 1:
        raise ValueError(message(op, argument, value, "an int of at least 1"))


def flag(op: str, argument: str, value: object) -> None:
    if not isinstance(value, bool):
        raise TypeError(message(op, argument, type(value).__name__, "True or False"))


def has_values(value: Tensor) -> bool:
    """False where a tensor's content cannot be asked for: while compiling, on meta, under vmap, for fake
    tensors."""
    if torch.compiler.is_compiling() or value.is_meta:
        return False
    return type(value) in _PLAIN and not torch._C._functorch.is_functorch_wrapped_tensor(value)


def finite(op: str, argument: str, value: Tensor) -> None:
    """No NaN, no Inf; the error counts them and names the first row (all dimensions but the last)."""
    if value.numel() == 0 or not has_values(value):
        return
    value = value.detach()
    low, high = torch.aminmax(value)  # one read, no temporary; NaN wins over every number
    if bool(torch.isfinite(low) & torch.isfinite(high)):
        return
    nan, inf = int(torch.isnan(value).sum()), int(torch.isinf(value).sum())
    bad = ~torch.isfinite(value)
    rows = bad.any(-1) if value.dim() > 1 else bad
    first = tuple(rows.nonzero()[0].tolist())
    where = "row" if value.dim() > 1 else "entry"
    at = first[0] if len(first) == 1 else first
    got = f"{nan} NaN and {inf} Inf in {int(rows.sum())} {where}(s), first in {where} {at}"
    raise ValueError(
        message(op, argument, got, "finite numbers only (check_finite=False leaves this check out)")
    )


def finite_length(op: str, argument: str, value: Tensor) -> None:
    """Only float64 holds rows so long that the square of a distance is not a float64."""
    if value.dtype != torch.float64 or value.numel() == 0 or not has_values(value):
        return
    largest = float(value.detach().abs().amax())
    if largest * math.sqrt(value.shape[1]) > 1e153:
        got = f"entries up to {largest:.3g} in rows of {value.shape[1]}"
        raise ValueError(message(op, argument, got, "rows of a length up to 1e153, whose square is finite"))
