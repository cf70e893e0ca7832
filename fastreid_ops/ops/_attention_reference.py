# SPDX-License-Identifier: Apache-2.0
"""The attention ops in plain torch: the specification, what other devices run, what an ONNX export records."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

ACTIVATIONS = ("sigmoid", "relu", "linear", "sigmoid_relu")


def compute_dtype(x: Tensor) -> torch.dtype:
    """What sums and gates are carried in: float64 for float64, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def pool(
    x: Tensor, channel: Sequence[str], spatial: Sequence[str], ties: str
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Mean and maximum over H and W (B, C), over C (B, H, W), in the dtype of x; None where not asked for."""
    wide = x.to(compute_dtype(x))
    flat = wide.flatten(2)

    def maximum(values: Tensor, dim: int) -> Tensor:
        return values.amax(dim) if ties == "equal" else values.max(dim).values

    return (
        flat.mean(2).to(x.dtype) if "avg" in channel else None,
        maximum(flat, 2).to(x.dtype) if "max" in channel else None,
        wide.mean(1).to(x.dtype) if "avg" in spatial else None,
        maximum(wide, 1).to(x.dtype) if "max" in spatial else None,
    )


def activate(logits: Tensor, activation: str) -> Tensor:
    if activation == "sigmoid":
        return torch.sigmoid(logits)
    if activation == "relu":
        return torch.relu(logits)
    if activation == "sigmoid_relu":
        return torch.sigmoid(torch.relu(logits))
    return logits


def gate(
    xs: Sequence[Tensor],
    channel: Sequence[Tensor],
    spatial: Sequence[Tensor],
    shift: Tensor | None,
    full: Tensor | None,
    residual: Tensor | None,
    activation: str,
    relu: bool,
) -> Tensor:
    """Sum over branches of x * activation(logits), + residual, then relu. channel (B, C), spatial (B, H, W), shift
    (B, C), full (B, C, h, w)."""
    total = None
    for i, x in enumerate(xs):
        dtype = compute_dtype(x)
        if full is not None:
            factors = (x.shape[2] // full.shape[2], x.shape[3] // full.shape[3])
            logits = full.to(dtype).repeat_interleave(factors[0], 2).repeat_interleave(factors[1], 3)
        elif channel and spatial:
            logits = channel[i].to(dtype)[:, :, None, None] * spatial[i].to(dtype)[:, None]
            if shift is not None:
                logits = logits + shift.to(dtype)[:, :, None, None]
        else:
            logits = (channel[i][:, :, None, None] if channel else spatial[i][:, None]).to(dtype)
        gated = x.to(dtype) * activate(logits, activation)
        total = gated if total is None else total + gated
    if residual is not None:
        total = total + residual.to(total.dtype)
    if relu:
        total = torch.relu(total)
    return total.to(xs[0].dtype)


def network(
    statistics: Sequence[Tensor],
    weight1: Tensor,
    bias1: Tensor | None,
    weight2: Tensor | None,
    bias2: Tensor | None,
    shared: bool,
) -> Tensor:
    """Logits (B, C) of channel attention from its statistics, each (B, C), the mean first. In the dtype of the
    weights, under autocast too."""
    device = weight1.device.type
    if device in ("cpu", "cuda") and torch.is_autocast_enabled(device):
        with torch.autocast(device, enabled=False):
            return network(statistics, weight1, bias1, weight2, bias2, shared)
    linear = torch.nn.functional.linear

    def one(values: Tensor) -> Tensor:
        hidden = linear(values, weight1, bias1)
        return hidden if weight2 is None else linear(torch.relu(hidden), weight2, bias2)

    if shared:
        return one(statistics[0]) + one(statistics[1])
    return one(torch.cat(tuple(statistics), 1) if len(statistics) > 1 else statistics[0])
