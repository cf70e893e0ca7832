# SPDX-License-Identifier: Apache-2.0
"""Who else finds exact nearest neighbours of feature rows. faiss is there only if it is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Rival(NamedTuple):
    """``run(x, y, k)`` on float32 tensors returns (squared distances, indices), both (N, k)."""

    name: str
    run: Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]


def available() -> list[Rival]:
    rivals = [Rival("torch.mm and topk", _topk)]
    if importlib.util.find_spec("faiss") is not None:
        rivals.append(Rival("faiss IndexFlatL2", _faiss))
    return rivals


def _topk(x: Tensor, y: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """In blocks of rows, as one writes it when the matrix would not fit."""
    norms = y.square().sum(1)
    found = []
    for part in x.split(4096):
        squared = (part @ y.T).mul_(-2).add_(norms).add_(part.square().sum(1, keepdim=True))
        found.append(squared.topk(k, dim=1, largest=False))
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])


def _faiss(x: Tensor, y: Tensor, k: int) -> tuple[Tensor, Tensor]:
    import faiss

    index = faiss.IndexFlatL2(y.shape[1])
    index.add(y.numpy())
    distances, indices = index.search(x.numpy(), k)
    return torch.from_numpy(distances), torch.from_numpy(indices)
