# SPDX-License-Identifier: Apache-2.0
"""Person re-identification for PyTorch.

The operators are here (``fastreid_ops.pairwise_distance``, ``fastreid_ops.rank_metrics``); models, data, evaluation
and training are subpackages. Importing this package imports nothing else: torch comes with the first operator, so
that ``fastreid_ops.numpy`` and the readers of data sets work without it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from fastreid_ops._version import __version__

if TYPE_CHECKING:
    from fastreid_ops.ops.distance import pairwise_distance
    from fastreid_ops.ops.feature_ranking import rank_features
    from fastreid_ops.ops.nearest import Nearest, nearest
    from fastreid_ops.ops.ranking import RankMetrics, rank_metrics

__all__ = [
    "Nearest",
    "RankMetrics",
    "__version__",
    "nearest",
    "pairwise_distance",
    "rank_features",
    "rank_metrics",
]

# Public name -> the module that holds it (PEP 562).
_LAZY = {
    "pairwise_distance": "fastreid_ops.ops.distance",
    "Nearest": "fastreid_ops.ops.nearest",
    "nearest": "fastreid_ops.ops.nearest",
    "RankMetrics": "fastreid_ops.ops.ranking",
    "rank_features": "fastreid_ops.ops.feature_ranking",
    "rank_metrics": "fastreid_ops.ops.ranking",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
