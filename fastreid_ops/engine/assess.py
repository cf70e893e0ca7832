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
from fastreid_ops.engine.extract import Features, extract
from fastreid_ops.engine.loop import summary
from fastreid_ops.engine.run_folder import RunFolder
from fastreid_ops.evaluation import Labels, Protocol, Result, evaluate_features, ranked_lists_from_features


@dataclass
class EvalData:
    """One evaluation set. `files` are the rows of queries and gallery, each file once, so that no image is
    read twice.

    `query` and `gallery` are manifests; `loader` yields the images of `files`.
    """

    name: str
    label: str
    note: str
    protocol: Protocol
    query: Manifest
    gallery: Manifest
    files: Manifest
    loader: EvalLoader


@dataclass
class Assessment:
    """A result with what is needed to show it: the features and the rows behind them (without unreadable
    images).
    """

    data: EvalData
    result: Result
    metric: str
    query: Manifest
    gallery: Manifest
    query_features: Tensor
    gallery_features: Tensor
    query_labels: Labels
    gallery_labels: Labels


def unique_files(query: Manifest, gallery: Manifest) -> Manifest:
    """The rows of both, each file only once, in order of first appearance."""
    rows: dict[str, tuple[Manifest, int]] = {}
    for manifest in (query, gallery):
        for row in range(len(manifest)):
            rows.setdefault(manifest.path[row], (manifest, row))
    first = [row for manifest, row in rows.values() if manifest is query]
    second = [row for manifest, row in rows.values() if manifest is gallery]
    q, g = query.take(first), gallery.take(second)
    return Manifest(query.root, q.path + g.path, q.pid + g.pid, q.camid + g.camid, q.split + g.split)


def assess(
    model: nn.Module,
    data: EvalData,
    device: torch.device,
    *,
    metric: str,
    flip: bool = False,
    channels_last: bool = False,
    check: Callable[[], None] = lambda: None,
) -> Assessment:
    """Evaluate `model` on one set; see `extract` for the arguments. Errors: ValueError if no query can be
    evaluated.
    """
    features = extract(model, data.loader, device, flip=flip, channels_last=channels_last, check=check)
    return _rank(data, features, metric)


def assess_colour(data: EvalData, policy: BadImagePolicy) -> Assessment:
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
    return _rank(data, Features(torch.stack(values), torch.tensor(rows)), "euclidean")


def _rank(data: EvalData, features: Features, metric: str) -> Assessment:
    place = {data.files.path[row]: i for i, row in enumerate(features.rows.tolist())}
    sides = []
    for manifest in (data.query, data.gallery):
        kept = manifest.take([row for row in range(len(manifest)) if manifest.path[row] in place])
        if not len(kept):
            raise ValueError(
                f"assess: {data.name}: got no readable image in the query or the gallery, expected some in "
                "both"
            )
        sides.append((kept, features.values[[place[path] for path in kept.path]]))
    (query, query_features), (gallery, gallery_features) = sides
    number = {pid: i for i, pid in enumerate(dict.fromkeys([*query.pid, *gallery.pid]))}
    labels = [
        Labels(torch.tensor([number[p] for p in m.pid]), torch.tensor(m.camid)) for m in (query, gallery)
    ]
    rows = query_features, gallery_features
    result = evaluate_features(*rows, *labels, data.protocol, metric=metric)
    return Assessment(data, result, metric, query, gallery, *rows, *labels)


def result_record(assessment: Assessment, ranked: int) -> dict[str, Any]:
    """The content of results/<set>.json: figures, every query, and the first `ranked` gallery entries of
    each.
    """
    data, result, query, gallery = assessment.data, assessment.result, assessment.query, assessment.gallery
    lists = ranked_lists_from_features(
        assessment.query_features,
        assessment.gallery_features,
        assessment.query_labels,
        assessment.gallery_labels,
        data.protocol,
        ranked,
        metric=assessment.metric,
    )
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
    return {
        "set": data.name,
        "label": data.label,
        "note": data.note,
        "protocol": result.protocol.to_dict(),
        "mAP": result.mAP,
        "mINP": result.mINP,
        "cmc": result.cmc,
        "counts": result.counts,
        "queries": queries,
        "ranked": ranks,
    }


def write_results(
    run: RunFolder, assessments: dict[str, Assessment], ranked: int, place: str = "results/{name}.json"
) -> list[Path]:
    """One file for every set; `place` is its name in the run folder."""
    return [
        run.write_json(place.format(name=name), result_record(assessment, ranked))
        for name, assessment in assessments.items()
    ]


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
