# SPDX-License-Identifier: Apache-2.0
"""Scenario 3, a step of training on a device (forward pass, losses, backward pass, optimiser; images that are there
already) in bfloat16: the package's layout, ops, losses and optimiser against the same network as plain PyTorch has it,
with its default layout, losses of a few lines of torch, and Adam as it comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from device_timing import measure
from roofline import Work
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from fastreid_ops.losses import BatchHardTripletLoss, CMKICLoss, LabelSmoothedCrossEntropy
from fastreid_ops.models import create_model
from fastreid_ops.ops import attention, distance

CLASSES, MARGIN, SMOOTHING, EACH = 751, 0.3, 0.1, 4
TEMPERATURE, KEYS = 0.1, 5


class Recipe(NamedTuple):
    network: str
    batch: int
    size: tuple[int, int]
    classes: int
    cross_modal: bool = False


@contextmanager
def plain_torch() -> Iterator[None]:
    """The package's layers and losses without its kernels."""
    kept = [
        (module, name, getattr(module, name))
        for module, name in ((attention, "_STATUS"), (distance, "_STATUS"))
    ]
    try:
        for module, name, status in kept:
            setattr(module, name, status._replace(native=False, cuda=False))
        yield
    finally:
        for module, name, status in kept:
            setattr(module, name, status)


# ---- losses: ours, and as one writes them ----


def _floats(values) -> list[Tensor]:
    return [value.float() for value in values]


def _ours(recipe: Recipe) -> Callable[..., Tensor]:
    entropy = LabelSmoothedCrossEntropy(SMOOTHING, check_inputs=False)
    triplet = BatchHardTripletLoss(MARGIN, check_inputs=False)
    contrast = CMKICLoss(KEYS, temperature=TEMPERATURE, check_inputs=False)

    def loss(output, pids: Tensor) -> Tensor:
        logits, features = _floats(output.logits), _floats(output.features)
        total = sum(entropy(one, pids) for one in logits) / len(logits)
        total = total + sum(triplet(one, pids) for one in features) / len(features)
        if recipe.cross_modal:
            found = [v.float() for name, v in output.auxiliary.items() if name.startswith("projection_")]
            total = total + sum(contrast(*one.chunk(2), *pids.chunk(2)) for one in found) / len(found)
        return total

    return loss


def _triplet(features: Tensor, pids: Tensor) -> Tensor:
    squared = features.square().sum(1)[:, None] + features.square().sum(1) - 2 * features @ features.T
    matrix = squared.clamp(min=1e-12).sqrt()
    same = pids[:, None] == pids
    nearest = matrix.masked_fill(same, torch.inf).amin(1)
    return F.relu(matrix.masked_fill(~same, -torch.inf).amax(1) - nearest + MARGIN).mean()


def _contrast(one: Tensor, other: Tensor, own: Tensor, theirs: Tensor) -> Tensor:
    score = F.normalize(one, dim=1) @ F.normalize(other, dim=1).T / TEMPERATURE
    same = own[:, None] == theirs
    keys = torch.topk(score.masked_fill(~same, torch.inf), min(KEYS, score.shape[1]), 1, largest=False).values
    rest = torch.logsumexp(score.masked_fill(same, -torch.inf), 1, keepdim=True)
    there = keys.isfinite()
    terms = torch.where(there, torch.logaddexp(keys.where(there, 0.0), rest) - keys.where(there, 0.0), 0.0)
    return (terms.sum(1) / there.sum(1)).mean()


def _theirs(recipe: Recipe) -> Callable[..., Tensor]:
    def loss(output, pids: Tensor) -> Tensor:
        logits, features = _floats(output.logits), _floats(output.features)
        total = sum(F.cross_entropy(one, pids, label_smoothing=SMOOTHING) for one in logits) / len(logits)
        total = total + sum(_triplet(one, pids) for one in features) / len(features)
        if recipe.cross_modal:
            found = [v.float() for name, v in output.auxiliary.items() if name.startswith("projection_")]
            (a, b) = pids.chunk(2)
            both = [(one.chunk(2)) for one in found]
            total = total + sum(_contrast(v, r, a, b) + _contrast(r, v, b, a) for v, r in both) / len(found)
        return total

    return loss


