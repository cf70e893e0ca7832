# SPDX-License-Identifier: Apache-2.0
"""Features and what is known of their rows in, the figures of a whole protocol out: selection, draws, tracklets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastreid_ops.evaluation._protocol import Protocol
from fastreid_ops.evaluation.draws import Draws, Permutations, Side, draw
from fastreid_ops.evaluation.evaluate import Labels
from fastreid_ops.evaluation.features import evaluate_features
from fastreid_ops.evaluation.result import Result
from fastreid_ops.evaluation.tracklets import pool_tracklets
from fastreid_ops.evaluation.trials import Trials
from fastreid_ops.ops import _checks

_OP = "evaluate_protocol"


class TrialSides(NamedTuple):
    """One trial as the ranking ops take it.

    Attributes:
        query, gallery: (q, D) and (g, D) features.
        query_labels, gallery_labels: theirs.
        query_rows, gallery_rows: (q,) and (g,), the row that each stands for, of the columns that were drawn from.
    """

    query: Tensor
    gallery: Tensor
    query_labels: Labels
    gallery_labels: Labels
    query_rows: Tensor
    gallery_rows: Tensor


def evaluate_protocol(
    query_features: Tensor,
    gallery_features: Tensor,
    query: Any,
    gallery: Any,
    protocol: str | Protocol = "market1501",
    *,
    metric: str = "euclidean",
    permutations: Permutations | None = None,
    query_rows: Tensor | None = None,
    gallery_rows: Tensor | None = None,
    progress: bool = False,
    group: Any = None,
) -> Result | Trials:
    """The figures of a protocol from the features of a whole test set: selects modality and cameras, draws, pools
    tracklets, and evaluates every trial by `evaluate_features`.

    Args:
        query_features, gallery_features: (n, D) and (m, D), a row for each row of ``query`` and ``gallery``.
        query, gallery: a Manifest, `Columns` or `Labels` (for protocols that neither draw nor select) each.
        protocol: a name of PROTOCOLS or a Protocol; for a family, call once for each of `protocols`.
        metric, progress, group: as `evaluate_features`.
        permutations: as `draw`.
        query_rows, gallery_rows: (n,) and (m,) int64, the rows of ``query`` and ``gallery`` that the features are of,
            where some have none (unreadable files). The draw is that of the whole list; a drawn row without a
            feature is missing in its trial.

    Returns:
        a Result, or Trials where the protocol has several. Either names the protocol as it was carried out.

    *Shapes*, *NaN*, *Ties*, *Determinism*: as `evaluate_features`, with the gallery in the order of the draw.
    *Memory*: beyond one trial's `evaluate_features`, a copy of the rows of one trial (none where a trial has all rows
    in their order) and 8 bytes a row and trial; never Q x G.

    Raises:
        TypeError, ValueError: as `draw` and `evaluate_features`, naming the trial.
    """
    drawn = draw(protocol, query, gallery, permutations)
    return evaluate_draws(
        drawn,
        query_features,
        gallery_features,
        metric=metric,
        query_rows=query_rows,
        gallery_rows=gallery_rows,
        progress=progress,
        group=group,
    )


def evaluate_draws(
    drawn: Draws,
    query_features: Tensor,
    gallery_features: Tensor,
    *,
    metric: str = "euclidean",
    query_rows: Tensor | None = None,
    gallery_rows: Tensor | None = None,
    progress: bool = False,
    group: Any = None,
) -> Result | Trials:
    """`evaluate_protocol` after its `draw`."""
    results = []
    sides = trials(drawn, query_features, gallery_features, query_rows, gallery_rows)
    for number, trial in enumerate(sides):
        try:
            result = evaluate_features(
                *trial[:4], drawn.protocol, metric=metric, progress=progress, group=group
            )
        except (TypeError, ValueError) as error:
            if len(drawn.trials) == 1:
                raise
            raise type(error)(f"{_OP}: trial {number}: {error}") from error
        results.append(replace(result, protocol=drawn.protocol))
    return results[0] if drawn.protocol.trials == 1 else Trials(tuple(results))


def trials(
    drawn: Draws,
    query_features: Tensor,
    gallery_features: Tensor,
    query_rows: Tensor | None = None,
    gallery_rows: Tensor | None = None,
) -> Iterator[TrialSides]:
    """What each trial compares with what, one trial at a time; arguments as `evaluate_protocol`."""
    query = _entries("query", drawn, drawn.query, query_features, query_rows)
    gallery = _entries("gallery", drawn, drawn.gallery, gallery_features, gallery_rows)
    for number, trial in enumerate(drawn.trials):
        parts = []
        for name, side, entries, index in (
            ("query", drawn.query, query, trial.query),
            ("gallery", drawn.gallery, gallery, trial.gallery),
        ):
            values, place = entries
            here = place[index]
            index = index[here >= 0]
            here = here[here >= 0].to(values.device)
            if not len(here):
                raise ValueError(f"{_OP}: {name}: got no row with a feature in trial {number}, expected some")
            whole = len(here) == len(values) and bool(
                (here == torch.arange(len(here), device=here.device)).all()
            )
            labels = Labels(*(None if v is None else v[index].to(values.device) for v in side.labels))
            parts.append((values if whole else values[here], labels, side.first[index]))
        (q, q_labels, q_rows), (g, g_labels, g_rows) = parts
        yield TrialSides(q, g, q_labels, g_labels, q_rows, g_rows)


def _entries(
    name: str, drawn: Draws, side: Side, features: Tensor, rows: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(features of the entries that have one, (T,) the place of each entry among them or -1)."""
    argument = f"{name}_features"
    _checks.rank(_OP, argument, _checks.tensor(_OP, argument, features), 2, "(N, D)")
    count = len(side.first) if side.entry is None else len(side.entry)
    if rows is None:
        _checks.size(_OP, argument, features, 0, count, "one row for each of the columns")
        rows = torch.arange(count)
    else:
        _checks.integers(_OP, f"{name}_rows", _checks.tensor(_OP, f"{name}_rows", rows))
        _checks.rank(_OP, f"{name}_rows", rows, 1, "row numbers")
        _checks.size(_OP, f"{name}_rows", rows, 0, features.shape[0], "one row number for each feature")
        rows = rows.to("cpu", torch.int64)
        outside = (rows < 0) | (rows >= count)
        if outside.any() or len(rows.unique()) != len(rows):
            got = f"{int(outside.sum())} outside" if outside.any() else "one twice"
            raise ValueError(
                _checks.message(_OP, f"{name}_rows", got, f"each of 0 to {count - 1} at most once")
            )
    rules = drawn.protocol
    if side.entry is None:
        place = torch.full((count,), -1, dtype=torch.int64)
        place[rows] = torch.arange(len(rows))
        return features, place
    pooled, there = pool_tracklets(
        features, side.entry[rows], len(side.first), rules.tracklets, normalise=rules.normalise_tracklets
    )
    place = torch.where(there.cpu(), torch.arange(len(there)), -1)
    return pooled, place
