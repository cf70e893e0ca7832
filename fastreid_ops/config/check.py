# SPDX-License-Identifier: Apache-2.0
"""Values that cannot run are refused before anything starts, all of them in one message."""

import math
import re
from dataclasses import replace
from pathlib import PurePath

from fastreid_ops.config.schema import Config, DataConfig, DataSource, EvalSet
from fastreid_ops.config.values import ConfigError, flatten, nearest, to_dict

# Methods for visible and infrared images: their own terms of loss.cross_modal.
CROSS_MODAL = {
    "wrim": ("cmkic",),
    "deen": ("cpm", "orthogonality", "branch_orthogonality", "contrastive"),
    "agw": (),
}
_SET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_POSITIVE = [
    "data.height",
    "data.width",
    "data.batch_size",
    "data.sequence_length",
    "train.epochs",
    "train.accumulate",
    "eval.batch_size",
    "eval.ranked",
    "run.log_every",
    "run.checkpoint_every_epochs",
    "run.keep",
    "run.rank_timeout",
    "optim.lr",
    "loss.naic.scale",
]
_POSITIVE_OR_NULL = [
    "data.images_per_id",
    "data.domains_per_batch",
    "optim.clip",
    "run.threads",
    "run.checkpoint_every_steps",
]
_NOT_NEGATIVE = [
    "data.crop_padding",
    "data.brightness",
    "data.contrast",
    "data.saturation",
    "data.workers",
    "loss.cross_entropy",
    "loss.triplet",
    "loss.naic.center",
    "loss.naic.margin",
    "loss.naic.part",
    "loss.naic.merge",
    "optim.weight_decay",
    "schedule.warmup_epochs",
    "eval.every",
    "train.fixed_base_epochs",
    "train.seed",
]
_CLOTHES_NOT_NEGATIVE = [
    "loss.clothes.from_epoch",
    "loss.clothes.correction",
    "loss.clothes.unclothed",
    "loss.clothes.distillation",
    "loss.clothes.adversarial",
]
_CROSS_MODAL_NOT_NEGATIVE = [
    "loss.cross_modal.cmkic",
    "loss.cross_modal.cpm",
    "loss.cross_modal.cpm_margin",
    "loss.cross_modal.orthogonality",
    "loss.cross_modal.branch_orthogonality",
    "loss.cross_modal.contrastive",
]
_FRACTION = [
    "data.flip",
    "data.erasing",
    "data.translation",
    "data.patch",
    "data.grey",
    "data.channel_exchange",
    "data.pca",
    "loss.label_smoothing",
    "schedule.warmup_factor",
    "schedule.gamma",
    "schedule.final_factor",
    "optim.momentum",
]


def validate(config: Config, source: str = "config") -> Config:
    """`config` itself if it can run. Errors: one ConfigError listing every value that cannot, with what is
    expected.
    """
    flat = flatten(to_dict(config))
    found = [
        f"{key}: got {v}, expected a finite number"
        for key, v in flat.items()
        if isinstance(v, float) and not math.isfinite(v)
    ]

    def need(keys, ok, expected):
        found.extend(f"{key}: got {flat[key]!r}, expected {expected}" for key in keys if not ok(flat[key]))

    need(_POSITIVE, lambda v: v > 0, "a number above 0")
    need(_POSITIVE_OR_NULL, lambda v: v is None or v > 0, "a number above 0, or null")
    need(_NOT_NEGATIVE, lambda v: v >= 0, "0 or a number above")
    need(_CLOTHES_NOT_NEGATIVE, lambda v: v >= 0, "0 or a number above")
    need(["loss.clothes.temperature", "loss.clothes.scale"], lambda v: v > 0, "a number above 0")
    need(["loss.clothes.epsilon"], lambda v: 0 <= v <= 1, "a number from 0 to 1")
    need(
        ["loss.clothes.momentum", "loss.clothes.classifier_smoothing"],
        lambda v: 0 <= v < 1,
        "a number from 0 to below 1",
    )
    need(_CROSS_MODAL_NOT_NEGATIVE, lambda v: v >= 0, "0 or a number above")
    need(["loss.cross_modal.cmkic_k", "loss.cross_modal.temperature"], lambda v: v > 0, "a number above 0")
    need(_FRACTION, lambda v: 0 <= v <= 1, "a number from 0 to 1")
    need(["loss.label_smoothing"], lambda v: v < 1, "a number below 1")
    need(["data.hue"], lambda v: 0 <= v <= 0.5, "a number from 0 to 0.5")
    need(
        ["data.scale"],
        lambda v: len(v) == 2 and 0 < v[0] <= v[1],
        "two factors above 0, the smallest and the largest",
    )
    need(
        ["data.erasing_area"],
        lambda v: len(v) == 2 and 0 < v[0] <= v[1] <= 1,
        "two fractions above 0 and at most 1, the smallest and the largest",
    )
    need(["data.erasing_aspect"], lambda v: 0 < v <= 1, "a number above 0 and at most 1")
    need(["train.ema"], lambda v: v is None or 0 < v < 1, "a number between 0 and 1, or null")
    need(["loss.margin"], lambda v: v is None or v >= 0, "0 or above, or null for the soft margin")
    need(["data.mean", "data.std"], lambda v: len(v) == 3, "three numbers (red, green, blue)")
    need(["data.std"], lambda v: all(x > 0 for x in v), "numbers above 0")
    need(
        ["optim.betas"], lambda v: len(v) == 2 and all(0 <= x < 1 for x in v), "two numbers from 0 to below 1"
    )
    need(
        ["schedule.milestones"],
        lambda v: v == sorted(set(v)) and all(m > 0 for m in v),
        "rising epoch numbers above 0",
    )
    need(["run.device"], lambda v: re.fullmatch(r"auto|cpu|cuda(:\d+)?", v), "auto, cpu, cuda or cuda:N")
    found += _combinations(config) + _names(config)
    if found:
        raise ConfigError("\n".join(f"{source}: {line}" for line in found))
    return config


