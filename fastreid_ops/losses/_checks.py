# SPDX-License-Identifier: Apache-2.0
"""Argument checks shared by the losses; messages read ``loss: argument: got X, expected Y``."""

from __future__ import annotations

import torch
from torch import Tensor


def rows_and_labels(loss: str, argument: str, rows: Tensor, labels: Tensor) -> None:
    """Refuse anything but a floating (B, D) tensor, B and D at least 1, with int64 labels (B,) on its device."""
    for name, value in ((argument, rows), ("labels", labels)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{loss}: {name}: got {type(value).__name__}, expected a torch.Tensor")
    if not rows.is_floating_point():
        raise TypeError(f"{loss}: {argument}: got {rows.dtype}, expected a floating dtype")
    if labels.dtype != torch.int64:
        raise TypeError(f"{loss}: labels: got {labels.dtype}, expected torch.int64")
    if rows.dim() != 2 or 0 in rows.shape:
        raise ValueError(
            f"{loss}: {argument}: got shape {tuple(rows.shape)}, expected (B, D), both at least 1"
        )
    if labels.shape != rows.shape[:1]:
        raise ValueError(f"{loss}: labels: got shape {tuple(labels.shape)}, expected ({rows.shape[0]},)")
    if labels.device != rows.device:
        raise ValueError(f"{loss}: labels: got device {labels.device}, expected {rows.device} of {argument}")


def class_labels(loss: str, logits: Tensor, labels: Tensor, *, check_range: bool) -> None:
    """`rows_and_labels`, and every label in 0..K - 1 for logits (B, K)."""
    rows_and_labels(loss, "logits", logits, labels)
    if check_range:
        low, high = (int(v) for v in torch.stack(labels.aminmax()).tolist())
        if low < 0 or high >= logits.shape[1]:
            got = low if low < 0 else high
            raise ValueError(
                f"{loss}: labels: got {got}, expected 0..{logits.shape[1] - 1} for {logits.shape[1]} classes; "
                "identities must be relabelled to 0..K - 1 (Manifest.label_map)"
            )
