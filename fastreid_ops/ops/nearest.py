# SPDX-License-Identifier: Apache-2.0
"""Neighbours in plain torch: what the re-ranking is developed against."""

from __future__ import annotations

import torch
from torch import Tensor

from fastreid_ops.ops.distance import pairwise_distance


def neighbours(
    x: Tensor,
    y: Tensor,
    k: int,
    *,
    metric: str = "sqeuclidean",
    exclude_self: bool = False,
    farthest: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Squared distances float64 (N, k), indices int64 (N, k) in the order (squared distance, index), and the
    largest squared distance of each row float64 (N,) (with ``farthest``; else empty)."""
    wide = y.double()
    squared, index, largest = [], [], []
    for part in x.split(max(1, 2**25 // len(y))):
        distance = pairwise_distance(part.double(), wide, metric=metric, check_finite=False)
        distance = distance * 2 if metric == "cosine" else distance
        values, order = torch.sort(distance, stable=True)
        squared.append(values[:, :k].clone())
        index.append(order[:, :k].clone())
        largest.append(values[:, -1].clone())
    return torch.cat(squared), torch.cat(index), torch.cat(largest) if farthest else wide.new_empty(0)
