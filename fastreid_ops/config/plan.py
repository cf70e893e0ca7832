# SPDX-License-Identifier: Apache-2.0
"""The plan of a competition entry: which models are trained or taken, which of them label pictures for others, how
their rankings become one.
"""

import dataclasses
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from fastreid_ops.config.check import validate
from fastreid_ops.config.read import RECIPES, read_recipe, read_yaml
from fastreid_ops.config.schema import Config, Options
from fastreid_ops.config.values import ConfigError, fill, flatten, from_dict, nearest, to_dict

PLANS = RECIPES / "competition"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass
class PlanData:
    """What is trained on (its training rows) and ranked (its queries and gallery); takes the place of the recipes'
    own data set. Where test rows are of the modalities green and normal, each half is ranked by itself; otherwise
    there is one half, called all.
    """

    dataset: str = "naic"
    root: str | None = None
    options: Options = field(default_factory=dict)


@dataclass
class ModelEntry:
    """One model: trained by `recipe` (of the package, or a YAML file) with `overrides` of it, or taken from `weights`,
    a run folder or the weights.safetensors of one.

    `pseudo` names a round whose pictures are trained on as well. `epochs`: the checkpoints after these epochs rank,
    each by itself; none: the final weights.
    """

    name: str
    recipe: str | None = None
    overrides: Options = field(default_factory=dict)
    pseudo: str | None = None
    weights: str | None = None
    epochs: list[int] = field(default_factory=list)


@dataclass
class PseudoRound:
    """Labels for the test pictures of a half: a gallery picture whose nearest query, by the angle of the features of
    `model`, is nearer than `threshold` (radians) belongs to it.
    """

    name: str
    model: str
    half: str = "green"
    threshold: float = 0.3


@dataclass
class RerankEntry:
    """Distances of each model: `exact` k-reciprocal re-ranking; `chunked`, the approximation that re-ranks blocks of
    `chunk` queries and gallery pictures each as if there were no others, for comparison; `none`, the angle.
    """

    method: Literal["exact", "chunked", "none"] = "exact"
    k1: int = 30
    k2: int = 2
    lambda_value: float = 0.8
    chunk: list[int] = field(default_factory=lambda: [300, 600])


@dataclass
class Plan:
    """Everything a competition entry depends on. `ensemble` names the models that rank (none named: all); `top`
    gallery names are listed for each query. `flip` adds the features of mirror images. `rows`: of a block of
    distances, all that is ever held of a matrix; fewer where they would be more than 256 MiB.
    """

    folder: str | None = None
    data: PlanData = field(default_factory=PlanData)
    models: list[ModelEntry] = field(default_factory=list)
    pseudo: list[PseudoRound] = field(default_factory=list)
    ensemble: list[str] = field(default_factory=list)
    rerank: RerankEntry = field(default_factory=RerankEntry)
    top: int = 200
    flip: bool = True
    batch_size: int = 128
    workers: int = 4
    rows: int = 1024
    device: str = "auto"
    threads: int | None = None

    def model(self, name: str) -> ModelEntry:
        """The entry of a model."""
        return next(entry for entry in self.models if entry.name == name)

    def round(self, name: str) -> PseudoRound:
        """The entry of a round of pseudo-labels."""
        return next(entry for entry in self.pseudo if entry.name == name)

    def ranking(self) -> list[str]:
        """The models that rank, in the order of the plan."""
        return [entry.name for entry in self.models if not self.ensemble or entry.name in self.ensemble]


def plans() -> list[str]:
    """Names of the packaged plans."""
    return sorted(path.stem for path in PLANS.glob("*.yaml"))


def read_plan(name: str, overrides: list[str] = ()) -> Plan:
    """A packaged plan or a YAML file, with ``--key value`` words over it; checked by `validate_plan`.

    Errors: ConfigError naming file and key.
    """
    path = Path(name)
    if not name.lower().endswith((".yaml", ".yml")):
        if name not in plans():
            raise ConfigError(
                f"--plan: got {name!r}, expected a plan or a .yaml file{nearest(name, plans())}"
            )
        path = PLANS / f"{name}.yaml"
    values = dataclasses.asdict(fill(Plan, read_yaml(path), str(path)))
    known = [key for key in flatten(values) if key not in ("models", "pseudo")]
    words = list(overrides)
    while words:
        key, equals, value = words.pop(0).partition("=")
        if not key.startswith("--") or key[2:] not in known:
            raise ConfigError(f"command line: unknown key {key}{nearest(key.removeprefix('--'), known)}")
        if not equals:
            if not words:
                raise ConfigError(f"command line: {key}: got nothing, expected a value")
            value = words.pop(0)
        put(values, key[2:], _value(key, value))
    return validate_plan(fill(Plan, values, "command line" if overrides else str(path)), str(path))


def _value(key: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"command line: {key}: got {text!r}, expected a value as in YAML") from error


