# SPDX-License-Identifier: Apache-2.0
"""From a configuration to the objects of a run: manifests, loaders, evaluation sets, model, state."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from fastreid_ops.config import Config, ConfigError, EvalSet
from fastreid_ops.config.check import result_names, source_name
from fastreid_ops.data.datasets import describe_dataset, gallery_permutations, read_dataset
from fastreid_ops.data.frames import evaluation_frames
from fastreid_ops.data.images import BadImagePolicy
from fastreid_ops.data.loader import EvalLoader, TrainLoader
from fastreid_ops.data.manifest import Manifest
from fastreid_ops.data.merge import merge_training
from fastreid_ops.data.transforms import EvalTransform
from fastreid_ops.engine import dry_run
from fastreid_ops.engine.assess import Assessment, EvalData, assess, unique_files
from fastreid_ops.engine.batches import build_batches, build_transform
from fastreid_ops.engine.ema import Ema
from fastreid_ops.engine.extract import takes_mode
from fastreid_ops.engine.freeze import check_open_layers
from fastreid_ops.engine.methods import method
from fastreid_ops.engine.methods.context import Context
from fastreid_ops.engine.optim import build_optimizer
from fastreid_ops.engine.ranks import Ranks, sharing
from fastreid_ops.engine.schedule import build_schedule
from fastreid_ops.engine.state import TrainState
from fastreid_ops.evaluation.draws import draw
from fastreid_ops.evaluation.protocols import protocols
from fastreid_ops.models import create_model
from fastreid_ops.models.weights import load_weights


def training_manifest(config: Config) -> Manifest:
    """The whole data set `data.dataset`, with its queries and gallery if it has them."""
    return read_dataset(config.data.dataset, config.data.root, **config.data.options)


def training_rows(config: Config, whole: Manifest) -> Manifest:
    """The rows that are trained on: those of `whole`, the data set `data.dataset`, and of all `data.sources`."""
    if not config.data.sources:
        return whole.select("train")
    sets = {source_name(config.data): whole}
    for source in config.data.sources:
        sets[source_name(source)] = read_dataset(source.dataset, source.root, **source.options)
    return merge_training(sets)


def eval_manifest(item: EvalSet, training: Manifest) -> Manifest:
    """The data set behind an evaluation set, the training data set's own if it names none."""
    return training if item.dataset is None else read_dataset(item.dataset, item.root, **item.options)


def eval_data(item: EvalSet, manifest: Manifest, config: Config, policy: BadImagePolicy) -> EvalData:
    """An evaluation set from the query and gallery rows of `manifest`, drawn as its protocol says.

    Errors: ConfigError if there are none, or not what the protocol looks at.
    """
    query, gallery = (_fewer_frames(manifest.select(side), item) for side in ("query", "gallery"))
    if not len(query) or not len(gallery):
        raise ConfigError(
            f"eval.sets: {item.name}: got {len(query)} queries and {len(gallery)} gallery images, expected "
            "some of both; "
            "name a data set that has them, or take the set out"
        )
    dataset = item.dataset or config.data.dataset
    label, note = describe_dataset(dataset)
    label, note = item.label or label, item.note or note
    found = protocols(item.protocol, **item.protocol_options)
    names = result_names(item)
    labels = {
        name: label if len(names) == 1 else f"{label}, {p.name}" for name, p in zip(names, found, strict=True)
    }
    table = None
    if any(each.draw_seeding == "official" for each in found):
        root = item.root if item.dataset is not None else config.data.root
        table = gallery_permutations(dataset, root)
    try:
        draws = {name: draw(p, query, gallery, table) for name, p in zip(names, found, strict=True)}
    except ValueError as error:
        raise ConfigError(f"eval.sets: {item.name}: {error}") from error
    if len({*query.pid, *gallery.pid}) == 1:
        note = f"{note} One identity only: every image is a match, and the figures say nothing.".strip()
    used = [sorted({row for each in draws.values() for row in each.rows()[side]}) for side in (0, 1)]
    files = unique_files(query.take(used[0]), gallery.take(used[1]))
    loader = eval_loader(files, config, policy)
    return EvalData(item.name, labels, note, draws, query, gallery, files, loader)


