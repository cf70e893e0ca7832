# SPDX-License-Identifier: Apache-2.0
"""Distances and labels in, figures and ranked lists out."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastreid_ops.evaluation.protocols import Protocol
from fastreid_ops.evaluation.protocols import protocol as find_protocol
from fastreid_ops.evaluation.result import Result
from fastreid_ops.ops import _checks
from fastreid_ops.ops.ranking import rank_metrics


class Labels(NamedTuple):
    """Who and where: pids and camids, (N,) integer tensors on the device of the distances. camids may be None
    where the protocol does not look at cameras."""

    pids: Tensor
    camids: Tensor | None = None


def evaluate(
    distance: Tensor, query: Labels, gallery: Labels, protocol: str | Protocol = "market1501"
) -> Result:
    """The figures of a (Q, G) distance matrix (small = close) under a protocol, with the result of every
    query.

    Shapes, NaN, Ties, Determinism, Memory: as `fastreid_ops.rank_metrics`, which does the work.

    Raises:
        TypeError, ValueError: as `rank_metrics`; among them "no query has a match", counted by reason.
    """
    rules = find_protocol(protocol)
    found = rank_metrics(
        distance,
        query.pids,
        gallery.pids,
        query.camids,
        gallery.camids,
        camera_rule=rules.camera_rule,
        ap=rules.ap,
        max_rank=rules.max_rank,
    )
    return Result(
        protocol=rules,
        gallery=distance.shape[1],
        mAP=found.mAP.item(),
        mINP=found.mINP.item(),
        cmc=found.cmc.tolist(),
        ap=found.ap.tolist(),
        inp=found.inp.tolist(),
        first_rank=found.first_rank.tolist(),
        num_relevant=found.num_relevant.tolist(),
        status=found.status.tolist(),
    )


def ranked_lists(
    distance: Tensor, query: Labels, gallery: Labels, protocol: str | Protocol = "market1501", k: int = 10
) -> list[list[int]]:
    """The first k gallery indices of each query, in order, without the entries that the protocol drops.

    A list is shorter than k where fewer entries are left. Ties are ordered by gallery index, as in
    `evaluate`, so the first match of a list stands at ``first_rank``. Memory: O(G) beyond the matrix.

    Raises:
        TypeError, ValueError: as `evaluate`, but a query without a match is no error here.
    """
    op = "ranked_lists"
    rules = find_protocol(protocol)
    _checks.floating(op, "distance", _checks.tensor(op, "distance", distance))
    _checks.rank(op, "distance", distance, 2, "(Q, G)")
    _checks.positive_int(op, "k", k)
    _checks.not_empty(op, "distance", distance, 1, "an empty gallery has nothing to list")
    drops = rules.camera_rule == "same_pid"
    for name, labels, dim in (("query", query, 0), ("gallery", gallery, 1)):
        for kind in ("pids", "camids") if drops else ("pids",):
            argument, value = f"{name}.{kind}", getattr(labels, kind)
            _checks.integers(op, argument, _checks.tensor(op, argument, value))
            _checks.rank(op, argument, value, 1, "one label for each image")
            _checks.size(op, argument, value, 0, distance.shape[dim], "one label for each row or column")
            _checks.same_device(op, argument, value, "distance", distance)
    _checks.finite(op, "distance", distance)
    return [
        _first(row, _dropped(q, query, gallery) if drops else None, k)
        for q, row in enumerate(distance.detach())
    ]


def _dropped(q: int, query: Labels, gallery: Labels) -> Tensor:
    return (gallery.pids == query.pids[q]) & (gallery.camids == query.camids[q])


def _first(row: Tensor, dropped: Tensor | None, k: int) -> list[int]:
    """The k smallest kept entries by (distance, index): select by the k-th value, then sort the few that are
    left."""
    if dropped is not None:
        kept = (~dropped).nonzero().flatten()
        row = row[kept]
    if k < row.shape[0]:
        # Half types have no kthvalue everywhere; float32 holds them exactly.
        value = row if row.dtype in (torch.float32, torch.float64) else row.float()
        candidates = (value <= value.kthvalue(k).values).nonzero().flatten()
    else:
        candidates = torch.arange(row.shape[0], device=row.device)
    order = candidates[torch.sort(row[candidates], stable=True).indices][:k]
    return (order if dropped is None else kept[order]).tolist()
