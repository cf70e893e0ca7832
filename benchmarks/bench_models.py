# SPDX-License-Identifier: Apache-2.0
"""Whole networks against those of torchreid and fast-reid: the same weights, the same images, the same loss.

Three ways of ours: as the rival runs (float32), with the memory laid out by channels (what training does by default),
and with bfloat16 on top. The rival always runs float32 as its own scripts do on a CPU.

``pytest benchmarks/bench_models.py --benchmark-only``; FASTREID_BENCH_FULL=1 for all of them at real sizes.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy

import pytest
import torch
from rivals.models import CLASSES, Rival, available
from shapes import FULL
from torch import Tensor, nn
from torch.nn import functional as F

from fastreid_ops.engine.state import half_type
from fastreid_ops.models import create_model

WAYS = ("float32", "channels last", "channels last, bfloat16")
STEPS = ("forward, 1 image", "forward", "train step")
BATCH = 16 if FULL else 8
RIVALS = [rival for rival in available() if FULL or rival.ours in ("hacnn", "osnet_x0_25")]
CASES = [
    (rival, step, way)
    for rival in RIVALS
    for step in STEPS
    for way in WAYS
    if (FULL and rival.main) or way == WAYS[0]
]


class Network:
    """A network with one batch, and what is done with it."""

    def __init__(self, model: nn.Module, logits: Callable, images: Tensor, way: str, step: str) -> None:
        layout = torch.contiguous_format if way == WAYS[0] else torch.channels_last
        self.model = model.to(memory_format=layout).train(step == STEPS[2])
        self.logits = logits
        self.images = images.to(memory_format=layout)
        self.half = way == WAYS[2]
        self.labels = torch.arange(len(images)) * 37 % CLASSES

    def _autocast(self):
        return torch.autocast("cpu", dtype=torch.bfloat16) if self.half else nullcontext()

    def forward(self) -> Tensor:
        with torch.inference_mode(), self._autocast():
            return self.model(self.images).float()

    def train(self) -> Tensor:
        """Cross entropy, the mean over the heads, its gradients; returns the loss and the gradients' norm."""
        for parameter in self.model.parameters():
            parameter.grad = None
        with self._autocast():
            heads = self.logits(self.model(self.images))
        loss = sum(F.cross_entropy(head.float(), self.labels) for head in heads) / len(heads)
        loss.backward()
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        return torch.stack([loss.detach(), torch.nn.utils.get_total_norm(grads)])

    def train_in_float64(self) -> Tensor:
        """The same step of a copy in double precision, in which rounding does not decide a slope."""
        copy = Network(deepcopy(self.model), self.logits, self.images, WAYS[0], STEPS[2])
        copy.model.double()
        copy.images = copy.images.double()
        torch.set_default_dtype(torch.float64)  # torchreid's region grid has no dtype of its own
        try:
            return copy.train()
        finally:
            torch.set_default_dtype(torch.float32)


def pair(rival: Rival, step: str, way: str) -> tuple[Network, Network]:
    torch.manual_seed(0)
    ours = create_model(rival.ours, CLASSES)
    with torch.no_grad():  # off the initial values: HACNN's regions begin exactly where their slope jumps
        for vector in (p for p in ours.parameters() if p.dim() == 1):
            vector.add_(torch.randn_like(vector) * 0.01)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = rival.make()
    theirs.load_state_dict(ours.state_dict())
    for model in (ours, theirs):
        for module in model.modules():
            if isinstance(module, nn.Dropout):  # draws of its own: two runs would not be comparable
                module.p = 0.0
    count = 1 if step == STEPS[0] else BATCH
    images = torch.randn(count, 3, *rival.size)
    return (
        Network(ours, lambda output: list(output.logits), images, way, step),
        Network(theirs, rival.logits, images, WAYS[0], step),
    )


def close(mine: Tensor, his: Tensor, *, half: bool) -> None:
    """The same result but for rounding. Gradients jump where a rounded value crosses a ReLU's or a region's edge: with
    random weights another order of the same sums moves HACNN's norm by .4 % in float32 and by a third in bfloat16, so
    that the exact comparison of gradients is the one in float64."""
    if half and mine.dim() == 2:
        assert F.cosine_similarity(mine, his).min() > 0.98
    elif half:
        torch.testing.assert_close(mine[0], his[0], rtol=0.02, atol=0)
        assert mine[1].isfinite()
    elif mine.dim() == 2:
        torch.testing.assert_close(mine, his, rtol=2e-3, atol=1e-3 * his.abs().max().item())
    else:
        torch.testing.assert_close(mine[0], his[0], rtol=1e-4, atol=0)
        torch.testing.assert_close(mine[1], his[1], rtol=0.03, atol=0)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("rival", "step", "way"),
    CASES,
    ids=lambda value: value.ours if isinstance(value, Rival) else value.replace(", ", "-").replace(" ", "-"),
)
def test_network(versus, benchmark, rival, step, way):
    if way == WAYS[2] and half_type("auto", torch.device("cpu")) is None:
        pytest.skip("this processor has no bfloat16: it would be emulated, and nothing measured")
    benchmark.group = f"networks: {step}"
    ours, theirs = pair(rival, step, way)
    run = "train" if step == STEPS[2] else "forward"
    if step == STEPS[2]:
        torch.testing.assert_close(ours.train_in_float64(), theirs.train_in_float64(), rtol=1e-9, atol=0)
    versus(
        getattr(ours, run),
        getattr(theirs, run),
        functools.partial(close, half=ours.half),
        rival=rival.package,
        rounds=15 if step == STEPS[0] else 3,
        network=rival.ours,
        step=step if step == STEPS[0] else f"{step}, {BATCH} images",
        way=way,
        target=1.5 if way == WAYS[2] else 1.0,
    )
