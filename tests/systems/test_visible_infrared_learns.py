# SPDX-License-Identifier: Apache-2.0
"""The systems for visible and infrared images learn: by the small recipes, from the command line to the table, their
losses fall and people never seen are found again across the modalities; pictures of both modalities teach what visible
ones alone do not; the whole networks on ResNet-50 lower their losses on a batch.
"""

from __future__ import annotations

import json
import sys
import types
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fastreid_ops import models, train
from fastreid_ops.config import from_dict
from fastreid_ops.config.read import read_recipe
from fastreid_ops.data.datasets import people
from fastreid_ops.data.manifest import Manifest
from fastreid_ops.engine import setup
from fastreid_ops.engine.methods import method
from fastreid_ops.engine.optim import optimizer_step
from fastreid_ops.engine.state import seed_everything
from fastreid_ops.models.output import TrainOutput

pytestmark = pytest.mark.timeout(900)  # half a minute to a minute and a half where bfloat16 is native
BOTH = ("people-regdb_visible2thermal", "people-regdb_thermal2visible")


@pytest.fixture(scope="module", autouse=True)
def kept_pictures(tmp_path_factory):
    """The recipes that share their people render them once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTREID_OPS_CACHE", str(tmp_path_factory.mktemp("people")))
        yield


def learn(recipe, folder, **changed) -> tuple[list[dict], dict, dict]:
    """Losses of all steps, and mAP by result before the first and after the last."""
    values = {"run.folder": folder, "run.device": "cpu", "run.threads": 1, "run.report": "false"}
    values |= {"run.log_every": 1, "run.checkpoint_every_epochs": 1000, **changed}
    words = [word for key, value in values.items() for word in (f"--{key}", str(value))]
    assert train.main(["--config", recipe, *words]) == 0
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows = json.loads((folder / "results/table.json").read_text())["rows"]
    before, after = (
        {row["set"]: row["mAP"] for row in rows if row["system"] == system}
        for system in ("untrained", "trained")
    )
    return [line["losses"] for line in lines if line["kind"] == "train"], before, after


def mean(losses: list[dict]) -> dict[str, float]:
    return {name: sum(step[name] for step in losses) / len(losses) for name in losses[0]}


def test_deen_around_a_small_transformer(tmp_path):
    losses, before, after = learn("people_embednet", tmp_path / "run")
    totals = [sum(step.values()) for step in losses]
    assert sum(totals[-20:]) < 0.5 * sum(totals[:20])
    assert before.keys() == after.keys() == {*BOTH, "shots"}
    assert all(after[name] > 1.1 * before[name] for name in after)
    assert sum(after.values()) > 1.3 * sum(before.values())


@pytest.mark.parametrize(
    ("recipe", "terms", "fall", "rise"),
    [
        ("people_wrim", {"id", "triplet", "cmkic"}, 0.75, 1.3),
        ("people_agw", {"id", "triplet"}, 0.75, 1.3),
        (
            "people_deen",
            {"id", "triplet", "cpm", "orthogonality"},
            0.85,
            1.2,
        ),  # rises of three seeds: 1.54, 1.43, 1.32
    ],
)
def test_the_residual_networks(recipe, terms, fall, rise, tmp_path):
    """MDINet, AGW and DEEN with one block a stage, on people of whom infrared light shows cut and shape only."""
    losses, before, after = learn(recipe, tmp_path / "run")
    first, last = mean(losses[:20]), mean(losses[-20:])
    assert first.keys() == terms
    assert last["id"] < fall * first["id"]
    assert sum(last.values()) < 0.75 * sum(first.values())
    assert before.keys() == after.keys() == set(BOTH)
    assert all(after[name] > 1.15 * before[name] for name in BOTH), (before, after)
    assert sum(after.values()) > rise * sum(before.values()), (before, after)


class Small(nn.Module):
    """Four convolutions for both modalities, upper and lower half pooled apart, a neck, and what CMKIC asks for."""

    def __init__(self, num_classes, width=32):
        super().__init__()
        layers, before = [], 3
        for channels in (width, 2 * width, 4 * width, 8 * width):
            layers += [nn.Conv2d(before, channels, 3, 2, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
            before = channels
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d((2, 1)), nn.Flatten())
        self.feature_dim = 2 * before
        self.neck = nn.BatchNorm1d(self.feature_dim)
        self.classifier = nn.Linear(self.feature_dim, num_classes, bias=False)
        self.con_head = nn.Identity()

    def forward(self, images, mode=0):
        feature = self.neck(self.body(images))
        if not self.training:
            return feature
        projection = nn.functional.normalize(self.con_head(feature))
        return TrainOutput((self.classifier(feature),), (feature,), (), {"projection_b1": projection})


@pytest.fixture
def small_network(monkeypatch):
    module = types.ModuleType("two_modalities_small")
    module.Small = Small
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(models.MODELS, "two_modalities_small", f"{module.__name__}:Small")


def test_pairs_teach_more_than_one_modality(small_network, tmp_path):
    """One network, WRIM-Net's terms, as many steps on as many pictures: with visible pictures in both halves of a batch
    against pairs. Both are tested across the modalities.
    """
    everything = people.read(None, **read_recipe("people_wrim")["data"]["options"])
    pictures = everything.columns()
    visible = [
        row
        for row, split in enumerate(everything.split)
        if split != "train" or everything.modality[row] == "visible"
    ]
    halves = list(everything.modality)
    for row in visible:
        if everything.split[row] == "train" and everything.frame[row] % 2:
            halves[row] = "infrared"  # the half of the batch (greyed less often), not what the camera was
    alone = Manifest(everything.root, **{**pictures, "modality": halves}).take(visible)
    found = {}
    for arm, manifest in (("pairs", everything), ("visible", alone)):
        manifest.write_csv(tmp_path / f"{arm}.csv", absolute=True)
        changed = {"data.dataset": tmp_path / f"{arm}.csv", "data.options": "{}"}
        changed |= {"model.name": "two_modalities_small", "model.options": "{}", "loss.triplet": 0}
        # An epoch of half the pictures is half as long.
        changed |= {"optim.lr": 2e-3, "train.epochs": 6 if arm == "pairs" else 12}
        losses, before, after = learn("people_wrim", tmp_path / arm, **changed)
        found[arm] = len(losses), sum(before.values()), sum(after.values())
    (steps, untrained, pairs), (others, same, single) = found["pairs"], found["visible"]
    assert 0.95 * steps < others < 1.05 * steps
    assert untrained == same
    assert pairs > 1.2 * untrained, found
    assert pairs > 1.25 * single, found


@pytest.mark.parametrize(
    ("recipe", "epoch", "steps", "terms"),
    [
        ("regdb_wrim", 10, 10, {"id", "triplet", "cmkic"}),
        ("regdb_deen", 10, 10, {"id", "triplet", "cpm", "orthogonality"}),
        ("regdb_agw", 0, 14, {"id", "triplet"}),
    ],
)
def test_the_whole_networks_take_in_a_batch(recipe, epoch, steps, terms):
    """By the recipe's terms and optimizer at the rates of an epoch: from random weights they would need far longer to
    find people they have not seen.
    """
    config = from_dict(read_recipe(recipe))
    seed_everything(0)
    state = setup.build_state(config, None, {pid: pid for pid in range(4)}, torch.device("cpu"), print)
    pids = torch.arange(4).repeat_interleave(2).repeat(2)
    batch = SimpleNamespace(images=torch.randn(16, 3, 32, 16), pids=pids)
    state.model.train()
    seen = []
    for _ in range(steps):
        state.schedule.apply(state.optimizer, epoch)
        losses = method(config.train.method).step(state, batch)
        assert losses.keys() == terms
        sum(losses.values()).backward()
        optimizer_step(state.optimizer, None, config.optim.clip)
        seen.append(sum(loss.item() for loss in losses.values()))
    assert seen[-1] < 0.7 * seen[0]
