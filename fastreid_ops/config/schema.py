# SPDX-License-Identifier: Apache-2.0
"""Every option of a run, its type and its default, as dataclasses.

Names (model, data set, protocol) come from this project's tables only: a file can never name code to import.
The defaults are those of the recipe `default`, which a test holds equal.
"""

from dataclasses import dataclass, field
from typing import Literal

Plain = bool | int | float | str
Options = dict[str, Plain | list[Plain]]


@dataclass
class ModelConfig:
    """Which architecture, its options, and a file of weights to start from (.safetensors, .pt, .pth)."""

    name: str = "osnet_x0_25"
    weights: str | None = None
    options: Options = field(default_factory=dict)


@dataclass
class DataSource:
    """A further data set that is trained on; `name` (empty: that of the table or the CSV) goes before its ids."""

    dataset: str
    root: str | None = None
    options: Options = field(default_factory=dict)
    name: str = ""


@dataclass
class DataConfig:
    """What is trained on. `dataset` is a name of the data-set table or a CSV manifest; `options` go to its
    reader. The training images of further `sources` join those of `dataset`, their people and cameras others than its;
    queries and gallery are those of `dataset`, where a set of `eval.sets` names no other.

    Batches. `batch_size` images in one forward pass, shared by the ranks where there are several. `sampler` says
    which:
    `auto`: `pk` where `images_per_id` is a number, `shuffled` where it is null;
    `shuffled`: any images, each once in an epoch;
    `pk`: `images_per_id` images of each person; `remainder` says what becomes of a person's images that fill no
    such group in an epoch;
    `paired`: `images_per_id` visible and as many infrared images of each person, all visible ones first;
    `paired_images` draws them with replacement as AGW and DEEN do, or distinct ones;
    `clothes`: as `pk`, each person in as many outfits as there are;
    `tracklet`: sequences of `sequence_length` frames (`frames`: drawn at random or evenly spaced) of
    `images_per_id` tracklets of each person (null: of any tracklets); batch_size counts frames;
    `domain`: as many images of each of `domains_per_batch` domains (null: all); a domain is a camera, the first
    folder of a file's path, or one of the `sources`.

    Augmentation; see `TrainTransform` for order and formulas. Sizes and padding in pixels; `flip`, `erasing`,
    `translation`, `patch`, `grey`, `channel_exchange` and `pca` are probabilities; brightness, contrast, saturation
    and hue are +- fractions, `scale` and `erasing_area` smallest and largest. Where images have modalities, what
    changes colours reaches the visible ones only, unless `infrared_colours` lets brightness and contrast reach the
    infrared ones.

    `cache_images` keeps every image decoded and resized in memory.
    """

    dataset: str = "people"
    root: str | None = None
    options: Options = field(default_factory=dict)
    sources: list[DataSource] = field(default_factory=list)
    height: int = 128
    width: int = 64
    mean: list[float] = field(default_factory=lambda: [0.485, 0.456, 0.406])
    std: list[float] = field(default_factory=lambda: [0.229, 0.224, 0.225])
    batch_size: int = 64
    images_per_id: int | None = 4
    sampler: Literal["auto", "shuffled", "pk", "paired", "clothes", "tracklet", "domain"] = "auto"
    remainder: Literal["drop", "fill"] = "drop"
    paired_images: Literal["replace", "distinct"] = "replace"
    sequence_length: int = 15
    frames: Literal["random", "evenly"] = "random"
    domains: Literal["camera", "folder", "dataset"] = "camera"
    domains_per_batch: int | None = None
    crop_padding: int = 5
    padding_fill: Literal["mean", "black"] = "mean"
    flip: float = 0.5
    translation: float = 0.0
    patch: float = 0.0
    brightness: float = 0.2
    contrast: float = 0.15
    saturation: float = 0.0
    hue: float = 0.0
    scale: list[float] = field(default_factory=lambda: [1.0, 1.0])
    grey: float = 0.0
    channel_exchange: float = 0.0
    pca: float = 0.0
    infrared_colours: bool = False
    erasing: float = 0.3
    erasing_area: list[float] = field(default_factory=lambda: [0.02, 0.4])
    erasing_aspect: float = 0.3
    erasing_fill: Literal["mean", "mean_in_units", "black", "random"] = "mean"
    workers: int = 0
    cache_images: bool = True
    bad_images: Literal["raise", "skip", "replace"] = "raise"

    @property
    def sampler_kind(self) -> str:
        """`sampler` with "auto" decided."""
        if self.sampler != "auto":
            return self.sampler
        return "shuffled" if self.images_per_id is None else "pk"