def _fewer_frames(side: Manifest, item: EvalSet) -> Manifest:
    if item.frames is None or not len(side):
        return side
    if side.tracklet is None:
        raise ConfigError(
            f"eval.sets: {item.name}: frames: got {item.frames} of a set without tracklets, expected null"
        )
    return evaluation_frames(side, "evenly", item.frames).frames


def eval_loader(files: Manifest, config: Config, policy: BadImagePolicy) -> EvalLoader:
    """Images of these rows as they are evaluated."""
    size = config.data
    transform = EvalTransform(size.height, size.width, tuple(size.mean), tuple(size.std))
    return EvalLoader(
        files, transform, config.eval.batch_size, size.workers, policy, cache_images=size.cache_images
    )


def fewer_files(data: EvalData, config: Config, policy: BadImagePolicy) -> EvalData:
    """The same evaluation with a few of its files, for a dry run."""
    files = data.files.take(dry_run.few_files(data))
    return replace(data, files=files, loader=eval_loader(files, config, policy))


def train_loader(
    config: Config,
    manifest: Manifest,
    label_map: dict[Any, int],
    policy: BadImagePolicy,
    ranks: Ranks | None = None,
) -> TrainLoader:
    """Batches over the training rows as `data.sampler` says, augmented as the `data` section says; of each this
    rank's part. Errors: ConfigError for batches that the ranks cannot share.
    """
    data, seed = config.data, config.train.seed
    labels = manifest.labels(label_map)
    batches = build_batches(config, manifest, labels)
    return TrainLoader(
        manifest,
        labels,
        batches,
        build_transform(data, manifest),
        seed,
        data.workers,
        policy,
        cache_images=data.cache_images,
        slots=sharing(config, batches, ranks or Ranks()),
    )


def synchronised(module: nn.Module, config: Config) -> nn.Module:
    """With the statistics of the whole batch, of all ranks, where `train.sync_batch_norm` asks for them."""
    if config.train.sync_batch_norm and dist.is_initialized():
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    return module


def build_network(config: Config, classes: int, device: torch.device) -> nn.Module:
    """The model on its device and in its memory layout. Errors: ConfigError for options it does not know."""
    try:
        model = create_model(config.model.name, classes, **config.model.options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model.options: {error}") from error
    model = synchronised(model, config)
    layout = torch.channels_last if config.train.channels_last else torch.preserve_format
    return model.to(device, memory_format=layout)


def build_state(
    config: Config,
    training: Manifest,
    label_map: dict[Any, int],
    device: torch.device,
    say: Callable[[str], None],
) -> TrainState:
    """A run at its beginning; `training` are the rows that are trained on. The weights come from torch's global
    generator: seed it first.
    """
    model = build_network(config, len(label_map), device)
    if takes_mode(model) and config.data.sampler_kind != "paired":
        raise ConfigError(
            f"data.sampler: got {config.data.sampler_kind}, expected paired: {config.model.name} takes the first "
            "half of a batch for visible images and the second for infrared ones"
        )
    if config.model.weights is not None:
        say(f"{config.model.weights}: {load_weights(model, Path(config.model.weights)).describe()}")
    try:
        check_open_layers(model, config.train.open_layers)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    context = Context(config, model, len(label_map), training)
    criteria = synchronised(method(config.train.method).losses(context), config).to(device)
    return TrainState(
        config=config,
        model=model,
        criteria=criteria,
        optimizer=build_optimizer({"model": model, "criteria": criteria}, config.optim),
        schedule=build_schedule(config.schedule, config.train.epochs),
        device=device,
        label_map=label_map,
        ema=Ema(model, config.train.ema) if config.train.ema is not None else None,
        scaler=torch.amp.GradScaler(device.type) if config.train.amp == "fp16" else None,
    )


def assessor(
    sets: list[EvalData],
    config: Config,
    device: torch.device,
    check: Callable[[], None] = lambda: None,
    ranks: Ranks | None = None,
) -> Callable[[nn.Module], dict[str, Assessment]]:
    """A function that evaluates a model on every set, as the `eval` section says; by the name of each result."""
    one = partial(
        assess,
        device=device,
        metric=config.eval.metric,
        flip=config.eval.flip,
        unit_length=config.eval.unit_length,
        channels_last=config.train.channels_last,
        check=check,
        ranks=ranks,
    )
    return lambda model: {name: found for data in sets for name, found in one(model, data).items()}
