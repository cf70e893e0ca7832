# SPDX-License-Identifier: Apache-2.0
"""A run in miniature: a small model, batches that are a function of (epoch, step), the real state and loop."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from torch import nn

from fastreid_ops.config import from_dict
from fastreid_ops.engine.ema import Ema
from fastreid_ops.engine.log import Log, Metrics
from fastreid_ops.engine.loop import Tools
from fastreid_ops.engine.methods import identity
from fastreid_ops.engine.methods.context import Context
from fastreid_ops.engine.optim import build_optimizer
from fastreid_ops.engine.schedule import build_schedule
from fastreid_ops.engine.state import TrainState, seed_everything
from fastreid_ops.models.output import TrainOutput

CLASSES = 4


class Batch(NamedTuple):
    images: torch.Tensor
    pids: torch.Tensor
    paths: list


class Loader:
    """`length` batches of 8 images; what they hold depends on epoch and step alone."""

    def __init__(self, length=5, bad=None):
        self.length, self.bad, self.given = length, bad, []

    def len_epoch(self, epoch):
        return self.length + epoch % 2

    def iterate(self, epoch, start):
        for step in range(start, self.len_epoch(epoch)):
            self.given.append((epoch, step))
            generator = torch.Generator().manual_seed(1000 * epoch + step)
            images = torch.randn(8, 3, 6, 4, generator=generator)
            if (epoch, step) == self.bad:
                images[3] = float("nan")
            pids = torch.arange(8) // 2
            yield Batch(
                images + pids[:, None, None, None], pids, [f"{epoch}-{step}-{i}.jpg" for i in range(8)]
            )


class Network(nn.Module):
    def __init__(self, heads=1, dropout=0.3):
        super().__init__()
        self.dropout = dropout
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU())
        self.heads = nn.ModuleList(nn.Linear(6, CLASSES) for _ in range(heads))

    def forward(self, x):
        feature = self.body(x).mean((2, 3))
        if not self.training:
            return feature
        dropped = nn.functional.dropout(feature, self.dropout)
        return TrainOutput(tuple(head(dropped) for head in self.heads), (feature,) * len(self.heads))


def make_state(heads=1, dropout=0.3, **sections):
    """A TrainState on the CPU; sections override the configuration."""
    values = {"train": {"epochs": 3}, "schedule": {"warmup_epochs": 1}, "eval": {"every": 1}}
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section}
    config = from_dict(values)
    seed_everything(config.train.seed)
    model = Network(heads, dropout)
    if config.train.channels_last:
        model = model.to(memory_format=torch.channels_last)
    criteria = identity.losses(Context(config, model, CLASSES, None))
    return TrainState(
        config=config,
        model=model,
        criteria=criteria,
        optimizer=build_optimizer({"model": model, "criteria": criteria}, config.optim),
        schedule=build_schedule(config.schedule, config.train.epochs),
        device=torch.device("cpu"),
        label_map={f"person {i}": i for i in range(CLASSES)},
        ema=Ema(model, config.train.ema) if config.train.ema else None,
        scaler=torch.amp.GradScaler("cpu") if config.train.amp == "fp16" else None,
    )


class FakeResult:
    def __init__(self, mAP):
        self.mAP, self.mINP = mAP, mAP / 2

    def rank(self, k):
        return 1 - 0.5 / k


@pytest.fixture
def run(tmp_path):
    """`run.state(...)` and `run.tools(...)` for the loop; checkpoints go into `run.saved`."""
    saved, assessed = [], []

    def tools(loader=None, step=identity.step, scores=None, **more):
        metrics = Metrics(tmp_path / "metrics.jsonl")

        def assess(model):
            assessed.append(model)
            score = scores.pop(0) if scores else 0.5
            return {name: SimpleNamespace(result=FakeResult(score)) for name in ("first", "second")}

        def save(state, best):
            saved.append((state.capture(metrics.position(), {"threads": 1}), best))

        given = {"assess": assess, "save": save, "check": lambda: None, "log": Log(), **more}
        return Tools(loader=loader or Loader(), step=step, metrics=metrics, **given)

    return SimpleNamespace(
        state=make_state, tools=tools, saved=saved, assessed=assessed, path=tmp_path, Loader=Loader
    )


@pytest.fixture(autouse=True)
def one_thread():
    """Tensors this small gain nothing from a second thread, and a busy machine makes them wait for it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def golden():
    """The module that fills networks and makes inputs from names."""
    path = Path(__file__).parents[1] / "golden" / "deep_person_reid" / "golden_rule.py"
    spec = importlib.util.spec_from_file_location("golden_rule", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
