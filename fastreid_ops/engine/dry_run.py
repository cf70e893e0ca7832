# SPDX-License-Identifier: Apache-2.0
"""What a dry run leaves out: one batch of one epoch, a few files of every evaluation set, nothing that lasts."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from fastreid_ops.config import Config
from fastreid_ops.engine.assess import EvalData
from fastreid_ops.evaluation import Draws
from fastreid_ops.evaluation.draws import Trial

# Of each trial: people that are looked for, pictures of one person under one camera, frames of a tracklet.
_PEOPLE, _PICTURES, _FRAMES = 3, 2, 4


def shortened(config: Config) -> Config:
    """The same run with one epoch, no images kept in memory, no baselines, no page."""
    return replace(
        config,
        data=replace(config.data, cache_images=False),
        train=replace(config.train, epochs=1),
        eval=replace(config.eval, every=1 if config.eval.sets else 0, untrained=False, hsv_stripes=False),
        run=replace(config.run, report=False, tensorboard=False),
    )


class OneBatch:
    """The first batch of a training loader, and no other."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def len_epoch(self, epoch: int) -> int:
        return min(1, self.loader.len_epoch(epoch))

    def iterate(self, epoch: int, start_step: int = 0) -> Iterator[Any]:
        batches = self.loader.iterate(epoch, start_step)
        try:
            yield next(batches)
        finally:
            batches.close()  # workers end now, not when the garbage is collected


def few_files(data: EvalData) -> list[int]:
    """Rows of `data.files` that are enough for every trial of every result: the first people that stand on both
    sides, with a picture under each camera, in each outfit.
    """
    paths: set[str] = set()
    for drawn in data.draws.values():
        for trial in drawn.trials:
            for manifest, rows in zip((data.query, data.gallery), _rows(drawn, trial, data), strict=True):
                paths.update(manifest.path[row] for row in rows)
    return [row for row, path in enumerate(data.files.path) if path in paths]


def _rows(drawn: Draws, trial: Trial, data: EvalData) -> tuple[list[int], list[int]]:
    first = [
        [int(side.first[entry]) for entry in entries.tolist()]
        for side, entries in ((drawn.query, trial.query), (drawn.gallery, trial.gallery))
    ]
    cameras: dict[Any, set[int]] = {}
    for row in first[1]:
        cameras.setdefault(data.gallery.pid[row], set()).add(data.gallery.camid[row])
    known = [row for row in first[0] if data.query.pid[row] in cameras]
    # A match under the query's own camera may not count.
    other = [row for row in known if cameras[data.query.pid[row]] - {data.query.camid[row]}]
    people: dict[Any, list[int]] = {}
    for row in other or known or first[0]:
        found = (
            people.setdefault(data.query.pid[row], [])
            if len(people) < _PEOPLE
            else people.get(data.query.pid[row])
        )
        if found is not None and len(found) < _PICTURES:
            found.append(row)
    seen: dict[tuple, list[int]] = {}
    for row in first[1]:
        pid, outfit = data.gallery.pid[row], data.gallery.clothes and data.gallery.clothes[row]
        if pid in people:
            found = seen.setdefault((pid, data.gallery.camid[row], outfit), [])
            found += [row] * (len(found) < _PICTURES)
    gallery = [row for rows in seen.values() for row in rows] or first[1][:_PEOPLE]
    return (
        _frames(drawn.query, [row for rows in people.values() for row in rows]),
        _frames(drawn.gallery, gallery),
    )


def _frames(side: Any, rows: list[int]) -> list[int]:
    """The rows themselves, or the first frames of the tracklets they stand for."""
    if side.entry is None:
        return rows
    return [
        frame
        for row in rows
        for frame in (side.entry == side.entry[row]).nonzero().flatten()[:_FRAMES].tolist()
    ]