def batch_layout(config: Config) -> list[str]:
    """Whether the batch size is what the sampler can make, and holds pairs where a loss needs them."""
    data, found = config.data, []
    kind, each = data.sampler_kind, data.images_per_id
    unit, words = 1, ""
    if kind in ("pk", "paired", "clothes"):
        if each is None:
            return [f"data.images_per_id: got null, expected a number for data.sampler {kind}"]
        unit, words = each, f"data.images_per_id = {each}"
        if kind == "paired":
            unit, words = 2 * each, f"2 * data.images_per_id = {2 * each} (visible and infrared)"
    elif kind == "tracklet":
        unit = data.sequence_length * (each or 1)
        words = f"data.sequence_length{' * data.images_per_id' if each else ''} = {unit}"
    elif kind == "domain" and data.domains_per_batch:
        unit, words = data.domains_per_batch, f"data.domains_per_batch = {data.domains_per_batch}"
    if unit > 0 and data.batch_size % unit:
        found.append(f"data.batch_size: got {data.batch_size}, expected a multiple of {words}")
    if config.loss.triplet > 0:
        people = data.batch_size // unit if each and kind not in ("shuffled", "domain") and unit > 0 else 0
        images = 2 * each if each and kind == "paired" else unit
        if not people:
            got = "no data.images_per_id" if each is None else f"data.sampler {kind}"
        else:
            got = f"{people} people x {images} images"
        if people < 2 or images < 2:
            found.append(f"loss.triplet: got {got} in a batch, expected at least 2 x 2 (or loss.triplet 0)")
    return found


