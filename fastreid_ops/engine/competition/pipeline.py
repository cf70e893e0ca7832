# SPDX-License-Identifier: Apache-2.0
"""From a plan to a ranking file. Each arrow is a stage with files of its own, made once (see `stages`):

    recipe -> models/NAME -> features/NAME.npy -> distances/NAME-HALF-METHOD.npy -> result-METHOD.json
                                      |
                                      +-> pseudo/ROUND.csv -> models/OTHER -> ...

Where it is known who the test people are, scores-METHOD.json says how good each ranking is. The ensemble is the
unweighted mean of the models' distances, a block of rows of one matrix at a time.
"""

import dataclasses
import hashlib
import json
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from fastreid_ops._atomic import write_atomic
from fastreid_ops.config import ConfigError
from fastreid_ops.config.plan import ModelEntry, Plan, RerankEntry
from fastreid_ops.config.read import dump_yaml
from fastreid_ops.data.datasets import read_dataset
from fastreid_ops.engine import environment
from fastreid_ops.engine.assess import table_text
from fastreid_ops.engine.competition.arrays import ArrayRows
from fastreid_ops.engine.competition.distances import block_rows, distance_blocks, write_distances
from fastreid_ops.engine.competition.features import TestPictures, read_pairs, write_features
from fastreid_ops.engine.competition.preparation import check_room, make_folder, remove_halves
from fastreid_ops.engine.competition.pseudo import write_pseudo_manifest
from fastreid_ops.engine.competition.scores import are_known, score
from fastreid_ops.engine.competition.sorting import write_missing_lists
from fastreid_ops.engine.competition.stages import Sealed, Stages, file_digest
from fastreid_ops.engine.competition.training import trainings
from fastreid_ops.engine.export import WEIGHTS, read_metadata
from fastreid_ops.engine.interrupt import Interrupt
from fastreid_ops.engine.log import Log
from fastreid_ops.engine.run import FAILURES
from fastreid_ops.engine.run_folder import RunFolder
from fastreid_ops.evaluation.ensembles import mean_distances
from fastreid_ops.evaluation.rankings import ranking_from_distances, write_ranking


class Weights(NamedTuple):
    """A file of weights and its sha256 (or "to do")."""

    path: Path
    digest: str


