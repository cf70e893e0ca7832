# SPDX-License-Identifier: Apache-2.0
"""The one training loop. Read it from top to bottom: `fit` goes through the epochs, `train_epoch` through the
batches of one.

Everything that moves is in the TrainState; everything the loop is given is called, never looked into:
`loader.iterate(epoch, batch)` yields batches from that position on, `step(state, batch)` gives losses,
`assess(model)` evaluates, `save()` writes a checkpoint. Places where a run may be interrupted are those where
a checkpoint can be written: after an optimizer step and before an evaluation.
"""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fastreid_ops.engine.freeze import set_training_mode
from fastreid_ops.engine.interrupt import Interrupted
from fastreid_ops.engine.log import Log, Metrics, Progress
from fastreid_ops.engine.optim import optimizer_step, trained
from fastreid_ops.engine.ranks import Ranks, every_batch
from fastreid_ops.engine.state import TrainState


class NonFiniteLoss(ArithmeticError):
    """A loss became NaN or infinite; the message names the step, the losses and the files of the batch."""


@dataclass
class Tools:
    """What the loop uses. `assess(model)` gives by set name something with a `result`; `check()` raises
    Interrupted. With several `ranks` all of these are called by each, at the same places.
    """

    loader: Any
    step: Callable[[TrainState, Any], dict[str, Tensor]]
    assess: Callable[[torch.nn.Module], dict[str, Any]]
    save: Callable[[TrainState, bool], None]
    metrics: Metrics
    log: Log
    check: Callable[[], None]
    ranks: Ranks = field(default_factory=Ranks)
    # Around forward and backward pass of a batch; told whether it is the last of a step.
    adding: Callable[[bool], AbstractContextManager] = every_batch


def fit(state: TrainState, tools: Tools) -> dict[str, Any] | None:
    """Train from the state's position to the end; returns the last epoch's evaluation, None if there was
    none.

    On Interrupted a checkpoint of the position reached is written before it is passed on.
    """
    config = state.config
    results = None
    total = tools.loader.len_epoch(min(state.epoch, config.train.epochs - 1))
    progress = Progress(tools.log, config.train.epochs, state.epoch + state.batch / max(total, 1))
    try:
        while state.epoch < config.train.epochs:
            train_epoch(state, tools, progress)
            done = state.epoch + 1
            last = done == config.train.epochs
            improved = False
            if config.eval.every and (done % config.eval.every == 0 or last):
                results = tools.assess(state.final_model)
                improved = record_evaluation(state, tools, results, done)
            state.epoch, state.batch = done, 0
            if last or improved or done % config.run.checkpoint_every_epochs == 0:
                save(state, tools, best=improved, required=last)
    except Interrupted:
        save(state, tools, required=True)
        raise
    finally:
        progress.close()
    return results


def train_epoch(state: TrainState, tools: Tools, progress: Progress) -> None:
    """The rest of the state's epoch: forward, backward, and an optimizer step after every `accumulate`
    batches.
    """
    config = state.config
    epoch, total, accumulate = (
        state.epoch,
        tools.loader.len_epoch(state.epoch),
        config.train.accumulate,
    )
    if total == 0:
        raise ValueError(
            f"train_epoch: loader: got no batch in epoch {epoch}, expected enough images for data.batch_size"
        )
    set_training_mode(state.model, trained(state.optimizer), config.train, epoch)
    progress.epoch(epoch, total, state.batch)
    parts: list[
        tuple[dict[str, Tensor], list[str]]
    ] = []  # losses and files of the batches since the last step
    images, clock = 0, time.perf_counter()
    for batch in tools.loader.iterate(epoch, state.batch):
        lr = state.schedule.apply(state.optimizer, epoch + state.batch / total)
        group = min(
            accumulate, total - state.batch + state.batch % accumulate
        )  # the last group of an epoch may be smaller
        last = len(parts) + 1 == group
        with tools.adding(last):
            parts.append((forward_backward(state, tools, batch, group), list(batch.paths)))
        images += len(batch.pids) * tools.ranks.world
        state.batch += 1
        if state.batch % accumulate and state.batch < total:
            continue
        losses = finite_losses(state, parts, group)  # before the step: nothing bad reaches the weights
        losses = tools.ranks.mean(losses)
        norm = optimizer_step(state.optimizer, state.scaler, config.optim.clip)
        tools.ranks.same_buffers(state.model, state.criteria)
        state.step += 1
        if state.ema is not None:
            state.ema.update(state.model, state.step)
        now = time.perf_counter()
        record = {
            "kind": "train",
            "epoch": epoch,
            "step": state.step,
            "loss": math.fsum(losses.values()),
            "losses": losses,
            "lr": lr,
            "grad_norm": norm.item(),
            "images_per_s": round(images / (now - clock), 1),
        }
        parts, images, clock = [], 0, now
        if state.step % config.run.log_every == 0:
            tools.metrics.append(record)
        progress.step(epoch, state.batch, total, record)
        every = config.run.checkpoint_every_steps
        if (
            every and state.step % every == 0 and state.batch < total
        ):  # at the end of an epoch `fit` writes one
            save(state, tools)
        tools.check()


