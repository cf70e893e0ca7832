# SPDX-License-Identifier: Apache-2.0
"""Who else re-ranks. Each rival is there only if its package is installed; their files are loaded alone, since their
packages import much more.

``pip install --no-deps torchreid fastreid faiss-cpu`` is enough.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import torch
from torch import Tensor


class Rival(NamedTuple):
    """``run(query, gallery)`` on float32 tensors returns final distances (Q, G) of the variant ``equals``, or all
    Jaccard distances (N, N) where that is None."""

    name: str
    equals: str | None
    run: Callable[[Tensor, Tensor], object]


def available() -> list[Rival]:
    rivals = []
    for package, place in (("torchreid", "reid/utils/rerank.py"), ("fastreid", "evaluation/rerank.py")):
        file = _file(package, place)
        if file is not None:
            rivals.append(Rival(f"{package} re_ranking", "zhong2017", _from_features(_load(file).re_ranking)))
    file = _file("fastreid", "utils/compute_dist.py")
    if file is not None and importlib.util.find_spec("faiss") is not None:
        compute = _load_compute_dist(file)
        rivals.append(Rival("fastreid evaluator", "fastreid", _evaluator(compute)))
        rivals.append(Rival("fastreid compute_jaccard_distance", None, _jaccard(compute)))
    return rivals


def original(place: str = "reid/utils/rerank.py") -> Callable | None:
    """``re_ranking(q_g_dist, q_q_dist, g_g_dist, k1, k2, lambda_value)`` of torchreid."""
    file = _file("torchreid", place)
    return None if file is None else _load(file).re_ranking


def _product(x: Tensor, y: Tensor) -> Tensor:
    """Squared distances as they are computed there."""
    squares = x.square().sum(1, keepdim=True) + y.square().sum(1)
    return squares.addmm_(x, y.T, beta=1, alpha=-2).clamp_(min=0)


def _from_features(re_ranking: Callable) -> Callable[[Tensor, Tensor], np.ndarray]:
    def run(query: Tensor, gallery: Tensor) -> np.ndarray:
        pairs = ((query, gallery), (query, query), (gallery, gallery))
        return re_ranking(*(_product(x, y).sqrt_().numpy() for x, y in pairs))

    return run


def _jaccard(compute: Callable) -> Callable[[Tensor, Tensor], np.ndarray]:
    return lambda query, gallery: compute(torch.cat([query, gallery]), search_option=3)


def _evaluator(compute: Callable) -> Callable[[Tensor, Tensor], np.ndarray]:
    def run(query: Tensor, gallery: Tensor) -> np.ndarray:
        distance = compute(torch.cat([query, gallery]), search_option=3)[: len(query), len(query) :]
        return distance * (1 - 0.3) + _product(query, gallery).numpy() * 0.3

    return run


def _file(package: str, place: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(next(iter(spec.submodule_search_locations))) / place
    return path if path.is_file() else None


def _load(path: Path, name: str = "") -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(name or f"rival_{path.parents[1].name}_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _load_compute_dist(path: Path) -> Callable:
    """It imports its neighbour, which alone is loaded with it."""
    package = types.ModuleType("rival_fastreid_utils")
    package.__path__ = [str(path.parent)]
    with mock.patch.dict(sys.modules, {package.__name__: package}):
        return _load(path, f"{package.__name__}.compute_dist").compute_jaccard_distance
