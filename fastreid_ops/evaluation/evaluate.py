# SPDX-License-Identifier: Apache-2.0
"""Distances and labels in, figures and ranked lists out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastreid_ops.evaluation.protocols import Protocol
from fastreid_ops.evaluation.protocols import protocol as find_protocol
from fastreid_ops.evaluation.result import Result
from fastreid_ops.evaluation.trials import Trials
from fastreid_ops.ops import _checks, _relevance
from fastreid_ops.ops.ranking import RankMetrics, rank_metrics


class Labels(NamedTuple):
    """Who, where and in what: pids, camids and clothes, (N,) integer tensors on the device of the distances.
    camids and clothes may be None where the protocol does not look at them."""

    pids: Tensor
    camids: Tensor | None = None
    clothes: Tensor | None = None

    def at(self, index: Tensor) -> Labels:
        """The labels of these images."""
        return Labels(*(None if value is None else value[index] for value in self))


def evaluate(
    distance: Tensor, query: Labels, gallery: Labels, protocol: str | Protocol = "market1501"
) -> Result:
    """The figures of a (Q, G) distance matrix (small = close) under a protocol, with the result of every
    query. Rows and columns are taken as given: what the protocol selects, draws or pools is the caller's here
    (`evaluate_protocol` does it), and the result's protocol comes without it.

    Shapes, NaN, Ties, Determinism, Memory: as `fastreid_ops.rank_metrics`, which does the work.

    Raises:
        TypeError, ValueError: as `rank_metrics`; among them "no query has a match", counted by reason.
    """
    rules = find_protocol(protocol)
    found = rank_metrics(distance, **arguments(rules, query, gallery))
    return as_result(found, rules, distance.shape[1])


def evaluate_trials(
    distance: Tensor | Sequence[Tensor],
    query: Labels | Sequence[Labels],
    gallery: Labels | Sequence[Labels],
    protocol: str | Protocol = "market1501",
    *,
    galleries: Sequence[Tensor] | None = None,
) -> Trials:
    """The same protocol on several galleries (SYSU-MM01 and LLCM: 10 draws) or several splits (RegDB: 10), and
    the means over them.

    Either one (Q, G) matrix and ``galleries``, a list of integer tensors: the gallery indices of each trial.
    Or a list of matrices; then ``query`` and ``gallery`` are lists as long, or one Labels each for all.

    Shapes, NaN, Ties, Determinism: as `evaluate`, once for each trial. Memory: with ``galleries``, a copy of
        the trial's columns at a time.

    Raises:
        TypeError, ValueError: as `evaluate`, naming the trial; lists of different lengths; no trial.
    """
    op = "evaluate_trials"
    rules = find_protocol(protocol)
    if isinstance(distance, Tensor):
        if galleries is None:
            raise TypeError(
                _checks.message(op, "galleries", "None", "a list of index tensors, one for each trial")
            )
        if not isinstance(query, Labels) or not isinstance(gallery, Labels):
            expected = "one Labels for the one matrix on each side"
            raise TypeError(_checks.message(op, "query and gallery", "lists", expected))
        _checks.rank(op, "distance", distance, 2, "(Q, G)")
        chosen = [_chosen(op, f"galleries[{t}]", index, distance) for t, index in enumerate(galleries)]
        trials = ((distance[:, index], query, gallery.at(index)) for index in chosen)
        count = len(chosen)
    else:
        if galleries is not None:
            raise TypeError(
                _checks.message(op, "galleries", "a list", "None where distance is a list of matrices")
            )
        count = len(distance)
        sides = []
        for name, side in (("query", query), ("gallery", gallery)):
            side = [side] * count if isinstance(side, Labels) else list(side)
            if len(side) != count:
                raise ValueError(_checks.message(op, name, f"{len(side)} Labels", f"one, or {count}"))
            sides.append(side)
        trials = zip(distance, *sides, strict=True)
    if count == 0:
        raise ValueError(_checks.message(op, "distance", "no trial", "at least one"))
    results = []
    for number, trial in enumerate(trials):
        try:
            results.append(evaluate(*trial, rules))
        except (TypeError, ValueError) as error:
            raise type(error)(f"{op}: trial {number}: {error}") from error
    return Trials(tuple(results))


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
    kinds = ["pids"] + ["camids"] * rules.needs_cameras + ["clothes"] * rules.needs_clothes
    for name, labels, dim in (("query", query, 0), ("gallery", gallery, 1)):
        for kind in kinds:
            argument, value = f"{name}.{kind}", getattr(labels, kind)
            _checks.integers(op, argument, _checks.tensor(op, argument, value))
            _checks.rank(op, argument, value, 1, "one label for each image")
            _checks.size(op, argument, value, 0, distance.shape[dim], "one label for each row or column")
            _checks.same_device(op, argument, value, "distance", distance)
    _checks.finite(op, "distance", distance)
    given = arguments(rules, query, gallery)
    sides = _relevance.Sides(**{name: given[name] for name in _relevance.Sides._fields})
    op_rules = _relevance.Rules(**rules.rules())
    drops = len(kinds) > 1 or bool(rules.junk_pids)
    return [
        _first(row, _relevance.dropped(q, op_rules, sides) if drops else None, k)
        for q, row in enumerate(distance.detach())
    ]


def arguments(rules: Protocol, query: Labels, gallery: Labels) -> dict[str, object]:
    """What the protocol makes of the labels: the arguments of the ranking ops, all but what is ranked."""
    given: dict[str, object] = {}
    for side, labels in (("query", query), ("gallery", gallery)):
        given[f"{side}_pids"] = labels.pids
        given[f"{side}_camids"] = _renamed(labels.camids, rules)
        given[f"{side}_clothes"] = labels.clothes if rules.needs_clothes else None
    if not rules.needs_cameras:
        given |= {"query_camids": None, "gallery_camids": None}
    return {**given, **rules.rules()}


def as_result(found: RankMetrics, rules: Protocol, gallery: int) -> Result:
    return Result(
        protocol=rules.rows_as_given(),
        gallery=gallery,
        mAP=found.mAP.item(),
        mINP=found.mINP.item(),
        cmc=found.cmc.tolist(),
        ap=found.ap.tolist(),
        inp=found.inp.tolist(),
        first_rank=found.first_rank.tolist(),
        num_relevant=found.num_relevant.tolist(),
        status=found.status.tolist(),
        cmc_rank=found.cmc_rank.tolist(),
    )


def _renamed(camids: Tensor | None, rules: Protocol) -> Tensor | None:
    if not rules.camera_aliases or not isinstance(camids, Tensor):
        return camids
    if camids.dtype not in _checks.INTEGERS:
        return camids  # refused by name where it is used
    renamed = camids.to(torch.int64)
    for old, new in rules.camera_aliases:
        renamed = torch.where(renamed == old, new, renamed)
    return renamed


def _chosen(op: str, name: str, index: object, distance: Tensor) -> Tensor:
    index = _checks.tensor(op, name, index)
    _checks.integers(op, name, index)
    _checks.rank(op, name, index, 1, "gallery indices")
    _checks.same_device(op, name, index, "distance", distance)
    size = distance.shape[1]
    if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < size:
        got = f"indices from {int(index.min())} to {int(index.max())}"
        raise ValueError(_checks.message(op, name, got, f"indices from 0 to {size - 1}"))
    return index.to(torch.int64)


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
