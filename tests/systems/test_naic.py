# SPDX-License-Identifier: Apache-2.0
"""NAIC_ReID: rates and optimisers of its recipes beside the original's, its recipes on files in NAIC's own layout, and
that the system learns.
"""

import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fastreid_ops import models, train
from fastreid_ops.config import from_dict
from fastreid_ops.config.read import read_recipe
from fastreid_ops.engine.optim import build_optimizer
from fastreid_ops.engine.schedule import build_schedule
from fastreid_ops.losses import CenterLoss
from fastreid_ops.models.naic import NAICNet

GOLDEN = Path(__file__).parents[1] / "golden" / "naic_and_cloth_changing"
RECIPES = ("naic_resnet101_ibn_b", "naic_resnet101_ibn_a", "naic_se_resnet50_ibn_a", "naic_efficientnet_b0")


class Base(nn.Sequential):
    """Six convolutions, stride 8."""

    def __init__(self, width=24):
        layers, before = [], 3
        for channels, stride in ((1, 2), (1, 1), (2, 2), (2, 1), (4, 2), (4, 1)):
            conv = nn.Conv2d(before, channels * width, 3, stride=stride, padding=1, bias=False)
            layers += [conv, nn.BatchNorm2d(channels * width), nn.ReLU(inplace=True)]
            before = channels * width
        super().__init__(*layers)
        self.out_channels = before


def small(num_classes, *, pool="gem", classifier="none", pcb=False):
    return NAICNet(Base(), num_classes, pool=pool, classifier=classifier, pcb=pcb)


@pytest.fixture
def small_network(monkeypatch):
    module = types.ModuleType("naic_small")
    module.small = small
    monkeypatch.setitem(sys.modules, "naic_small", module)
    monkeypatch.setitem(models.MODELS, "naic_small", "naic_small:small")


@pytest.mark.parametrize(
    ("recipe", "recorded"), [("naic_resnet101_ibn_b", "naic_b"), ("naic_resnet101_ibn_a", "naic_a")]
)
def test_rates_of_the_original(recipe, recorded):
    config = from_dict(read_recipe(recipe))
    with np.load(GOLDEN / "naic_lr.npz") as file:
        want = file[recorded]
    body = nn.ModuleDict({"conv": nn.Linear(3, 4)})
    criteria = nn.ModuleDict({"center": CenterLoss(5, 4)} if config.loss.naic.center else {})
    optimizer = build_optimizer({"model": body, "criteria": criteria}, config.optim)
    schedule = build_schedule(config.schedule, config.train.epochs)
    assert config.train.epochs == len(want) == 60
    for epoch, rate in enumerate(want):
        for within in (0.0, 0.5):  # held within an epoch
            assert schedule.apply(optimizer, epoch + within) == pytest.approx(rate, rel=1e-9)
        for group in optimizer.param_groups:
            centres = any(each is p for each in criteria.parameters() for p in group["params"])
            assert group["lr"] == pytest.approx(0.5 if centres else rate, rel=1e-9)


def test_centres_step_as_the_originals_beside_ranger():
    """A whole optimiser step of recipe a moves the centres as the recording, whatever the body's optimiser does."""
    config = from_dict(read_recipe("naic_resnet101_ibn_a"))
    with np.load(GOLDEN / "naic_losses.npz") as file:
        want, first = file["center_after"], file["center_dcenters_w"]
    body, center = nn.ModuleDict({"conv": nn.Linear(3, 4)}), CenterLoss(5, 16)
    criteria = nn.ModuleDict({"center": center})
    optimizer = build_optimizer({"model": body, "criteria": criteria}, config.optim)
    build_schedule(config.schedule, config.train.epochs).apply(optimizer, 0.0)
    start = want + 0.5 * first / 3e-4
    with torch.no_grad():
        center.centers.copy_(torch.from_numpy(start))
    center.centers.grad = torch.from_numpy(first / np.float32(3e-4))
    optimizer.step()
    np.testing.assert_allclose(center.centers.detach().numpy(), want, rtol=2e-5, atol=2e-6)


@pytest.fixture(scope="module")
def naic(tmp_path_factory):
    """NAIC's own layout: two rounds of four people, an unlabelled list, both halves of the test set."""
    root, rng = tmp_path_factory.mktemp("MyDataSet"), np.random.default_rng(0)

    def picture(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (64, 32, 3), dtype=np.uint8)).save(path)

    for folder, list_name in (
        ("train_2020_fs", "train_list.txt"),
        ("train_2020_cs", "new_train_list.txt"),
        ("unlabel", "label.txt"),
    ):
        names = [(f"{pid}_{k}.png", pid) for pid in range(4) for k in range(3)]
        for name, _ in names:
            picture(root / folder / "images" / name)
        (root / folder / list_name).write_text("".join(f"{name}:{pid}\n" for name, pid in names))
    for side, count in (("query", 2), ("gallery", 4)):
        for half in ("green", "normal"):
            names = [f"{half}{number}.png" for number in range(count)]
            for name in names:
                picture(root / "image_B_v1_1" / side / name)
            (root / "image_B_v1_1" / f"{side}_{half}.txt").write_text("\n".join(names))
    return root


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_on_the_layout_of_naic(naic, recipe, capsys):
    """Everything built, one step, both halves ranked."""
    words = [
        *("--config", recipe, "--dry_run", "--data.root", str(naic), "--data.options.unlabelled", "true"),
        *("--data.height", "64", "--data.width", "32", "--data.batch_size", "4", "--data.images_per_id", "2"),
        *("--data.workers", "0", "--train.amp", "off", "--run.device", "cpu", "--run.threads", "1"),
    ]
    assert train.main(words) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "training on 36 images of 12 people" in said
    for half in ("green", "normal"):
        assert f"naic_{half}" in said


def test_learns(small_network, tmp_path, capsys):
    """People never seen: far above the untrained network and above colour alone; the loss falls."""
    run = tmp_path / "run"
    words = [
        *("--config", "people_naic", "--model.name", "naic_small", "--run.folder", str(run)),
        *(
            "--run.report",
            "false",
            "--train.epochs",
            "5",
            "--schedule.milestones",
            "[4]",
            "--eval.every",
            "0",
        ),
        *("--eval.sets", "[{name: test}]"),
    ]
    assert train.main(words) == 0, capsys.readouterr().err
    rows = json.loads((run / "results/table.json").read_text())["rows"]
    mean = {row["system"]: row["mAP"] for row in rows}
    assert mean["trained"] > mean["untrained"] + 0.3
    assert mean["trained"] > mean["HSV stripes"] + 0.1
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["losses"] for line in lines if line["kind"] == "train"]
    assert losses[0].keys() == {"id", "triplet", "center", "parts"}
    for term in losses[0]:
        first, last = (np.mean([each[term] for each in part]) for part in (losses[:8], losses[-8:]))
        assert last < first, term
