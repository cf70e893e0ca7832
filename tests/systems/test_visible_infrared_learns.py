# SPDX-License-Identifier: Apache-2.0
"""The systems for visible and infrared images learn: on procedural people laid out as RegDB, from the command line to
the table, the loss of DEEN's method falls and people never seen are found again across the modalities; the three whole
networks lower their losses on a batch.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fastreid_ops import train
from fastreid_ops.config import from_dict
from fastreid_ops.config.read import read_recipe
from fastreid_ops.data.datasets import people
from fastreid_ops.data.manifest import Manifest
from fastreid_ops.engine import setup
from fastreid_ops.engine.methods import method
from fastreid_ops.engine.optim import optimizer_step
from fastreid_ops.engine.state import seed_everything

# Small and clear pictures: what remains between the modalities is cut and shape, for infrared light sees no dyes.
PEOPLE = {
    "like": "regdb",
    "train_ids": 32,
    "test_ids": 16,
    "images_per_camera": 4,
    "height": 64,
    "width": 32,
    "color_shift": 0.0,
    "gamma_shift": 0.0,
    "exposure_shift": 0.02,
    "yaw_spread": 10.0,
    "resolution": (60, 64),
    "blur": 0.0,
    "noise": 1.0,
    "jpeg_quality": (90, 95),
    "occlusion": 0.0,
    "truncation": 0.0,
    "box_jitter": 0.01,
    "shared_colors": 0.0,
}
SMALL = {
    "data.height": 64,
    "data.width": 32,
    "data.batch_size": 64,
    "data.images_per_id": 4,
    "data.crop_padding": 3,
    "data.grey": 0,
    "data.erasing": 0,
    "data.workers": 0,
    "data.cache_images": "true",
    "model.options.image_size": "[64, 32]",
    "model.options.dim": 48,
    "model.options.depth": 4,
    "model.options.num_heads": 4,
    "model.options.dropout": 0.0,
    "model.options.neck": "bn",
    "loss.triplet": 0.3,
    "loss.cross_modal.cpm": 0.3,
    "optim.name": "adam",
    "optim.lr": 2e-3,
    "optim.weight_decay": 5e-4,
    "optim.clip": "null",
    "schedule.warmup_epochs": 4,
    "train.epochs": 70,
    "eval.every": 0,
    "eval.flip": "false",
    "run.device": "cpu",
    "run.threads": 1,
    "train.amp": "off",  # the same figures on every processor
    "run.log_every": 1,
    "run.report": "false",
    "run.checkpoint_every_epochs": 1000,
}
SETS = "[{name: people, protocol: regdb}, {name: shots, protocol: sysu_mm01, protocol_options: {trials: 3}}]"
RESULTS = ("people-regdb_visible2thermal", "people-regdb_thermal2visible", "shots")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("people")
    return people.read(folder / "people", **PEOPLE)


def learn(manifest: Manifest, folder: Path, **changed: object) -> tuple[list[float], dict, dict]:
    """Losses of all steps, and mAP by result before the first and after the last."""
    folder.mkdir()
    manifest.write_csv(folder / "people.csv", absolute=True)
    values = {"data.dataset": folder / "people.csv", "data.root": "null", "run.folder": folder / "run"}
    values |= {"eval.sets": SETS, **SMALL, **changed}
    words = [word for key, value in values.items() for word in (f"--{key}", str(value))]
    assert train.main(["--config", "sysu_mm01_embednet", *words]) == 0
    lines = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    rows = json.loads((folder / "run/results/table.json").read_text())["rows"]
    before, after = (
        {row["set"]: row["mAP"] for row in rows if row["system"] == system}
        for system in ("untrained", "trained")
    )
    assert before.keys() == after.keys() == set(RESULTS)
    return [line["loss"] for line in lines if line["kind"] == "train"], before, after


def test_deen_around_a_small_transformer(pictures, tmp_path):
    losses, before, after = learn(pictures, tmp_path / "run")
    assert sum(losses[-20:]) < 0.5 * sum(losses[:20])
    assert all(after[name] > 1.1 * before[name] for name in RESULTS)
    assert sum(after.values()) > 1.3 * sum(before.values())


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
