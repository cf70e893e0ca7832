# SPDX-License-Identifier: Apache-2.0
"""Full training steps (files, augmentation, forward pass, losses, backward pass, optimizer) of ours against torchreid's
and fast-reid's own pieces, cross entropy and batch-hard triplet on images of 256 x 128.

Before anything is timed, one batch of the same images goes through both from the same weights: loss and gradients must
be equal. Ours runs in three ways: plain float32, with the memory laid out by channels, and with bfloat16 on top where
the processor multiplies it (`train.channels_last`, `train.amp: auto`), which is what the recipes for real data do. The
rivals run float32 as their own scripts do on a CPU. Both sides read their files in this process, and both keep freed
memory as a run of ours does.

``pytest benchmarks/bench_train_step.py --benchmark-only``; FASTREID_BENCH_FULL=1 for real batches.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from heap import keep_freed_memory
from memory import peak
from PIL import Image
from rivals.training import MARGIN, SMOOTHING, Engine, Trainer, available, copy_weights
from shapes import FULL
from torch import Tensor

from fastreid_ops.config import from_dict
from fastreid_ops.data.batch import Batch
from fastreid_ops.data.datasets import read_dataset
from fastreid_ops.data.images import BadImagePolicy, read_image
from fastreid_ops.data.manifest import Manifest
from fastreid_ops.engine import setup
from fastreid_ops.engine.loop import finite_losses, forward_backward
from fastreid_ops.engine.methods import identity
from fastreid_ops.engine.optim import optimizer_step
from fastreid_ops.engine.state import half_type, seed_everything

HEIGHT, WIDTH = 256, 128
BATCH, EACH = (32 if FULL else 8), 4
FILES = 96 if FULL else 24
HALF = "channels last, bfloat16"
WAYS = {
    "float32": {"channels_last": False, "amp": "off"},
    "channels last": {"channels_last": True, "amp": "off"},
    HALF: {"channels_last": True, "amp": "auto"},
}
TRAINERS = available(HEIGHT, WIDTH)
CASES = [
    (trainer, way)
    for trainer in TRAINERS
    for way in WAYS
    if FULL or (trainer.network.ours == "osnet_x1_0" and way != "channels last")
]


@cache
def manifest() -> Manifest:
    """Pedestrians of the package at the size of training, as JPEG, four of each made-up identity."""
    folder = Path(tempfile.mkdtemp(prefix="bench_train_step_"))
    sample = read_dataset("sample")
    rows = range(FILES)
    for row in rows:
        image = read_image(sample.file(row % len(sample)))
        image.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(folder / f"{row}.jpg", quality=92)
    return Manifest(
        folder,
        path=[f"{row}.jpg" for row in rows],
        pid=[row // EACH for row in rows],
        camid=[row % EACH for row in rows],
        split=["train"] * FILES,
    )


class Ours:
    """The engine's own state, loader and functions; `step` is the body of its loop."""

    def __init__(self, trainer: Trainer, way: str) -> None:
        # Ours normalises in any case. The colour that is erased with costs nothing.
        left_out = ("jitter", "mean", "std", "erasing_fill")
        options = {key: value for key, value in trainer.pipeline.options.items() if key not in left_out}
        self.config = from_dict(
            {
                "model": {"name": trainer.network.ours},
                "data": {
                    "height": HEIGHT,
                    "width": WIDTH,
                    "batch_size": BATCH,
                    "images_per_id": EACH,
                    "brightness": 0.0,
                    "contrast": 0.0,
                    "cache_images": False,
                    **options,
                },
                "loss": {"triplet": 1.0, "margin": MARGIN, "label_smoothing": SMOOTHING},
                "optim": {"lr": 3e-4},
                "schedule": {"name": "constant", "warmup_epochs": 0.0},
                "train": WAYS[way],
            }
        )
        seed_everything(0)
        files = manifest()
        # As many classes as Market-1501 has people; the files show a few of them.
        self.state = setup.build_state(
            self.config, files, {pid: pid for pid in range(751)}, torch.device("cpu"), lambda text: None
        )
        self.state.model.train()
        labels = {pid: pid for pid in sorted(set(files.pid))}
        self.loader = setup.train_loader(self.config, files, labels, BadImagePolicy("raise"))
        self.step = identity.step  # what `forward_backward` asks of the loop's tools
        self.batches = self._endless()

    def _endless(self) -> Iterator[Batch]:
        epoch = 0
        while True:
            yield from self.loader.iterate(epoch)
            epoch += 1

    def backward(self, batch: Batch) -> dict[str, float]:
        losses = forward_backward(self.state, self, batch, 1)
        return finite_losses(self.state, [(losses, list(batch.paths))], 1)

    def train(self) -> float:
        losses = self.backward(next(self.batches))
        optimizer_step(self.state.optimizer, None, None)
        return sum(losses.values())


def pair(trainer: Trainer, way: str) -> tuple[Ours, Engine]:
    """Both from the same weights on the same files."""
    ours = Ours(trainer, way)
    files = manifest()
    rows = [(str(files.file(row)), files.pid[row], files.camid[row]) for row in range(len(files))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = Engine(trainer, rows, BATCH, EACH)
    copy_weights(theirs, ours.state.model)
    return ours, theirs


def same_losses_and_gradients(ours: Ours, theirs: Engine) -> None:
    """One batch through both; bfloat16 to its rounding."""
    half = half_type(ours.config.train.amp, ours.state.device) is not None
    batch = next(iter(ours.loader.iterate(0)))
    mine = sum(ours.backward(batch).values())
    his = theirs.backward(batch.images, batch.pids).item()
    assert mine == pytest.approx(his, rel=5e-2 if half else 1e-3)
    grads = [
        torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]).item()
        for model in (ours.state.model, theirs.network)
    ]
    # Untrained features are large and close together: another order of sums picks other hardest pairs for a few.
    exact = ours.config.train.channels_last is False
    assert grads[0] == pytest.approx(grads[1], rel=0.2 if half else 1e-2 if exact else 5e-2)
    ours.state.optimizer.zero_grad(set_to_none=True)


def both_finite(mine: float, his: Tensor) -> None:
    """Each side draws batches and augmentation of its own."""
    assert 0 < mine < 100
    assert 0 < his.item() < 100


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("trainer", "way"),
    CASES,
    ids=lambda v: (
        f"{v.package}-{v.network.ours}" if isinstance(v, Trainer) else v.replace(", ", "-").replace(" ", "-")
    ),
)
def test_train_step(versus, benchmark, trainer, way):
    if way == HALF and half_type("auto", torch.device("cpu")) is None:
        pytest.skip("this processor has no bfloat16: it would be emulated, and nothing measured")
    benchmark.group = "training step, xent and htri"
    keep_freed_memory()
    ours, theirs = pair(trainer, way)
    same_losses_and_gradients(ours, theirs)
    facts = {}
    if FULL:
        places = TRAINERS.index(trainer), list(WAYS).index(way)
        facts = {
            "peak": peak("train_step", *places),
            "rival_peak": peak("rival_train_step", *places),
        }
    versus(
        ours.train,
        theirs.step,
        both_finite,
        rival=trainer.package,
        rounds=3 if FULL else 2,
        network=trainer.network.ours,
        step=f"training with its files, {BATCH} images",
        way=way,
        target=1.5 if way == HALF else 1.0,
        **facts,
    )
    benchmark.extra_info["images per second"] = BATCH / benchmark.extra_info["seconds"]
    benchmark.extra_info["rival images per second"] = BATCH / benchmark.extra_info["rival seconds"]
