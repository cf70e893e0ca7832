# SPDX-License-Identifier: Apache-2.0
"""torchvision beside a torch without CUDA, as far as Python alone is needed of it."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import torch


def register_operators() -> torch.library.Library:
    """Schemas of torchvision's operators, which its own library could not register.

    A torchvision built for CUDA does not load its library beside a CPU torch, and then fails to import because it asks
    for meta kernels of operators that do not exist. No network and no transform needs these operators.
    """
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


@cache
def mend_torchvision() -> torch.library.Library | None:
    """Make torchvision importable, once in a process: the operators stay as long as the cached result. Call it before
    any import of torchvision, a failed one leaves half of it behind."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None:
        return None
    for library in Path(next(iter(spec.submodule_search_locations))).glob("_C.*"):
        try:
            torch.ops.load_library(library)
        except OSError:
            return register_operators()
    return None