def forward_backward(state: TrainState, tools: Tools, batch, group: int) -> dict[str, Tensor]:
    """Add one batch's gradients, its share being 1/group; returns the losses, detached."""
    layout = torch.channels_last if state.config.train.channels_last else torch.contiguous_format
    labels = {name: getattr(batch, name, None) for name in ("pids", "modality", "clothes", "tracklet")}
    batch = batch._replace(
        images=batch.images.to(state.device, memory_format=layout, non_blocking=True),
        **{n: v.to(state.device, non_blocking=True) for n, v in labels.items() if v is not None},
    )
    with state.autocast():
        losses = tools.step(state, batch)
        loss = sum(losses.values()) / group
    (loss if state.scaler is None else state.scaler.scale(loss)).backward()
    return {name: value.detach() for name, value in losses.items()}


def finite_losses(
    state: TrainState, parts: list[tuple[dict[str, Tensor], list[str]]], group: int
) -> dict[str, float]:
    """Mean losses of a step as numbers, fetched at once.

    Errors: NonFiniteLoss naming step, losses and files.
    """
    names = list(parts[0][0])
    rows = torch.stack(
        [torch.stack([losses[name].float() for name in names]) for losses, _ in parts]
    ).tolist()
    for row, (_, paths) in zip(rows, parts, strict=True):
        if not all(math.isfinite(value) for value in row):
            words = ", ".join(f"{name} {value}" for name, value in zip(names, row, strict=True))
            raise NonFiniteLoss(
                f"train: loss: got {words} at step {state.step + 1} (epoch {state.epoch}, batch "
                f"{state.batch}), expected finite "
                "values; a smaller optim.lr, optim.clip or longer warm-up may help. Files of the batch: "
                + ", ".join(map(str, paths))
            )
    return {name: math.fsum(row[i] for row in rows) / group for i, name in enumerate(names)}


def record_evaluation(state: TrainState, tools: Tools, results: dict[str, Any], epochs_done: int) -> bool:
    """Write and say the results; True if the first set's mAP is the best so far. All lines are written after
    all sets are done.
    """
    for record in evaluation_records(results, epochs_done, state.step):
        tools.metrics.append(record)
        tools.log.say(
            f"after epoch {epochs_done}: {record['set']}: mAP {record['mAP']:.4f} mINP {record['mINP']:.4f} "
            f"rank-1 {record['rank1']:.4f}"
        )
    first = next(iter(results))
    value = float(results[first].result.mAP)
    if state.best is None or value > state.best["mAP"]:
        state.best = {"set": first, "mAP": value, "step": state.step}
        return True
    return False


def evaluation_records(results: dict[str, Any], epochs_done: int, step: int) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; `epoch` counts the epochs done."""
    return [
        {"kind": "eval", "epoch": epochs_done, "step": step, "set": name, **summary(a.result)}
        for name, a in results.items()
    ]


def summary(result: Any) -> dict[str, float]:
    """The five figures of a result that tables and curves show."""
    ranks = {f"rank{k}": float(result.rank(k)) for k in (1, 5, 10)}
    return {"mAP": float(result.mAP), "mINP": float(result.mINP), **ranks}


def save(state: TrainState, tools: Tools, best: bool = False, required: bool = False) -> None:
    """Write a checkpoint.

    A full or failing disk costs this checkpoint, not the run, unless it is `required`.
    """
    try:
        tools.save(state, best)
    except OSError as error:
        if required:
            raise
        tools.log.warn(
            f"no checkpoint of step {state.step}: {error}; the earlier ones are untouched, training goes on"
        )
