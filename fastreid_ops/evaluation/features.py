# SPDX-License-Identifier: Apache-2.0
"""Features and labels in, figures and ranked lists out: no distance matrix at any time."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastreid_ops.evaluation.evaluate import Labels, arguments, as_result
from fastreid_ops.evaluation.protocols import Protocol
from fastreid_ops.evaluation.protocols import protocol as find_protocol
from fastreid_ops.evaluation.result import Result
from fastreid_ops.ops import _checks, _relevance
from fastreid_ops.ops.feature_ranking import rank_features
from fastreid_ops.ops.nearest import from_squared, neighbours

# Queries listed at a time.
_ROWS = 256


class RankedList(NamedTuple):
    """The first gallery entries of one query, in order, without those that the protocol drops.

    Attributes:
        indices: gallery indices.
        distances: their distances, ascending.
    """

    indices: list[int]
    distances: list[float]


def evaluate_features(
    query_features: Tensor,
    gallery_features: Tensor,
    query: Labels,
    gallery: Labels,
    protocol: str | Protocol = "market1501",
    *,
    metric: str = "euclidean",
    progress: bool = False,
    group: Any = None,
) -> Result:
    """The figures of two sets of features under a protocol, with the result of every query: `evaluate` without its
    (Q, G) matrix, and with the order of float64 distances. Rows are taken as given, as there.

    Shapes, NaN, Ties, Determinism, Memory: as `fastreid_ops.rank_features`, which does the work; ``metric``,
    ``progress`` and ``group`` too.

    Raises:
        TypeError, ValueError: as `rank_features`; among them "no query has a match", counted by reason.
    """
    rules = find_protocol(protocol)
    found = rank_features(
        query_features,
        gallery_features,
        **arguments(rules, query, gallery),
        metric=metric,
        progress=progress,
        group=group,
    )
    return as_result(found, rules, gallery_features.shape[0])


def ranked_lists_from_features(
    query_features: Tensor,
    gallery_features: Tensor,
    query: Labels,
    gallery: Labels,
    protocol: str | Protocol = "market1501",
    k: int = 10,
    *,
    metric: str = "euclidean",
) -> list[RankedList]:
    """The first k gallery entries of each query, in order, without those that the protocol drops.

    A list is shorter than k where fewer entries are left. The order is that of `evaluate_features`, so the first
    match of a list stands at ``first_rank``. Memory: as `fastreid_ops.nearest` for the k plus the most entries
    that the protocol drops for a query, 256 queries at a time.

    Raises:
        TypeError, ValueError: as `evaluate_features`, but a query without a match is no error here.
    """
    op = "ranked_lists_from_features"
    rules = find_protocol(protocol)
    _checks.positive_int(op, "k", k)
    given = arguments(rules, query, gallery)
    sides = _relevance.Sides(**{name: given[name] for name in _relevance.Sides._fields})
    op_rules = _relevance.Rules(**rules.rules())
    for name, value in (("query_features", query_features), ("gallery_features", gallery_features)):
        _checks.rank(op, name, _checks.tensor(op, name, value), 2, "(N, D)")
    sizes = query_features.shape[0], gallery_features.shape[0]
    _relevance.check_sides(op, op_rules, sides, sizes, "query_features", query_features)
    sides = _relevance.as_int64(op, op_rules, sides)
    lists: list[RankedList] = []
    for first in range(0, sizes[0], _ROWS):
        rows = range(first, min(sizes[0], first + _ROWS))
        dropped = torch.stack([_relevance.dropped(q, op_rules, sides) for q in rows])
        wide = min(sizes[1], k + int(dropped.sum(1).max()))
        found = neighbours(query_features[first : rows.stop], gallery_features, wide, metric=metric)
        lists += listed(dropped, found.indices, from_squared(found.squared, metric), k)
    return lists


def listed(dropped: Tensor, indices: Tensor, distances: Tensor, k: int) -> list[RankedList]:
    """The first k of (q, n) neighbours without those that ``dropped`` (q, G) says."""
    lists = []
    for row, index in enumerate(indices):
        kept = (~dropped[row, index]).nonzero().flatten()[:k]
        lists.append(RankedList(index[kept].tolist(), distances[row, kept].tolist()))
    return lists
