# SPDX-License-Identifier: Apache-2.0
"""A round of pseudo-labels: the training rows with those test pictures that a model is sure of, as a CSV manifest."""

from pathlib import Path
from typing import Any

from torch import Tensor

from fastreid_ops.config.plan import PseudoRound
from fastreid_ops.data.manifest import Manifest
from fastreid_ops.engine.competition.features import TestPictures
from fastreid_ops.evaluation.pseudo_labels import pseudo_labels


def write_pseudo_manifest(
    asked: PseudoRound,
    query: Tensor,
    gallery: Tensor,
    pictures: TestPictures,
    training: Manifest,
    target: Path,
) -> dict[str, Any]:
    """Train rows of `training` and of the labelled pictures; returns how many there are.

    A gallery picture and the query it belongs to are one person, called unlabelled_NAME_NUMBER, which orders behind
    the labelled people of NAIC and behind numbers. Errors: ValueError if no picture is near enough.
    """
    known = len(training.label_map())
    found = pseudo_labels(query, gallery, asked.threshold, known=known)
    if not len(found.gallery):
        raise ValueError(
            f"pseudo.{asked.name}: got no gallery picture nearer to a query than threshold {asked.threshold}, "
            "expected at least one; a larger threshold or a better model is needed"
        )
    rows: list[int] = []
    pids: list[str] = []
    for side, picked, labels in zip(
        pictures.halves[asked.half],
        (found.query, found.gallery),
        (found.query_pids, found.gallery_pids),
        strict=True,
    ):
        rows += [side[row] for row in picked.tolist()]
        pids += [f"unlabelled_{asked.name}_{label - known:06d}" for label in labels.tolist()]
    files = pictures.files
    root = training.root
    paths = [*(str(training.file(row).absolute()) for row in range(len(training)))]
    added = [str(files.file(row).absolute()) for row in rows]
    # A picture that is a query and in the gallery stands in one row: its nearest query is itself.
    kept = {path: (pid, files.camid[row]) for path, pid, row in zip(added, pids, rows, strict=True)}
    manifest = Manifest(
        root,
        path=[*paths, *kept],
        pid=[*training.pid, *(pid for pid, _ in kept.values())],
        camid=[*training.camid, *(camid for _, camid in kept.values())],
        split=["train"] * (len(paths) + len(kept)),
    )
    manifest.write_csv(target)
    return {"known": known, "people": len(found.query), "pictures": len(kept), "classes": found.classes}