@dataclass
class ClothesLossConfig:
    """Terms on clothes labels, of the methods `cloth_changing` and `cal`; 0 leaves one out. Up to the epoch
    `from_epoch`, counted from 0, a method trains as if there were no clothes.

    `cloth_changing`: `correction` of the map of clothes, `unclothed` for both losses of the branch without clothes,
    `distillation` from that branch into the global one at `temperature`; `detach_teacher` lets it teach without
    learning from it. `classifier_smoothing` smooths the labels of the clothes classifier's own loss.
    `cal`: `adversarial` at `scale` and `epsilon`, against a classifier, or with `memory` against a bank of features
    with its `momentum`. loss.triplet is then the weight of the loss over `pairs`, each at the scale and margin of its
    source (`triplet`: by the cosine, at loss.margin).
    """

    from_epoch: int = 0
    correction: float = 1.0
    unclothed: float = 1.0
    distillation: float = 0.1
    temperature: float = 4.0
    detach_teacher: bool = False
    adversarial: float = 1.0
    scale: float = 16.0
    epsilon: float = 0.1
    memory: bool = False
    momentum: float = 0.0
    pairs: Literal["triplet", "cosface", "circle", "contrastive"] = "triplet"
    classifier_smoothing: float = 0.0


@dataclass
class CrossModalLossConfig:
    """Terms between visible and infrared images, of the methods `wrim`, `deen` and `agw`; 0 leaves one out.

    `wrim`: `cmkic` of the `cmkic_k` least similar positives at `temperature` (`other_positives`: the others count
    in the denominator).
    `deen`: `cpm` with its margin and form and `orthogonality`, which need the generated rows of DEEN or of
    EmbedNet's `expand`; `branch_orthogonality`, of EmbedNet's `tmhee`, `cmatm` and `ssdec`; `contrastive` at
    `temperature`, of `ssdec`. A term without its rows is left out, so that `model.options.dee` alone picks the system.
    `agw`: `legacy_weights` are those of the published code, which vanish at large distances.
    """

    cmkic: float = 0.0
    cmkic_k: int = 5
    other_positives: bool = False
    cpm: float = 0.0
    cpm_margin: float = 0.2
    cpm_form: Literal["code", "paper"] = "code"
    orthogonality: float = 0.0
    orthogonality_form: Literal["code", "paper"] = "code"
    branch_orthogonality: float = 0.0
    contrastive: float = 0.0
    temperature: float = 0.1
    legacy_weights: bool = False


@dataclass
class NAICLossConfig:
    """What the method `naic` has beside the terms of every method.

    `head` classifies the feature behind the neck: the network's own `linear` classifier, or a head with a margin
    (the network then has `classifier: none`) of this `scale` and `margin`. `mining` is that of the triplet loss.
    `center` weighs the centre loss (0: none); its centres follow the gradient of the unweighted loss, whatever the
    weight is. `part` and `merge` weigh the classifiers of a part-based head.
    """

    head: Literal["linear", "arcface", "cosface", "amsoftmax", "circle"] = "linear"
    scale: float = 30.0
    margin: float = 0.4
    mining: Literal["weighted", "hard"] = "weighted"
    center: float = 0.0
    part: float = 0.5
    merge: float = 0.5


@dataclass
class LossConfig:
    """Weights of the loss terms (0 leaves a term out), label smoothing and the triplet margin (null: soft
    margin). The sections of a name belong to the method of that name.

    `smoothing`: what is smoothed away goes to all classes (`uniform`) or to the other ones (`others`, fast-reid).
    """

    cross_entropy: float = 1.0
    label_smoothing: float = 0.1
    triplet: float = 0.1
    margin: float | None = 0.3
    clothes: ClothesLossConfig = field(default_factory=ClothesLossConfig)
    smoothing: Literal["uniform", "others"] = "uniform"
    cross_modal: CrossModalLossConfig = field(default_factory=CrossModalLossConfig)
    naic: NAICLossConfig = field(default_factory=NAICLossConfig)


OptimizerName = Literal["adam", "adamw", "amsgrad", "sgd", "rmsprop", "radam", "ranger"]


@dataclass
class OptimGroup:
    """What parameters have to themselves whose name fits the shell pattern `match`; names are `model.<name>` and
    `criteria.<name>`, as in a checkpoint.

    The rate is `lr` (null: the section's) times `lr_factor`; `weight_decay` and `momentum` null are the section's.
    With `optimizer` they get one of their own. `scheduled: false` leaves their rate as it is all along.
    """

    match: str
    lr_factor: float = 1.0
    lr: float | None = None
    weight_decay: float | None = None
    momentum: float | None = None
    optimizer: OptimizerName | None = None
    scheduled: bool = True


