# SPDX-License-Identifier: Apache-2.0
"""Arithmetic shared by the losses: safe in the corners and always in float32 or float64."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

SMALLEST_SQUARE = 1e-12  # the floor under a squared distance that all sources share


def full(value: Tensor) -> Tensor:
    """Half-precision tensors as float32, others as they are."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def unit_rows(value: Tensor) -> Tensor:
    """Rows of the last dimension divided by their length, float32 or float64; rows of zeros stay zeros and get no
    gradient (``F.normalize`` multiplies theirs by 1e12).
    """
    value = full(value)
    norm = torch.linalg.vector_norm(value, dim=-1, keepdim=True)
    return value / norm.masked_fill(norm == 0, torch.inf)  # 0 / inf is 0, and so is its gradient


def cosine_logits(features: Tensor, weight: Tensor) -> Tensor:
    """Cosines (B, K) of features (B, D) with class rows (K, D), never in half precision, under autocast neither."""
    with torch.autocast(features.device.type, enabled=False):
        features, weight = unit_rows(features), full(weight)
        dtype = torch.promote_types(features.dtype, weight.dtype)
        norm = torch.linalg.vector_norm(weight, dim=1)
        # Divided afterwards: (B, K) is smaller than a second (K, D).
        return F.linear(features.to(dtype), weight.to(dtype)) / norm.masked_fill(norm == 0, torch.inf)


def row_distance(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distance of row i of a to row i of b, at least 1e-6, without a gradient below that."""
    return (full(a) - full(b)).square().sum(-1).clamp_min(SMALLEST_SQUARE).sqrt()


def logsumexp_without(value: Tensor, left_out: Tensor) -> Tensor:
    """Logarithm of the sum of exp over each row but its True entries; -inf, without a gradient, where none is left."""
    return value.masked_fill(left_out, -torch.inf).logsumexp(dim=1)