def check_shares(config: Config, ranks: int) -> None:
    """Whether `ranks` processes can share the batches: identities, sequences and domains stay whole.

    Errors: ConfigError with every finding.
    """
    data = config.data
    if ranks == 1:
        return
    if data.batch_size % ranks:
        raise ConfigError(
            f"data.batch_size: got {data.batch_size}, expected a multiple of the {ranks} ranks that share it"
        )
    found = batch_layout(replace(config, data=replace(data, batch_size=data.batch_size // ranks)))
    if found:
        raise ConfigError(
            "\n".join(
                f"{line}: data.batch_size is shared by {ranks} ranks, this is one's part" for line in found
            )
        )


def _cross_modal(config: Config) -> list[str]:
    """Whether a method for two modalities gets batches of both halves, and the terms belong to the method."""
    method, found = config.train.method, []
    if method in CROSS_MODAL and config.data.sampler_kind != "paired":
        found.append(
            f"data.sampler: got {config.data.sampler_kind}, expected paired for train.method {method}"
        )
    weights = {key: value for key, value in vars(config.loss.cross_modal).items() if isinstance(value, float)}
    for term, value in weights.items():
        owner = [name for name, terms in CROSS_MODAL.items() if term in terms]
        if owner and value > 0 and method not in owner:
            found.append(
                f"loss.cross_modal.{term}: got {value} with train.method {method}, expected 0 (it is a term of "
                f"{owner[0]})"
            )
    return found


def _combinations(config: Config) -> list[str]:
    found = batch_layout(config) + _cross_modal(config)
    loss, schedule = config.loss, config.schedule
    if loss.cross_entropy == 0 and loss.triplet == 0:
        found.append("loss: got weight 0 for every term, expected at least one above 0")
    if schedule.name == "multistep" and not schedule.milestones:
        found.append("schedule.milestones: got [], expected epochs for schedule.name multistep")
    if schedule.warmup_epochs > config.train.epochs:
        found.append(
            f"schedule.warmup_epochs: got {schedule.warmup_epochs}, expected at most train.epochs = "
            f"{config.train.epochs}"
        )
    if config.train.amp == "fp16" and config.run.device == "cpu":
        found.append(
            "train.amp: got 'fp16' with run.device cpu, expected bf16 or off (fp16 needs the scaler of a GPU)"
        )
    if config.train.sync_batch_norm and config.run.device == "cpu":
        found.append(
            "train.sync_batch_norm: got True with run.device cpu, expected False (torch has it for GPUs)"
        )
    found += _groups(config) + _fixed_base(config)
    optim = config.optim
    if optim.nesterov and (optim.name != "sgd" or optim.momentum == 0):
        found.append(
            f"optim.nesterov: got true with optim.name {optim.name} and momentum {optim.momentum}, expected sgd "
            "with a momentum above 0"
        )
    names = [s.name for s in config.eval.sets]
    files = [*names, *(name for s in config.eval.sets for name in result_names(s) if name != s.name)]
    found += [
        f"eval.sets: name {n!r} appears twice, expected different names"
        for n in sorted(set(files))
        if files.count(n) > 1
    ]
    found += [
        f"eval.sets: name: got {n!r}, expected letters, digits, _ and -, and not table"
        for n in names
        if not _SET_NAME.fullmatch(n) or n == "table"
    ]
    found += [
        f"eval.sets: {s.name}: frames: got {s.frames}, expected a number above 0, or null"
        for s in config.eval.sets
        if s.frames is not None and s.frames < 1
    ]
    if config.eval.every and not config.eval.sets:
        found.append("eval.sets: got none, expected at least one (or eval.every 0)")
    return found


def _groups(config: Config) -> list[str]:
    found = []
    for i, group in enumerate(config.optim.groups):
        for key in ("lr_factor", "lr"):
            value = getattr(group, key)
            if value is not None and not (math.isfinite(value) and value > 0):
                found.append(f"optim.groups: {i}: {key}: got {value!r}, expected a number above 0")
        value = group.weight_decay
        if value is not None and not (math.isfinite(value) and value >= 0):
            found.append(f"optim.groups: {i}: weight_decay: got {value!r}, expected 0 or a number above")
        if group.momentum is not None and not 0 <= group.momentum <= 1:
            found.append(
                f"optim.groups: {i}: momentum: got {group.momentum!r}, expected a number from 0 to 1"
            )
    return found


def _fixed_base(config: Config) -> list[str]:
    train = config.train
    if train.fixed_base_epochs and not train.open_layers:
        return [
            f"train.open_layers: got [], expected children of the model that the first {train.fixed_base_epochs} "
            "epochs (train.fixed_base_epochs) train"
        ]
    if train.fixed_base_epochs > train.epochs:
        return [
            f"train.fixed_base_epochs: got {train.fixed_base_epochs}, expected at most train.epochs = {train.epochs}"
        ]
    return []


def source_name(source: DataConfig | DataSource) -> str:
    """What goes before the ids of a data set where several are trained on."""
    return getattr(source, "name", "") or PurePath(source.dataset).stem


def result_names(item: EvalSet) -> list[str]:
    """What the results of a set are called: as the set, or <set>-<protocol> for each member of a family."""
    from fastreid_ops.evaluation.protocols import FAMILIES

    members = FAMILIES.get(item.protocol)
    return [item.name] if members is None else [f"{item.name}-{member}" for member in members]


def _protocol_options(place: str, item: EvalSet) -> list[str]:
    from fastreid_ops.evaluation.protocols import protocols

    try:
        found = protocols(item.protocol, **item.protocol_options)
    except (ValueError, TypeError) as error:
        return [f"{place}.protocol_options: {error}"]
    ranks = [each.max_rank for each in found if each.max_rank < 10]
    expected = "at least 10, the longest rank of the tables"
    return [f"{place}.protocol_options: max_rank: got {rank}, expected {expected}" for rank in ranks]


def _names(config: Config) -> list[str]:
    """Names against the tables; imported here so that `import fastreid_ops.config` stays light."""
    from fastreid_ops.data.datasets import DATASETS
    from fastreid_ops.evaluation.protocols import FAMILIES, PROTOCOLS
    from fastreid_ops.models import MODELS

    asked = [("model.name", config.model.name, MODELS)]
    rules = {**PROTOCOLS, **FAMILIES}
    found = []
    datasets = [("data.dataset", config.data.dataset)]
    datasets += [(f"data.sources.{i}.dataset", s.dataset) for i, s in enumerate(config.data.sources)]
    sources = [source_name(s) for s in (config.data, *config.data.sources)]
    for name in sorted({s for s in sources if sources.count(s) > 1 or "/" in s}):
        found.append(f"data.sources: name: got {name!r}, expected different names without a slash")
    for i, item in enumerate(config.eval.sets):
        asked.append((f"eval.sets.{i}.protocol", item.protocol, rules))
        found += _protocol_options(f"eval.sets.{i}", item) if item.protocol in rules else []
        datasets += [(f"eval.sets.{i}.dataset", item.dataset)] if item.dataset is not None else []
    asked += [(key, name, DATASETS) for key, name in datasets if not name.lower().endswith(".csv")]
    return found + [
        f"{key}: got {name!r}, expected a name of the table{nearest(name, table)}"
        for key, name, table in asked
        if name not in table
    ]