class Entry:
    """A competition entry in its folder. Building one reads the data and refuses what cannot run; `result` works.

    With ``look`` nothing is made, and `stages.states` says what would be.
    """

    def __init__(self, plan: Plan, folder: Path, log: Log, *, look: bool = False) -> None:
        self.plan, self.folder, self.log = plan, folder, log
        self.stages = Stages(folder, (lambda _: None) if look else log.say, look)
        self.device = environment.pick_device(plan.device)
        if not look:
            write_missing_lists(plan.data, log.say)
        manifest = read_dataset(plan.data.dataset, plan.data.root, **plan.data.options)
        self.training = manifest.select("train")
        self.rows = _digest([self.training.path, self.training.pid])
        self.pictures = TestPictures(manifest)
        self.runs = trainings(plan, folder)
        self._seen: dict[str, Sealed] = {}
        self._taken: dict[str, Weights] = {}
        self._check()

    def _check(self) -> None:
        halves = self.pictures.halves
        for asked in self.plan.pseudo:
            if asked.half not in halves:
                raise ConfigError(
                    f"pseudo.{asked.name}.half: got {asked.half}, expected one of {', '.join(halves)}"
                )
        for entry in self.plan.models:
            if entry.weights is not None:
                read_metadata(_weights_file(entry))
        if self.runs and not len(self.training):
            raise ConfigError("data: got no training rows, expected some for the models that are trained")
        for run in self.runs.values():
            run.check(self.training, self.rows)

    def members(self, entry: ModelEntry) -> list[str]:
        """What of a model ranks: itself, or the model after each of its epochs."""
        return [f"{entry.name}-epoch{epoch}" for epoch in entry.epochs] or [entry.name]

    def result(self) -> Path:
        """The ranking file, with everything that it needs and that is not there yet. Errors: those of the stages."""
        plan, method = self.plan, self.plan.rerank.method
        names = [label for name in plan.ranking() for label in self.members(plan.model(name))]
        made = {
            label: {half: self.distances(label, half) for half in self.pictures.halves} for label in names
        }
        files = [f"result-{method}.json", *(f"results/{label}-{method}.json" for label in names)]
        inputs = {
            "pictures": self.pictures.digest,
            "distances": {
                label: {half: one.files for half, one in each.items()} for label, each in made.items()
            },
            "top": plan.top,
        }
        self.stages.run(f"result-{method}", inputs, files, lambda: self._rank(made, files))
        if are_known(self.pictures):
            self._score(made, inputs)
        return self.folder / files[0]

    def check_place(self) -> None:
        """Errors: ConfigError for a model that cannot be trained on this device, and where the disk has no room for the
        distances that are not there yet.
        """
        for run in self.runs.values():
            run.check_device(self.device.type)
        members = [label for name in self.plan.ranking() for label in self.members(self.plan.model(name))]
        shapes = {
            self._distances_file(label, half): (len(query), len(gallery))
            for label in members
            for half, (query, gallery) in self.pictures.halves.items()
        }
        check_room(self.folder, shapes)

    def weights(self, label: str) -> Weights:
        """The weights of a member, trained where they have to be."""
        entry = self._entry_of(label)
        if entry.weights is not None:
            path = _weights_file(entry)
            if label not in self._taken:
                self._taken[label] = Weights(path, file_digest(path))
            return self._taken[label]
        run = self.runs[entry.name]
        labels = (
            None if entry.pseudo is None else self.pseudo(entry.pseudo).files[f"pseudo/{entry.pseudo}.csv"]
        )
        files = {each: f"weights/{each}.safetensors" for each in self.members(entry) if entry.epochs}
        files = files or {entry.name: f"models/{entry.name}/{WEIGHTS}"}

        inputs = {"config": run.identity(), "labels": labels, "training": self.rows}

        def export(member: str, epoch: int) -> None:
            file = files[member]
            make = partial(run.export_epoch, epoch, self.folder / file)
            self.stages.run(f"weights-{member}", inputs, [file], make)

        def train() -> None:
            asked = dict(zip(files, entry.epochs, strict=False))
            # Taken before the run goes on: one that is stopped often keeps too few checkpoints for all of them.
            for member, epoch in asked.items():
                if run.begun and run.has_epoch(epoch):
                    export(member, epoch)
            run.run(self.rows if labels is None else labels)
            self._prepare()
            for member, epoch in asked.items():
                export(member, epoch)

        made = self._once(f"train-{entry.name}", inputs, list(files.values()), train)
        return Weights(self.folder / files[label], made.files[files[label]])

    def features(self, label: str) -> Sealed:
        """The features of all test pictures by a member."""
        weights = self.weights(label)
        target = f"features/{label}.npy"
        inputs = {"weights": weights.digest, "pictures": self.pictures.digest, "flip": self.plan.flip}

        def make() -> dict[str, Any]:
            self._prepare()
            with Interrupt() as stop:
                return write_features(
                    weights.path, self.pictures, self.plan, self.device, self.folder / target, stop.check
                )

        return self._once(f"features-{label}", inputs, [target], make)

    def pseudo(self, name: str) -> Sealed:
        """The manifest of a round of pseudo-labels."""
        asked = self.plan.round(name)
        label = self.members(self.plan.model(asked.model))[-1]
        features = self.features(label)
        target = f"pseudo/{name}.csv"
        inputs = {
            "features": features.files,
            "half": asked.half,
            "threshold": asked.threshold,
            "training": self.rows,
        }

        def make() -> dict[str, Any]:
            pairs = self._pairs(label, features, asked.half)
            facts = write_pseudo_manifest(
                asked, *pairs[0], self.pictures, self.training, self.folder / target
            )
            self.log.say(f"  {facts['pictures']} pictures of {facts['people']} people are labelled")
            return facts

        return self._once(f"pseudo-{name}", inputs, [target], make)

    def distances(self, label: str, half: str) -> Sealed:
        """The distances of one half by a member."""
        features, rerank = self.features(label), self.plan.rerank
        target = self._distances_file(label, half)
        settings: dict[str, Any] = {"method": rerank.method}
        if rerank.method != "none":
            settings |= {"k1": rerank.k1, "k2": rerank.k2, "lambda_value": rerank.lambda_value}
        if rerank.method == "chunked":
            settings["chunk"] = rerank.chunk
        inputs = {"features": features.files, "half": half, **settings}

        def make() -> None:
            self._prepare()
            with Interrupt() as stop:
                pairs = self._pairs(label, features, half)
                write_distances(pairs, rerank, self._rows(half), self.folder / target, stop.check)

        return self._once(f"distances-{label}-{half}-{rerank.method}", inputs, [target], make)

    def _rank(self, made: dict[str, dict[str, Sealed]], files: list[str]) -> None:
        whole, *own = [self.folder / file for file in files]
        for target, labels in [*zip(own, [[label] for label in made], strict=True), (whole, list(made))]:
            rankings = []
            for half, (query, gallery) in self.pictures.halves.items():
                blocks = self._mean(labels, half)
                names = self.pictures.names(query), self.pictures.names(gallery)
                rankings.append(ranking_from_distances(blocks, *names, self.plan.top))
            write_ranking(target, *rankings)

    def _score(self, made: dict[str, dict[str, Sealed]], inputs: dict[str, Any]) -> None:
        """Figures of each member by the angle of its features and by its distances, and of all together."""
        method = self.plan.rerank.method
        target = f"scores-{method}.json"

        def make() -> None:
            rows = []
            for half in self.pictures.halves:
                for label in made:
                    pairs = self._pairs(label, self.features(label), half)
                    angles = distance_blocks(pairs, RerankEntry(method="none"), self._rows(half))
                    rows.append(score(f"{label}, angle", self.pictures, half, angles))
                    if method != "none":
                        rows.append(
                            score(f"{label}, {method}", self.pictures, half, self._mean([label], half))
                        )
                if len(made) > 1:
                    rows.append(
                        score(f"together, {method}", self.pictures, half, self._mean(list(made), half))
                    )
            write_atomic(self.folder / target, (json.dumps({"rows": rows}, indent=1) + "\n").encode())

        inputs = {**inputs, "people": _digest([str(pid) for pid in self.pictures.files.pid])}
        self.stages.run(f"scores-{method}", inputs, [target], make)
        if not self.stages.look:
            rows = json.loads((self.folder / target).read_text(encoding="utf-8"))["rows"]
            self.log.say("\n" + table_text(rows) + "\n")

    def _mean(self, labels: list[str], half: str) -> Iterator[Tensor]:
        files = [self.folder / self._distances_file(label, half) for label in labels]
        return mean_distances([ArrayRows(file) for file in files], rows=self._rows(half))

    def _distances_file(self, label: str, half: str) -> str:
        return f"distances/{label}-{half}-{self.plan.rerank.method}.npy"

    def _rows(self, half: str) -> int:
        return block_rows(self.plan.rows, len(self.pictures.halves[half][1]))

    def agreement(self) -> list[str]:
        """A sentence for each other method that this folder has a result of: how often it lists the same."""
        mine = self.folder / f"result-{self.plan.rerank.method}.json"
        found = []
        for path in sorted(self.folder.glob("result-*.json")):
            if path != mine:
                same, first, shared = _agreement(mine, path)
                found.append(
                    f"compared with {path.name}: the same list for {same:.1%} of the queries, the same first name for "
                    f"{first:.1%}, {shared:.1%} of the names in common"
                )
        return found

    def _pairs(self, label: str, features: Sealed, half: str) -> list[tuple[Tensor, Tensor]]:
        path = self.folder / f"features/{label}.npy"
        pairs = read_pairs(path, features.facts["pieces"], self.pictures.halves[half])
        return [(query.to(self.device), gallery.to(self.device)) for query, gallery in pairs]

    def _entry_of(self, label: str) -> ModelEntry:
        return next(entry for entry in self.plan.models if label in self.members(entry))

    def _prepare(self) -> None:
        """Threads and determinism of the plan's own work; a training run sets those of its recipe."""
        environment.prepare(self.plan.threads, True)

    def _once(self, name: str, inputs: dict[str, Any], files: list[str], make: Callable[[], Any]) -> Sealed:
        """A stage that several others need is looked at once in a call of the program."""
        if name not in self._seen:
            self._seen[name] = self.stages.run(name, inputs, files, make)
        return self._seen[name]