@dataclass
class OptimConfig:
    """The optimizer. `clip` bounds the gradient norm (null: no bound); momentum is that of SGD and RMSprop, the betas
    are those of the Adams, RAdam and Ranger. The first of `groups` that a parameter fits decides about it. `nesterov`
    makes SGD's momentum look ahead.
    """

    name: OptimizerName = "adam"
    lr: float = 2e-3
    weight_decay: float = 5e-4
    decay_bias_and_norm: bool = True
    momentum: float = 0.9
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    clip: float | None = None
    groups: list[OptimGroup] = field(default_factory=list)
    nesterov: bool = False


@dataclass
class ScheduleConfig:
    """The learning rate over time, in epochs; see engine/schedule.py for the formulas. `per_epoch` holds it within
    an epoch, as the sources do.
    """

    name: Literal["constant", "multistep", "cosine"] = "cosine"
    warmup_epochs: float = 2.0
    warmup_factor: float = 0.1
    milestones: list[int] = field(default_factory=list)
    gamma: float = 0.1
    final_factor: float = 0.01
    per_epoch: bool = False


@dataclass
class TrainConfig:
    """How long and how. `method` is a name of the table in engine/methods/. `accumulate` batches make one
    step; `ema` is the decay of averaged weights (null: off).

    In the first `fixed_base_epochs` only `open_layers` (children of the model) are trained, the others stand still,
    their batch normalisation included. `freeze_bn` keeps the statistics of every batch normalisation all along.

    `amp`: forward pass and losses in float32, bfloat16 or float16; `auto` takes bfloat16 where the device multiplies
    it itself and float32 elsewhere. `sync_batch_norm`: where several GPUs train, statistics of the whole batch.
    """

    method: Literal["identity", "wrim", "deen", "agw", "cloth_changing", "cal", "naic"] = "identity"
    epochs: int = 24
    seed: int = 0
    accumulate: int = 1
    amp: Literal["off", "bf16", "fp16", "auto"] = "off"
    channels_last: bool = True
    ema: float | None = None
    fixed_base_epochs: int = 0
    open_layers: list[str] = field(default_factory=list)
    freeze_bn: bool = False
    sync_batch_norm: bool = False


@dataclass
class EvalSet:
    """One data set to evaluate on, by its query and gallery. `dataset: null` means the one that is trained
    on.

    `name` is the file name of the results, `label` and `note` the words beside the figures (empty: what the data
    set is called in `fastreid_ops.data.datasets.DESCRIPTIONS`, or the CSV's name).
    `protocol` is a protocol or a family of docs/protocols.md (a family has a result for each member, called
    <name>-<protocol>), `protocol_options` fields of it to have otherwise, such as `{trials: 3}`. `frames` takes so many
    frames of each tracklet, evenly spaced (a short one's last frame repeated), null all.
    """

    name: str = "test"
    label: str = ""
    note: str = ""
    dataset: str | None = None
    root: str | None = None
    options: Options = field(default_factory=dict)
    protocol: str = "market1501"
    protocol_options: Options = field(default_factory=dict)
    frames: int | None = None


def _default_sets() -> list[EvalSet]:
    return [
        EvalSet(name="test"),
        EvalSet(name="sample", dataset="sample"),
    ]


@dataclass
class EvalConfig:
    """When and how to evaluate. The set named first decides which checkpoint is the best (by mAP).

    `unit_length` gives every feature the length 1, after `flip`; it changes nothing for the metrics of angles.
    """

    every: int = 6
    batch_size: int = 128
    flip: bool = False
    metric: Literal["euclidean", "sqeuclidean", "cosine", "arccos"] = "cosine"
    ranked: int = 10
    untrained: bool = True
    hsv_stripes: bool = True
    sets: list[EvalSet] = field(default_factory=_default_sets)
    unit_length: bool = False


@dataclass
class RunConfig:
    """Where and on what. `folder: null` makes runs/<recipe>-<date-time>-<n>; `threads: null` takes torch's
    own number.

    `rank_timeout`: seconds that the ranks of a run wait for one of them before they end with its number.
    `keep_freed_memory`: on a CPU, memory that a step frees stays with the process for the next one, instead of
    coming fresh from the system page by page; see engine/heap.py.
    """

    folder: str | None = None
    device: str = "auto"
    threads: int | None = 1
    deterministic: bool = True
    log_every: int = 1
    checkpoint_every_epochs: int = 1
    checkpoint_every_steps: int | None = None
    keep: int = 3
    tensorboard: bool = False
    report: bool = True
    rank_timeout: float = 1800.0
    keep_freed_memory: bool = True


@dataclass
class Config:
    """Everything a run depends on."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    run: RunConfig = field(default_factory=RunConfig)
