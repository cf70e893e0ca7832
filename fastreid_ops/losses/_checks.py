# SPDX-License-Identifier: Apache-2.0
"""Argument checks shared by the losses; messages read ``loss: argument: got X, expected Y``."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


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
        raise TypeError(f"{loss}: {argument}: got {type(value).__name__}, expected a number{word}")
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
            f"{loss}: {argument}: got {value!r}, expected a finite number{text and f' {text}'}{word}"
        )
    return float(value)


def margin_or_soft(loss: str, value: float | str) -> float | str:
    """A margin of at least 0, or the word 'soft'."""
    if isinstance(value, str) and value == "soft":
        return value
    return number(loss, "margin", value, at_least=0, or_word="soft")


def count(loss: str, argument: str, value: int) -> int:
    """An int of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{loss}: {argument}: got {type(value).__name__}, expected an int")
    if value < 1:
        raise ValueError(f"{loss}: {argument}: got {value}, expected an int of at least 1")
    return value


def choice(loss: str, argument: str, value: str, choices: Sequence[str]) -> str:
    """One of the words."""
    if value not in choices:
        raise ValueError(f"{loss}: {argument}: got {value!r}, expected one of {', '.join(choices)}")
    return value


def rows(loss: str, argument: str, value: Tensor) -> None:
    """A floating (B, D) tensor, B and D at least 1."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{loss}: {argument}: got {type(value).__name__}, expected a torch.Tensor")
    if not value.is_floating_point():
        raise TypeError(f"{loss}: {argument}: got {value.dtype}, expected a floating dtype")
    if value.dim() != 2 or 0 in value.shape:
        raise ValueError(
            f"{loss}: {argument}: got shape {tuple(value.shape)}, expected (B, D), both at least 1"
        )


def like(loss: str, argument: str, value: Tensor, other: Tensor, of: str) -> None:
    """`rows`, of the shape and on the device of another argument."""
    rows(loss, argument, value)
    if value.shape != other.shape:
        raise ValueError(
            f"{loss}: {argument}: got shape {tuple(value.shape)}, expected {tuple(other.shape)}, that of {of}"
        )
    same_device(loss, argument, value, other, of)


def same_device(loss: str, argument: str, value: Tensor, other: Tensor, of: str) -> None:
    """The device of another argument."""
    if value.device != other.device:
        raise ValueError(f"{loss}: {argument}: got device {value.device}, expected {other.device} of {of}")


def rows_and_labels(
    loss: str, argument: str, value: Tensor, labels: Tensor, *, labels_name: str = "labels"
) -> None:
    """`rows`, with int64 labels (B,) on the same device."""
    if not isinstance(labels, Tensor):
        raise TypeError(f"{loss}: {labels_name}: got {type(labels).__name__}, expected a torch.Tensor")
    rows(loss, argument, value)
    if labels.dtype != torch.int64:
        raise TypeError(f"{loss}: {labels_name}: got {labels.dtype}, expected torch.int64")
    if labels.shape != value.shape[:1]:
        raise ValueError(
            f"{loss}: {labels_name}: got shape {tuple(labels.shape)}, expected ({value.shape[0]},)"
        )
    same_device(loss, labels_name, labels, value, argument)


def class_range(loss: str, argument: str, labels: Tensor, classes: int) -> None:
    """Every label in 0..classes - 1."""
    low, high = (int(v) for v in torch.stack(labels.aminmax()).tolist())
    if low < 0 or high >= classes:
        got = low if low < 0 else high
        raise ValueError(
            f"{loss}: {argument}: got {got}, expected 0..{classes - 1} for {classes} classes; "
            "identities must be relabelled to 0..K - 1 (Manifest.label_map)"
        )


def class_labels(loss: str, logits: Tensor, labels: Tensor, *, check_range: bool) -> None:
    """`rows_and_labels`, and every label in 0..K - 1 for logits (B, K)."""
    rows_and_labels(loss, "logits", logits, labels)
    if check_range:
        class_range(loss, "labels", labels, logits.shape[1])


def two_identities(loss: str, labels: Tensor) -> None:
    """At least two different labels."""
    if bool((labels == labels[0]).all()):
        raise ValueError(
            f"{loss}: labels: got one identity in a batch of {len(labels)}, expected at least 2; "
            "draw batches of P identities x K images with P of at least 2"
        )


def every_row(loss: str, argument: str, holds: Tensor, expected: str) -> None:
    """True in every row of a bool (B,) tensor; the message names the first row that fails and their number."""
    if not bool(holds.all()):
        failing = (~holds).nonzero().flatten()
        raise ValueError(
            f"{loss}: {argument}: got {len(failing)} of {len(holds)} rows without {expected} "
            f"(the first is row {int(failing[0])}), expected one for every row"
        )