def make_entry(plan: Plan, folder: Path) -> Path:
    """Everything of a plan, in `folder`, which one process holds at a time; returns the ranking file.

    Errors: ConfigError and ValueError before any work for what cannot run; those of training; Interrupted.
    """
    make_folder(folder)
    held = RunFolder(folder)
    remark = held.lock()
    log = Log(held / "log.txt")
    try:
        if remark is not None:
            log.say(remark)
        for name in remove_halves(held.path):
            log.say(f"{name} was not finished and is removed")
        entry = Entry(plan, held.path, log)
        entry.check_place()
        held.write_text("plan.yaml", dump_yaml(dataclasses.asdict(plan)))
        log.say(f"folder: {held.path}")
        path = entry.result()
        for line in [*entry.agreement(), f"ranking file: {path}"]:
            log.say(line)
        return path
    except FAILURES:
        log.note(traceback.format_exc())
        raise
    finally:
        log.close()
        held.release()


def status(plan: Plan, folder: Path) -> dict[str, str]:
    """The stages in their order, each "done" or why it is not; nothing is made. Errors: as `make_entry` before work."""
    entry = Entry(plan, folder.resolve(), Log(), look=True)
    entry.result()
    return entry.stages.states


def _weights_file(entry: ModelEntry) -> Path:
    path = Path(entry.weights)
    return path / WEIGHTS if path.is_dir() else path


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def _agreement(one: Path, other: Path) -> tuple[float, float, float]:
    """Shares of equal lists, of equal first names, and of common names."""
    left, right = (json.loads(path.read_text(encoding="utf-8")) for path in (one, other))
    both = [(left[name], right[name]) for name in left.keys() & right.keys()]
    if not both:
        return 0.0, 0.0, 0.0
    shared = [len(set(a) & set(b)) / max(len(a), len(b)) for a, b in both]
    return (
        sum(a == b for a, b in both) / len(both),
        sum(a[:1] == b[:1] for a, b in both) / len(both),
        sum(shared) / len(both),
    )
