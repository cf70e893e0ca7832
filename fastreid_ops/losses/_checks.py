# SPDX-License-Identifier: Apache-2.0
"""Argument checks of the losses, on those of the ops; messages read ``loss: argument: got X, expected Y``.

What looks at the content of labels (`class_range`, `two_identities`, `every_row`) is left out where there is none to
look at: under torch.compile, torch.export and vmap, and on the meta device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fastreid_ops.ops import _checks as ops

tensor, same_device, has_values = ops.tensor, ops.same_device, ops.has_values


def number(
    loss: str,
    argument: str,
    value: float,
    *,
    at_least: float | None = None,
    above: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
    or_word: str | None = None,
) -> float:
    """A finite number inside the limits, as float; a bool, a tensor or a word is none."""
    word = f" or {or_word!r}" if or_word else ""
    if isinstance(value, bool) or not isinstance(value, (int, float, str) if or_word else (int, float)):
        raise TypeError(ops.message(loss, argument, type(value).__name__, f"a number{word}"))
    limits = (
        ("of at least", at_least, lambda v, limit: v >= limit),
        ("above", above, lambda v, limit: v > limit),
        ("below", below, lambda v, limit: v < limit),
        ("of at most", at_most, lambda v, limit: v <= limit),
    )
    inside = (
        not isinstance(value, str)
        and math.isfinite(value)
        and all(limit is None or holds(value, limit) for _, limit, holds in limits)
    )
    if not inside:
        text = " and ".join(f"{name} {limit:g}" for name, limit, _ in limits if limit is not None)
        raise ValueError(
            ops.message(loss, argument, repr(value), f"a finite number{text and f' {text}'}{word}")
        )
    return float(value)


def margin_or_soft(loss: str, value: float | str) -> float | str:
    """A margin of at least 0, or the word 'soft'."""
    if isinstance(value, str) and value == "soft":
        return value
    return number(loss, "margin", value, at_least=0, or_word="soft")


def count(loss: str, argument: str, value: int) -> int:
    """An int of at least 1."""
    ops.positive_int(loss, argument, value)
    return value


def choice(loss: str, argument: str, value: str, choices: Sequence[str]) -> str:
    """One of the words."""
    ops.choice(loss, argument, value, choices)
    return value


def flag(loss: str, argument: str, value: bool) -> bool:
    """True or False; the word 'false' of a configuration file is neither."""
    ops.flag(loss, argument, value)
    return value


def floating(loss: str, argument: str, value: Tensor) -> None:
    """A dense floating tensor."""
    ops.tensor(loss, argument, value)
    ops.floating(loss, argument, value)


def rows(loss: str, argument: str, value: Tensor) -> None:
    """A dense floating (B, D) tensor, B and D at least 1."""
    floating(loss, argument, value)
    if value.dim() != 2 or 0 in value.shape:
        raise ValueError(
            ops.message(loss, argument, f"shape {tuple(value.shape)}", "(B, D), both at least 1")
        )


def like(loss: str, argument: str, value: Tensor, other: Tensor, of: str) -> None:
    """`rows`, of the shape and on the device of another argument."""
    rows(loss, argument, value)
    if value.shape != other.shape:
        raise ValueError(
            ops.message(loss, argument, f"shape {tuple(value.shape)}", f"{tuple(other.shape)}, that of {of}")
        )
    same_device(loss, argument, value, of, other)


def width(loss: str, argument: str, value: Tensor, state: Tensor, size: int, of: str) -> None:
    """Rows of the width of a module's own tensor, on its device."""
    if value.shape[1] != size:
        raise ValueError(ops.message(loss, argument, f"width {value.shape[1]}", f"{size}, that of {of}"))
    same_device(loss, argument, value, of, state)


def rows_and_labels(
    loss: str, argument: str, value: Tensor, labels: Tensor, *, labels_name: str = "labels"
) -> None:
    """`rows`, with int64 labels (B,) on the same device."""
    rows(loss, argument, value)
    ops.tensor(loss, labels_name, labels)
    ops.dtype(loss, labels_name, labels, (torch.int64,))
    if labels.shape != value.shape[:1]:
        raise ValueError(
            ops.message(loss, labels_name, f"shape {tuple(labels.shape)}", f"({value.shape[0]},)")
        )
    same_device(loss, labels_name, labels, argument, value)


def class_range(loss: str, argument: str, labels: Tensor, classes: int) -> None:
    """Every label in 0..classes - 1."""
    if not ops.has_values(labels):
        return
    low, high = (int(v) for v in torch.stack(labels.aminmax()).tolist())
    if low < 0 or high >= classes:
        want = (
            f"0..{classes - 1} for {classes} classes; identities must be relabelled to 0..K - 1 "
            "(Manifest.label_map)"
        )
        raise ValueError(ops.message(loss, argument, low if low < 0 else high, want))


def class_labels(loss: str, argument: str, logits: Tensor, labels: Tensor, *, check_range: bool) -> None:
    """`rows_and_labels`, and every label in 0..K - 1 for logits (B, K)."""
    rows_and_labels(loss, argument, logits, labels)
    if check_range:
        class_range(loss, "labels", labels, logits.shape[1])


def two_identities(loss: str, labels: Tensor) -> None:
    """At least two different labels."""
    if ops.has_values(labels) and bool((labels == labels[0]).all()):
        want = "at least 2; draw batches of P identities x K images with P of at least 2"
        raise ValueError(ops.message(loss, "labels", f"one identity in a batch of {len(labels)}", want))


def finite(loss: str, argument: str, value: Tensor) -> None:
    """No NaN and no Inf in a (B, D) tensor; the message names the first row that holds one and their number."""
    if ops.has_values(value) and not bool(value.detach().isfinite().all()):
        bad = (~value.detach().isfinite()).any(1).nonzero().flatten()
        got = f"NaN or Inf in {len(bad)} of {len(value)} rows (the first is row {int(bad[0])})"
        raise ValueError(ops.message(loss, argument, got, "finite numbers"))


def every_row(loss: str, argument: str, holds: Tensor, expected: str) -> None:
    """True in every row of a bool (B,) tensor; the message names the first row that fails and their number."""
    if ops.has_values(holds) and not bool(holds.all()):
        failing = (~holds).nonzero().flatten()
        got = f"{len(failing)} of {len(holds)} rows without {expected} (the first is row {int(failing[0])})"
        raise ValueError(ops.message(loss, argument, got, "one for every row"))
