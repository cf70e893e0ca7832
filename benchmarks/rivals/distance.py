# SPDX-License-Identifier: Apache-2.0
"""Who else computes all distances between two sets of features. Each rival is there only if its package is
installed.

``pip install --no-deps torchreid`` is enough: its file is loaded alone, since the package imports much
more. fast-reid's and the NAIC 2020 systems' formulas are a few lines of torch and are written out here.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Rival(NamedTuple):
    """``run(x, y)`` on float32 tensors returns the distances of ``metric`` (None: a product alone, nothing
    to check)."""

    name: str
    metric: str | None
    run: Callable[[Tensor, Tensor], object]


def available() -> list[Rival]:
    rivals = [
        Rival("torch.mm alone", None, lambda x, y: torch.mm(x, y.T)),
        Rival("torch.mm and norms", "sqeuclidean", _product),
        Rival(
            "torch.mm, norms, clamp, sqrt", "euclidean", lambda x, y: _product(x, y).clamp_(min=1e-12).sqrt_()
        ),
        Rival("torch.cdist", "euclidean", torch.cdist),
        Rival("NumPy", "sqeuclidean", _numpy),
        Rival("NAIC arccos (no clip)", "arccos", lambda x, y: _cosine(x, y).clamp_(-1, 1).acos_()),
        Rival("torch.mm of unit rows", "cosine", lambda x, y: 1 - _cosine(x, y)),
    ]
    torchreid = _file("torchreid", "reid/metrics/distance.py")
    if torchreid is not None:
        matrix = _load(torchreid).compute_distance_matrix
        rivals.append(Rival("torchreid", "sqeuclidean", matrix))
        rivals.append(Rival("torchreid", "cosine", lambda x, y: matrix(x, y, "cosine")))
    if importlib.util.find_spec("sklearn") is not None:
        from sklearn.metrics.pairwise import euclidean_distances

        rivals.append(
            Rival("scikit-learn", "euclidean", lambda x, y: euclidean_distances(x.numpy(), y.numpy()))
        )
    if importlib.util.find_spec("faiss") is not None:
        import faiss

        rivals.append(
            Rival("faiss", "sqeuclidean", lambda x, y: faiss.pairwise_distances(x.numpy(), y.numpy()))
        )
    return rivals


def _product(x: Tensor, y: Tensor) -> Tensor:
    """|x|^2 + |y|^2 - 2xy as torchreid and fast-reid write it."""
    squares = x.square().sum(1, keepdim=True) + y.square().sum(1)[None]
    return squares.addmm_(x, y.T, beta=1, alpha=-2)


def _cosine(x: Tensor, y: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x, dim=1) @ torch.nn.functional.normalize(y, dim=1).T


def _numpy(x: Tensor, y: Tensor) -> np.ndarray:
    a, b = x.numpy(), y.numpy()
    product = a @ b.T
    product *= -2
    product += np.square(a).sum(1)[:, None]
    product += np.square(b).sum(1)[None]
    return product


def _file(package: str, place: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(next(iter(spec.submodule_search_locations))) / place
    return path if path.is_file() else None


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"rival_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