def put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key of nested values; tables on the way must be there."""
    *tables, last = key.split(".")
    for table in tables:
        values = values[table]
    values[last] = value


def training_config(plan: Plan, entry: ModelEntry) -> Config:
    """The configuration a model is trained with: its recipe, the plan's data, device and threads, its overrides.

    Errors: ConfigError for unknown keys and for what cannot run.
    """
    source = f"models.{entry.name}"
    values = read_recipe(entry.recipe)
    values["data"] |= dataclasses.asdict(plan.data)
    values["run"] |= {"device": plan.device}
    if plan.threads is not None:
        values["run"]["threads"] = plan.threads
    known = [key for key in flatten(to_dict(Config())) if key != "run.folder"]
    for key, value in entry.overrides.items():
        table = key.rpartition(".")[0]
        if key not in known and not (table in known and table.endswith(".options")):
            raise ConfigError(f"{source}: overrides: unknown key {key}{nearest(key, known)}")
        put(values, key, value)
    return validate(from_dict(values, source), source)


def validate_plan(plan: Plan, source: str) -> Plan:
    """`plan` itself if it can run, as far as can be seen without data. Errors: one ConfigError with all findings."""
    found = [*_numbers(plan), *_names(plan)]
    if not found:
        found = [line for entry in plan.models for line in _entry(plan, entry)]
    if found:
        raise ConfigError("\n".join(f"{source}: {line}" for line in found))
    return plan


def _numbers(plan: Plan) -> list[str]:
    asked = {
        "top": plan.top,
        "batch_size": plan.batch_size,
        "rows": plan.rows,
        "rerank.k1": plan.rerank.k1,
        "rerank.k2": plan.rerank.k2,
        "threads": 1 if plan.threads is None else plan.threads,
    }
    found = [f"{key}: got {value}, expected a number above 0" for key, value in asked.items() if value < 1]
    if plan.workers < 0:
        found.append(f"workers: got {plan.workers}, expected 0 or a number above")
    if not 0 <= plan.rerank.lambda_value <= 1:
        found.append(f"rerank.lambda_value: got {plan.rerank.lambda_value}, expected a number from 0 to 1")
    if len(plan.rerank.chunk) != 2 or min(plan.rerank.chunk) < 1:
        found.append(
            f"rerank.chunk: got {plan.rerank.chunk}, expected two numbers above 0, queries and gallery"
        )
    for each in plan.pseudo:
        if not (math.isfinite(each.threshold) and each.threshold > 0):
            found.append(f"pseudo.{each.name}.threshold: got {each.threshold}, expected an angle above 0")
    return found


def _names(plan: Plan) -> list[str]:
    models, rounds = [m.name for m in plan.models], [p.name for p in plan.pseudo]
    found = [] if models else ["models: got none, expected at least one"]
    for place, names in (("models", models), ("pseudo", rounds)):
        for name in dict.fromkeys(names):
            if not _NAME.fullmatch(name):
                found.append(f"{place}: name: got {name!r}, expected letters, digits, _ and -")
            if names.count(name) > 1:
                found.append(f"{place}: got the name {name!r} twice, expected different names")
    asked = [(f"pseudo.{p.name}.model", p.model, models) for p in plan.pseudo]
    asked += [(f"models.{m.name}.pseudo", m.pseudo, rounds) for m in plan.models if m.pseudo is not None]
    asked += [("ensemble", name, models) for name in plan.ensemble]
    found += [
        f"{place}: got {name!r}, expected a name of the plan{nearest(name, known)}"
        for place, name, known in asked
        if name not in known
    ]
    return found or _circles(plan)


def _circles(plan: Plan) -> list[str]:
    """A model must not be labelled for by itself, however indirectly."""
    found = []
    for entry in plan.models:
        seen, at = [entry.name], entry
        while at.pseudo is not None:
            at = plan.model(plan.round(at.pseudo).model)
            if at.name in seen:
                found.append(f"models.{entry.name}.pseudo: got a circle {' <- '.join([*seen, at.name])}")
                break
            seen.append(at.name)
    return found


def _entry(plan: Plan, entry: ModelEntry) -> list[str]:
    place = f"models.{entry.name}"
    if (entry.recipe is None) == (entry.weights is None):
        both = "neither" if entry.recipe is None else "both"
        return [f"{place}: got {both} of recipe and weights, expected one of them"]
    if entry.weights is not None:
        given = [key for key in ("overrides", "pseudo", "epochs") if getattr(entry, key)]
        return [f"{place}.{key}: got a value beside weights, expected it with a recipe only" for key in given]
    try:
        config = training_config(plan, entry)
    except ConfigError as error:
        return [str(error)]
    if config.data.sources:
        return [
            f"{place}: data.sources: got {len(config.data.sources)}, expected none: a plan trains on its own data"
        ]
    return _epochs(place, entry.epochs, config)


def _epochs(place: str, epochs: list[int], config: Config) -> list[str]:
    last, every, keep = config.train.epochs, config.run.checkpoint_every_epochs, config.run.keep
    found = []
    for epoch in epochs:
        if not 0 < epoch <= last or (epoch % every and epoch != last):
            found.append(
                f"{place}.epochs: got {epoch}, expected an epoch with a checkpoint: every {every} up to {last}"
            )
    if len(set(epochs)) < len(epochs):
        found.append(f"{place}.epochs: got {epochs}, expected each epoch once")
    if epochs and not found:
        later = len({*range(min(epochs), last + 1, every), last})
        if later > keep:
            found.append(
                f"{place}.epochs: got {min(epochs)} with run.keep {keep}, expected at least {later} kept checkpoints"
            )
        if config.run.checkpoint_every_steps is not None:
            found.append(
                f"{place}.epochs: got run.checkpoint_every_steps as well, expected null: it ousts them"
            )
    return found
