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
    from fastreid_ops.ops.attention import (
        Gate,
        Statistics,
        attention_gate,
        attention_pool,
        channel_attention,
        spatial_channel_attention,
    )
    from fastreid_ops.ops.distance import pairwise_distance
    from fastreid_ops.ops.feature_ranking import rank_features
    from fastreid_ops.ops.nearest import Nearest, nearest
    from fastreid_ops.ops.ranking import RankMetrics, rank_metrics
    from fastreid_ops.ops.rerank import (
        SparseDistances,
        gnn_rerank,
        jaccard,
        k_reciprocal,
        k_reciprocal_blocks,
        k_reciprocal_ensemble,
        k_reciprocal_from_distances,
    )

__all__ = [
    "Gate",
    "Nearest",
    "RankMetrics",
    "SparseDistances",
    "Statistics",
    "__version__",
    "attention_gate",
    "attention_pool",
    "channel_attention",
    "gnn_rerank",
    "jaccard",
    "k_reciprocal",
    "k_reciprocal_blocks",
    "k_reciprocal_ensemble",
    "k_reciprocal_from_distances",
    "nearest",
    "pairwise_distance",
    "rank_features",
    "rank_metrics",
    "spatial_channel_attention",
]

# Public name -> the module that holds it (PEP 562).
_LAZY = {
    "Gate": "fastreid_ops.ops.attention",
    "Statistics": "fastreid_ops.ops.attention",
    "attention_gate": "fastreid_ops.ops.attention",
    "attention_pool": "fastreid_ops.ops.attention",
    "channel_attention": "fastreid_ops.ops.attention",
    "spatial_channel_attention": "fastreid_ops.ops.attention",
    "pairwise_distance": "fastreid_ops.ops.distance",
    "Nearest": "fastreid_ops.ops.nearest",
    "nearest": "fastreid_ops.ops.nearest",
    "RankMetrics": "fastreid_ops.ops.ranking",
    "rank_features": "fastreid_ops.ops.feature_ranking",
    "rank_metrics": "fastreid_ops.ops.ranking",
    "SparseDistances": "fastreid_ops.ops.rerank",
    "gnn_rerank": "fastreid_ops.ops.rerank",
    "jaccard": "fastreid_ops.ops.rerank",
    "k_reciprocal": "fastreid_ops.ops.rerank",
    "k_reciprocal_blocks": "fastreid_ops.ops.rerank",
    "k_reciprocal_ensemble": "fastreid_ops.ops.rerank",
    "k_reciprocal_from_distances": "fastreid_ops.ops.rerank",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