# ---- steps ----


class Trainer:
    """One side: its network, loss and optimiser on a batch that stays."""

    def __init__(self, recipe: Recipe, device: str, *, plain: bool) -> None:
        torch.manual_seed(0)
        layout = torch.contiguous_format if plain else torch.channels_last
        self.device = device
        self.model = create_model(recipe.network, recipe.classes).to(device, memory_format=layout).train()
        for module in self.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0  # draws of its own: the two sides would not be comparable
        self.loss = (_theirs if plain else _ours)(recipe)
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(
            parameters, lr=3.5e-4, weight_decay=5e-4, fused=None if plain else True
        )
        images = torch.randn(recipe.batch, 3, *recipe.size, device=device)
        self.images = images.to(memory_format=layout)
        people = (
            torch.arange(recipe.batch // 2 if recipe.cross_modal else recipe.batch, device=device) // EACH
        )
        self.pids = people.repeat(2) if recipe.cross_modal else people

    def backward(self, *, half: bool = True) -> Tensor:
        with torch.autocast(self.device, dtype=torch.bfloat16, enabled=half):
            output = self.model(self.images)
        loss = self.loss(output, self.pids)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        return loss.detach()

    def step(self) -> Tensor:
        loss = self.backward()
        self.optimizer.step()
        return loss


def _network(bench, recipe: Recipe) -> None:
    small = recipe._replace(batch=8, size=(64, 32), classes=20)
    chosen = bench.pick(recipe, small)
    ours, theirs = (Trainer(chosen, bench.device, plain=plain) for plain in (False, True))
    mine = ours.backward(half=False)
    with plain_torch():
        his = theirs.backward(half=False)
    # The same weights and images. In bfloat16 the two layouts' roundings choose other hardest pairs.
    torch.testing.assert_close(mine, his, rtol=2e-3, atol=0)
    with FlopCounterMode(display=False) as counter:
        ours.backward()
    rounds = bench.pick(20, 1)
    found = measure(ours.step, bench.device, rounds=rounds, warm=bench.pick(5, 1))
    peak = bench.peak(ours.step)
    sides = {"plain PyTorch": theirs}
    if bench.device == "cuda":
        layout = Trainer(chosen, bench.device, plain=True)
        layout.model.to(memory_format=torch.channels_last)
        layout.images = layout.images.to(memory_format=torch.channels_last)
        sides["plain PyTorch, channels_last"] = layout
    for name, side in sides.items():
        with plain_torch():
            theirs_found = measure(side.step, bench.device, rounds=rounds, warm=bench.pick(5, 1))
            rival_peak = bench.peak(side.step)
        bench.compare(
            f"training step, {recipe.network}, {chosen.batch} of {chosen.size[0]}x{chosen.size[1]}",
            found,
            # Its bytes are not known beforehand: the floor is that of the convolutions and products alone.
            work=Work(0, counter.get_total_flops()),
            rival=name,
            rival_timing=theirs_found,
            images_per_second=chosen.batch / found.seconds,
            rival_images_per_second=chosen.batch / theirs_found.seconds,
            peak_bytes=peak,
            rival_peak_bytes=rival_peak,
        )


def resnet50(bench) -> None:
    _network(bench, Recipe("resnet50", 128, (256, 128), CLASSES))


def mdinet(bench) -> None:
    _network(bench, Recipe("mdinet", 128, (384, 128), 395, cross_modal=True))


def osnet(bench) -> None:
    """The network whose blocks the fused gates are for."""
    _network(bench, Recipe("osnet_x1_0", 128, (256, 128), CLASSES))
