# SPDX-License-Identifier: Apache-2.0
"""A training step of torchreid and of fast-reid from their own pieces: networks, losses, transforms, sampler, and the
DataLoader and optimizer as their engines make them. Only the files needed are loaded (see `models` and `data`).
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple
from unittest import mock

import torch
from rivals import data, models
from rivals.ranking import load_file, package_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

MARGIN, SMOOTHING = 0.3, 0.1


class Trainer(NamedTuple):
    """What its engine has. ``loss(output, pids)`` is xent + htri of a forward pass in training mode."""

    package: str
    network: models.Rival
    loss: Callable[[Any, Tensor], Tensor]
    pipeline: data.Pipeline
    sampler: Callable[[Sequence[tuple], int, int], Any]


class _Images(Dataset):
    def __init__(self, files: Sequence[tuple[str, int, int]], read: Callable[[str], Tensor]) -> None:
        self.files, self.read = files, read

    def __getitem__(self, row: int) -> dict[str, Any]:
        name, pid, camid = self.files[row]
        return {"img": self.read(name), "pid": pid, "camid": camid, "impath": name}

    def __len__(self) -> int:
        return len(self.files)


class Engine:
    """One step after the other, as its own loop runs them on a CPU."""

    def __init__(
        self, trainer: Trainer, files: Sequence[tuple[str, int, int]], batch: int, each: int
    ) -> None:
        self.trainer = trainer
        self.network = trainer.network.make().train()
        loader = DataLoader(
            _Images(files, trainer.pipeline.run),
            sampler=trainer.sampler(files, batch, each),
            batch_size=batch,
            num_workers=0,
            drop_last=True,
        )
        self.batches = _endless(loader)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=3e-4, weight_decay=5e-4)

    def backward(self, images: Tensor, pids: Tensor) -> Tensor:
        loss = self.trainer.loss(self.network(images), pids)
        self.optimizer.zero_grad()
        loss.backward()
        return loss.detach()

    def step(self) -> Tensor:
        batch = next(self.batches)
        loss = self.backward(batch["img"], batch["pid"])
        self.optimizer.step()
        return loss


def _endless(loader: DataLoader) -> Iterator[dict[str, Any]]:
    while True:
        yield from loader


def available(height: int, width: int) -> list[Trainer]:
    """Those whose packages, and torchvision for their transforms, are installed."""
    networks = {(each.package, each.ours): each for each in models.available()}
    steps = {each.rival: each for each in data.available(height, width) if each.step == "flip, crop, erase"}
    file = package_file("torchreid", "reid/data/sampler.py")
    if file is None:
        return []
    sampler = load_file(file).RandomIdentitySampler  # fast-reid's is after the same and endless
    found = []
    for name in ("resnet50", "osnet_x1_0"):
        if ("torchreid", name) in networks and "torchreid" in steps:
            network = networks["torchreid", name]
            found.append(Trainer("torchreid", network, _torchreid_loss(), steps["torchreid"], sampler))
    if ("fastreid", "resnet50_bnneck") in networks and "fast-reid" in steps:
        network = networks["fastreid", "resnet50_bnneck"]
        # Its network takes levels from 0 to 255 and normalises them itself; that is left out for it.
        found.append(Trainer("fastreid", network, _fastreid_loss(), steps["fast-reid"], sampler))
    return found


def _torchreid_loss() -> Callable[[Any, Tensor], Tensor]:
    folder = "reid/losses"
    xent = load_file(package_file("torchreid", f"{folder}/cross_entropy_loss.py")).CrossEntropyLoss(
        models.CLASSES, eps=SMOOTHING, use_gpu=False
    )
    triplet = load_file(package_file("torchreid", f"{folder}/hard_mine_triplet_loss.py")).TripletLoss(MARGIN)

    def loss(output: tuple[Tensor, Tensor], pids: Tensor) -> Tensor:
        logits, features = output
        return triplet(features, pids) + xent(logits, pids)

    return loss


def _fastreid_loss() -> Callable[[Any, Tensor], Tensor]:
    folder = package_file("fastreid", "modeling/losses/utils.py").parent
    # Its package of losses imports all of them; these two need their folder alone and a log that is not written here.
    package = types.ModuleType("fastreid_losses")
    package.__path__ = [str(folder)]
    log = types.SimpleNamespace(get_event_storage=None)
    with mock.patch.dict(sys.modules, {"fastreid_losses": package, "fastreid.utils.events": log}):
        xent = importlib.import_module("fastreid_losses.cross_entroy_loss").cross_entropy_loss
        triplet = importlib.import_module("fastreid_losses.triplet_loss").triplet_loss

    def loss(output: Any, pids: Tensor) -> Tensor:
        (logits,), (features,) = output.logits, output.features
        return xent(logits, pids, SMOOTHING) + triplet(features, pids, MARGIN, False, True)

    return loss


def copy_weights(engine: Engine, ours: nn.Module) -> None:
    """Start from the weights of ours."""
    engine.network.load_state_dict(ours.state_dict())
