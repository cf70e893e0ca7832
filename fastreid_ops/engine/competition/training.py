# SPDX-License-Identifier: Apache-2.0
"""The training runs of a plan: each is a run folder like any other, begun, gone on with or left as it is."""

import dataclasses
from pathlib import Path
from typing import Any

import torch

from fastreid_ops._atomic import write_atomic
from fastreid_ops.config import (
    Config,
    ConfigError,
    EvalSet,
    difference,
    flatten,
    from_dict,
    to_dict,
    validate,
)
from fastreid_ops.config.plan import ModelEntry, Plan, training_config
from fastreid_ops.config.read import Request, read_recipe, read_yaml
from fastreid_ops.data.manifest import Manifest
from fastreid_ops.engine import checkpoint, export, run, setup

# What may differ between a run and the plan that goes on with it: it changes no weights.
_HARMLESS = {"data.root", "data.workers", "data.cache_images"}
_WEIGHTY = {"run.threads", "run.deterministic"}


def _matters(key: str) -> bool:
    return key in _WEIGHTY or not (key in _HARMLESS or key.startswith(("run.", "eval.")))


class Training:
    """The run of one trained model of a plan. `config` is complete; `labels` is the CSV of its round of pseudo-labels,
    or None.
    """

    def __init__(self, plan: Plan, entry: ModelEntry, folder: Path) -> None:
        self.entry = entry
        self.folder = (folder / "models" / entry.name).absolute()
        self.labels = None if entry.pseudo is None else folder / "pseudo" / f"{entry.pseudo}.csv"
        config = training_config(plan, entry)
        config.run.folder = str(self.folder)
        if self.labels is not None:
            # Its own test rows are not in the CSV, so every set names the data it is of.
            config.eval.sets = [_of_its_own(item, config) for item in config.eval.sets]
            config.data.dataset, config.data.root, config.data.options = str(self.labels.absolute()), None, {}
        self.config = config

    def identity(self) -> dict[str, Any]:
        """Everything of the configuration that the weights depend on."""
        own = {key: value for key, value in flatten(to_dict(self.config)).items() if _matters(key)}
        if self.labels is not None:
            own["data.dataset"] = (
                self.labels.name
            )  # the folder may be moved; the content has a digest of its own
        return own

    @property
    def _mark(self) -> Path:
        """The digest of the pseudo-labels, or of the training rows, that the run was begun with."""
        return self.folder.with_name(f"{self.entry.name}.{'rows' if self.labels is None else 'labels'}")

    def _begun_with(self) -> str | None:
        return self._mark.read_text(encoding="ascii") if self._mark.is_file() else None

    @property
    def begun(self) -> bool:
        return (self.folder / "config.yaml").is_file()

    def check_device(self, device: str) -> None:
        """Refuse a model that cannot be trained on `device` (cpu or cuda) before others are. Errors: ConfigError."""
        here = dataclasses.replace(self.config, run=dataclasses.replace(self.config.run, device=device))
        validate(here, f"models.{self.entry.name}")

    def check(self, training: Manifest, rows: str) -> None:
        """Refuse, before any work, what could not be trained or gone on with; `rows` is the digest of `training`.

        Errors: ConfigError for options that the network or the method refuses, and for a run of another configuration
        or of other training rows.
        """
        if self.begun:
            changed = {key: pair for key, pair in self._changed().items() if _matters(key)}
            if changed:
                lines = "\n".join(
                    f"  {key}: got {now!r}, expected {was!r}" for key, (was, now) in changed.items()
                )
                raise ConfigError(
                    f"models.{self.entry.name}: got a changed configuration, expected that of the run in {self.folder}:"
                    f"\n{lines}\nchange it back, or take another name or another folder"
                )
            if self.labels is None and self._begun_with() != rows:
                raise ConfigError(
                    f"models.{self.entry.name}: got other training rows than the run in {self.folder} was begun with, "
                    "expected the same; take another name or another folder"
                )
            if self.labels is not None and self._begun_with() is None:
                raise ConfigError(
                    f"models.{self.entry.name}.pseudo: got {self.entry.pseudo}, expected none for the run in "
                    f"{self.folder}, which was begun without pseudo-labels; take another name or another folder"
                )
            return
        with torch.random.fork_rng(devices=[]):
            try:
                setup.build_state(
                    self.config, training, training.label_map(), torch.device("cpu"), lambda _: None
                )
            except (ValueError, TypeError, OSError) as error:
                raise ConfigError(f"models.{self.entry.name}: {error}") from error

    def _changed(self) -> dict[str, list[Any]]:
        """Keys that differ from the run's own, as [its value, the plan's]; where files lie does not count."""
        stored = to_dict(from_dict(read_yaml(self.folder / "config.yaml"), str(self.folder)))
        elsewhere = {"run.folder"} if self.labels is None else {"run.folder", "data.dataset"}
        changed = difference(stored, to_dict(self.config))
        return {key: pair for key, pair in changed.items() if key not in elsewhere}

    def run(self, digest: str) -> None:
        """Begin, or go on; `digest` of the pseudo-labels, or of the training rows where there are none.

        Errors: as `engine.run.run`; ConfigError for other pseudo-labels than it began with.
        """
        if self.begun:
            if self._begun_with() != digest:
                raise ConfigError(
                    f"models.{self.entry.name}: got other pseudo-labels than the run in {self.folder} was begun with, "
                    f"expected the same; remove that folder to train on the new ones"
                )
            stored = to_dict(from_dict(read_yaml(self.folder / "config.yaml"), str(self.folder)))
            allowed = list(self._changed()) + (["data.dataset"] if self.labels is not None else [])
            request = Request(str(self.folder), stored, self.config, resume=self.folder, resume_allow=allowed)
        else:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self._mark, digest.encode())
            request = Request(Path(self.entry.recipe).stem, read_recipe(self.entry.recipe), self.config)
        run.run(request)

    def has_epoch(self, epoch: int) -> bool:
        """Whether the checkpoint after `epoch` epochs is there."""
        return self._after(epoch) is not None

    def export_epoch(self, epoch: int, target: Path) -> None:
        """The weights after `epoch` epochs, from their checkpoint. Errors: CheckpointError if it is not there."""
        content = self._after(epoch)
        if content is None:
            raise checkpoint.CheckpointError(
                f"models.{self.entry.name}: {self.folder / 'checkpoints'}: got no sound checkpoint of epoch {epoch}, "
                "expected one; was the run stopped so often that run.keep removed it?"
            )
        label_map = dict(content["label_map"])
        known = export.metadata(self.config, label_map, content["step"], content["ema"] is not None)
        export.write_weights(content["ema"] or content["model"], known, target)

    def _after(self, epoch: int) -> dict[str, Any] | None:
        for path in checkpoint.steps(self.folder / "checkpoints"):
            try:
                content = checkpoint.read(path)
            except checkpoint.CheckpointError:
                continue  # a damaged one; going on with the run says so
            if (content["epoch"], content["batch"]) == (epoch, 0):
                return content
        return None


def _of_its_own(item: EvalSet, config: Config) -> EvalSet:
    if item.dataset is not None:
        return item
    data = config.data
    return dataclasses.replace(item, dataset=data.dataset, root=data.root, options=dict(data.options))


def trainings(plan: Plan, folder: Path) -> dict[str, Training]:
    """By name, those of the models that are trained."""
    return {entry.name: Training(plan, entry, folder) for entry in plan.models if entry.recipe is not None}
