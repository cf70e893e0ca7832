# SPDX-License-Identifier: Apache-2.0
"""What the tests of the methods on clothes labels share."""

from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn

from fastreid_ops.config import from_dict
from fastreid_ops.data.manifest import Manifest
from fastreid_ops.engine.methods.context import Context
from fastreid_ops.engine.optim import build_optimizer, optimizer_step
from fastreid_ops.engine.schedule import build_schedule
from fastreid_ops.engine.state import TrainState
from fastreid_ops.models import TrainOutput

OWN = {"match": "criteria.clothes_classifier.*", "optimizer": "adam", "scheduled": False}


def manifest(pairs):
    """A training set of one image for each (pid, clothes)."""
    pid, clothes = map(list, zip(*pairs, strict=True))
    n = len(pid)
    return Manifest(Path(), [f"{i}.jpg" for i in range(n)], pid, [0] * n, ["train"] * n, clothes=clothes)


def make_state(method, model, training, **sections):
    config = from_dict(
        {
            "optim": {
                "name": "sgd",
                "lr": 0.05,
                "momentum": 0.0,
                "groups": [OWN],
                **sections.pop("optim", {}),
            },
            "train": {"channels_last": False, **sections.pop("train", {})},
            "schedule": {"name": "constant", "warmup_epochs": 0},
            **sections,
        }
    )
    classes = len(training.label_map())
    criteria = method.losses(Context(config, model, classes, training))
    return TrainState(
        config=config,
        model=model,
        criteria=criteria,
        optimizer=build_optimizer({"model": model, "criteria": criteria}, config.optim),
        schedule=build_schedule(config.schedule, config.train.epochs),
        device=torch.device("cpu"),
        label_map=training.label_map(),
    )


def make_batch(images, pids, clothes):
    return SimpleNamespace(images=images, pids=pids, clothes=clothes)


def train_step(method, state, batch):
    state.schedule.apply(state.optimizer, 0.0)
    losses = method.step(state, batch)
    sum(losses.values()).backward()
    optimizer_step(state.optimizer, None, None)
    return {name: value.item() for name, value in losses.items()}


class Given(nn.Module):
    """Hands out one feature and one set of logits, whatever the images."""

    def __init__(self, feature, logits):
        super().__init__()
        self.feature, self.logits = nn.Parameter(feature), nn.Parameter(logits)
        self.feature_dim = feature.shape[1]

    def forward(self, images):
        return TrainOutput((self.logits,), (self.feature,))


class Small(nn.Module):
    feature_dim = 6

    def __init__(self):
        super().__init__()
        self.body, self.bn, self.classifier = nn.Linear(5, 6, bias=False), nn.BatchNorm1d(6), nn.Linear(6, 3)

    def forward(self, images):
        feature = self.bn(self.body(images))
        return TrainOutput((self.classifier(feature),), (feature,))
