# SPDX-License-Identifier: Apache-2.0
"""Evaluate a model, or colour alone, on a set of queries and a gallery, and write the results into the run
folder.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastreid_ops.data.hsv import hsv_stripes
from fastreid_ops.data.images import BadImageError, BadImagePolicy, read_image
from fastreid_ops.data.loader import EvalLoader
from fastreid_ops.data.manifest import Manifest
from fastreid_ops.engine.extract import Features
from fastreid_ops.engine.loop import summary
from fastreid_ops.engine.ranks import Ranks
from fastreid_ops.engine.run_folder import RunFolder
from fastreid_ops.engine.shared_evaluation import extract_shared
from fastreid_ops.evaluation import Draws, RankedList, Result, Shard, Trials, ranked_lists_from_features
from fastreid_ops.evaluation.by_protocol import TrialSides, evaluate_draws, trials
from fastreid_ops.evaluation.rankings import Ranking, ranking_from_features, write_ranking
from fastreid_ops.evaluation.shards import (
    TrialShards,
    evaluate_shards,
    ranked_lists_from_shards,
    ranking_from_shards,
    trial_shards,
)


@dataclass
class EvalData:
    """One evaluation set.

    `query` and `gallery` are its manifests; `draws` has by the name of a result what the protocol makes of them:
    one for a protocol, one for each member of a family. `files` are the rows that any of them looks at, each file
    once, so that no image is read twice; `loader` yields their images. `labels` has the words beside each result.
    """

    name: str
    labels: dict[str, str]
    note: str
    draws: dict[str, Draws]
    query: Manifest
    gallery: Manifest
    files: Manifest
    loader: EvalLoader


@dataclass
class Assessment:
    """A result with what is needed to show it: the features of the rows that have one (not the unreadable ones), of
    several ranks (`group`) each its own.

    `query_rows` and `gallery_rows` are rows of `data.query` and `data.gallery`. What is shown of a group is found by
    all its ranks together: each calls the same methods in the same order.
    """

    name: str
    data: EvalData
    result: Result | Trials
    metric: str
    query_features: Tensor
    gallery_features: Tensor
    query_rows: Tensor
    gallery_rows: Tensor
    group: Any = None

    @property
    def draws(self) -> Draws:
        return self.data.draws[self.name]

    def first_trial(self) -> tuple[Result, TrialSides | TrialShards]:
        """What can be shown query by query: the only trial, or the first."""
        result = self.result.results[0] if isinstance(self.result, Trials) else self.result
        given = self.query_features, self.gallery_features, self.query_rows, self.gallery_rows
        if self.group is not None:
            return result, next(trial_shards(self.draws, *_shards(self.data, *given), self.group))
        return result, next(trials(self.draws, *given))

    def ranked_lists(self, sides: TrialSides | TrialShards, k: int) -> list[RankedList]:
        """The first k gallery entries of each query of the first trial that the protocol keeps."""
        protocol = self.draws.protocol
        if self.group is not None:
            return ranked_lists_from_shards(sides, protocol, k, metric=self.metric, group=self.group)
        return ranked_lists_from_features(*sides[:4], protocol, k, metric=self.metric)

    def ranking(self) -> Ranking:
        """The file names that the protocol asks for, from the first trial."""
        _, sides = self.first_trial()
        names = [
            [manifest.path[row] for row in rows.tolist()]
            for manifest, rows in (
                (self.data.query, sides.query_rows),
                (self.data.gallery, sides.gallery_rows),
            )
        ]
        top = self.draws.protocol.ranking
        if self.group is not None:
            return ranking_from_shards(sides, *names, top, metric=self.metric, group=self.group)
        return ranking_from_features(sides.query, sides.gallery, *names, top, metric=self.metric)


def unique_files(query: Manifest, gallery: Manifest) -> Manifest:
    """The rows of both, each file only once, in order of first appearance."""
    rows: dict[str, tuple[Manifest, int]] = {}
    for manifest in (query, gallery):
        for row in range(len(manifest)):
            rows.setdefault(manifest.path[row], (manifest, row))
    first = [row for manifest, row in rows.values() if manifest is query]
    second = [row for manifest, row in rows.values() if manifest is gallery]
    q, g = query.take(first).columns(), gallery.take(second).columns()
    return Manifest(query.root, **{name: q[name] + g[name] for name in q if name in g})


def assess(
    model: nn.Module,
    data: EvalData,
    device: torch.device,
    *,
    metric: str,
    flip: bool = False,
    unit_length: bool = False,
    channels_last: bool = False,
    check: Callable[[], None] = lambda: None,
    ranks: Ranks | None = None,
) -> dict[str, Assessment]:
    """Evaluate `model` on one set, by the name of each result; see `extract` for the arguments. Several `ranks`
    share the images, and each keeps the features of those it read (`evaluate_shards` says what it holds beside them);
    each returns the whole result, to the bits of one. Errors: ValueError if no query can be evaluated, on every rank.
    """
    ranks = ranks or Ranks()
    how = {"flip": flip, "unit_length": unit_length, "channels_last": channels_last}
    features = extract_shared(ranks, data.name, model, data.loader, device, check, **how)
    return _rank(data, features, metric, ranks)


def assess_colour(data: EvalData, policy: BadImagePolicy) -> dict[str, Assessment]:
    """Evaluate HSV-stripe histograms (`data.hsv`) on one set, Euclidean; files that `policy` lets pass are
    left out.
    """
    values, rows = [], []
    for row in range(len(data.files)):
        try:
            values.append(torch.from_numpy(hsv_stripes(read_image(data.files.file(row)))))
            rows.append(row)
        except BadImageError as error:
            policy.record(error.path, error.reason)
    if not values:
        raise ValueError(f"assess_colour: {data.name}: got no readable image, expected some")
    return _rank(data, Features(torch.stack(values), torch.tensor(rows)), "euclidean", Ranks())


def _rank(data: EvalData, features: Features, metric: str, ranks: Ranks) -> dict[str, Assessment]:
    place = {data.files.path[row]: i for i, row in enumerate(features.rows.tolist())}
    sides, rows = [], []
    for manifest in (data.query, data.gallery):
        kept = [row for row in range(len(manifest)) if manifest.path[row] in place]
        if not any(ranks.everyone(len(kept))):
            raise ValueError(
                f"assess: {data.name}: got no readable image in the query or the gallery, expected some in "
                "both"
            )
        rows.append(torch.tensor(kept, dtype=torch.int64))
        sides.append(_some(features.values, [place[manifest.path[row]] for row in kept]))
    found = {}
    for name, drawn in data.draws.items():
        if ranks.group is None:
            result = evaluate_draws(drawn, *sides, metric=metric, query_rows=rows[0], gallery_rows=rows[1])
        else:
            shards = _shards(data, *sides, *rows)
            result = evaluate_shards(drawn, *shards, metric=metric, group=ranks.group)
        found[name] = Assessment(name, data, result, metric, *sides, *rows, ranks.group)
    return found


def _some(values: Tensor, rows: list[int]) -> Tensor:
    """These rows; no copy where they lie side by side, as those of a side do that shares no file with the other."""
    if rows and rows == list(range(rows[0], rows[0] + len(rows))):
        return values[rows[0] : rows[0] + len(rows)]
    return values[torch.tensor(rows, dtype=torch.int64)]


def _shards(
    data: EvalData, query: Tensor, gallery: Tensor, query_rows: Tensor, gallery_rows: Tensor
) -> tuple[Shard, Shard]:
    return Shard(query, query_rows, len(data.query)), Shard(gallery, gallery_rows, len(data.gallery))


def result_record(assessment: Assessment, ranked: int) -> dict[str, Any]:
    """The content of results/<name>.json: figures, every query, and the first `ranked` gallery entries of
    each. Of several trials the figures are the means, queries and lists those of the first.
    """
    data, mean, name = assessment.data, assessment.result, assessment.name
    result, sides = assessment.first_trial()
    query, gallery = (
        manifest.take(rows.tolist())
        for manifest, rows in ((data.query, sides.query_rows), (data.gallery, sides.gallery_rows))
    )
    lists = assessment.ranked_lists(sides, ranked)
    queries, ranks = [], []
    for i, entries in enumerate(lists):
        queries.append(
            {
                "path": str(query.file(i)),
                "pid": query.pid[i],
                "camid": query.camid[i],
                "ap": result.ap[i],
                "inp": result.inp[i],
                "first_rank": result.first_rank[i],
                "status": result.status[i],
            }
        )
        shown = [
            {
                "path": str(gallery.file(j)),
                "pid": gallery.pid[j],
                "camid": gallery.camid[j],
                "distance": distance,
                "match": gallery.pid[j] == query.pid[i],
            }
            for j, distance in zip(*entries, strict=True)
        ]
        ranks.append({"query": i, "gallery": shown})
    note = data.note
    several = {}
    if isinstance(mean, Trials):
        number = len(mean.results)
        note = f"{note} Means over {number} trials; queries and ranked lists are those of the first.".strip()
        several["trials"] = [
            {"mAP": each.mAP, "mINP": each.mINP, "cmc": each.cmc, "counts": each.counts}
            for each in mean.results
        ]
    return {
        "set": name,
        "label": data.labels[name],
        "note": note,
        "protocol": result.protocol.to_dict(),
        "rules": result.protocol.describe(),
        "mAP": mean.mAP,
        "mINP": mean.mINP,
        "cmc": mean.cmc,
        "counts": result.counts,
        **several,
        "queries": queries,
        "ranked": ranks,
    }


def write_results(
    run: RunFolder, assessments: dict[str, Assessment], ranked: int, place: str = "results/{name}.json"
) -> list[Path]:
    """One file for every result, `place` its name in the run folder; and, for the sets whose protocol asks for it, a
    ranking file in rankings/, one for all members of a family. All ranks of a group call; a silent folder writes
    nothing.
    """
    written = []
    rankings: dict[str, list[Ranking]] = {}
    for name, assessment in assessments.items():
        written.append(run.write_json(place.format(name=name), result_record(assessment, ranked)))
        if assessment.draws.protocol.ranking:
            rankings.setdefault(assessment.data.name, []).append(assessment.ranking())
    for name, parts in rankings.items():
        if not run.writes:
            continue
        target = run / "rankings" / Path(place.format(name=name)).name
        target.parent.mkdir(exist_ok=True)
        written.append(write_ranking(target, *parts))
    return written


def table_row(system: str, name: str, label: str, figures: dict[str, float]) -> dict[str, Any]:
    """One row of results/table.json."""
    return {"system": system, "set": name, "label": label, **figures}


def summaries(assessments: dict[str, Assessment]) -> dict[str, dict[str, float]]:
    """Set name -> the five figures."""
    return {name: summary(a.result) for name, a in assessments.items()}


def table_text(rows: list[dict[str, Any]]) -> str:
    """The table as aligned text, percentages with one decimal."""
    keys = ("mAP", "mINP", "rank1", "rank5", "rank10")
    head = ("system", "set", "mAP", "mINP", "Rank-1", "Rank-5", "Rank-10")
    cells = [(r["system"], r["label"] or r["set"], *(f"{100 * r[k]:.1f}" for k in keys)) for r in rows]
    widths = [max(len(line[i]) for line in [head, *cells]) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i < 2 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in [head, *cells]
    )
