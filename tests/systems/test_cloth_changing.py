# SPDX-License-Identifier: Apache-2.0
"""The cloth-changing systems: what their recipes say, the recipes on files laid out as the real ones, and that they
learn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn

from fastreid_ops import train
from fastreid_ops.config import flatten, from_dict
from fastreid_ops.config.read import read_recipe
from fastreid_ops.engine.optim import build_optimizer
from fastreid_ops.engine.schedule import build_schedule

pytestmark = pytest.mark.timeout(900)  # two of them train for a minute where bfloat16 is native
GOLDEN = Path(__file__).parents[1] / "golden" / "naic_and_cloth_changing"
BASELINE = {
    "train.method": "identity",
    "optim.groups": [],
    "model.options": {"multi_scale": False, "clothes_branch": False},
}
PLAIN = {"model.name": "cc_resnet50"}
# What each numbered run of the source changes in run 206, the whole network on PRCC.
PRCC = {
    208: {"loss.clothes.from_epoch": 25},
    209: {"model.options": {"correction": False}, "loss.clothes.correction": 0.0},
    210: {"eval.metric": "euclidean", "eval.unit_length": True},
    211: BASELINE,
    212: {**BASELINE, **PLAIN},
    213: PLAIN,
    214: {**PLAIN, "model.options": {"multi_scale": False}},
    215: {**PLAIN, "model.options": {"multi_scale": False, "pool": "avg"}},
    216: PLAIN,  # 213 once more
    218: PLAIN,  # and under a mended evaluation, the only one there is here
}


def values(recipe):
    return flatten(read_recipe(recipe))


@pytest.mark.parametrize("run", sorted(PRCC))
def test_runs_on_prcc_differ_in_what_the_source_changed(run):
    whole, this = values("prcc_cloth_changing_206"), values(f"prcc_cloth_changing_{run}")
    assert {key: this[key] for key in this if this[key] != whole[key]} == PRCC[run]


@pytest.mark.parametrize("run", [196, 197, 198, 199, 200, 201, 202, 203])
def test_runs_on_ltcc_differ_in_the_attention(run):
    whole, this = values("prcc_cloth_changing_206"), values(f"ltcc_cloth_changing_{run}")
    changed = {key: this[key] for key in this if this[key] != whole[key]}
    assert changed.pop("model.options") == {"gate": run}
    assert [each["protocol"] for each in changed.pop("eval.sets")] == [
        "ltcc_clothes_changing",
        "ltcc_standard",
    ]
    assert changed == {"data.dataset": "ltcc"}


def test_the_whole_network_says_what_its_source_says():
    expected = {
        "model.name": "cc_resnet50_ibn_a",
        "data.height": 384,
        "data.width": 192,
        "data.batch_size": 32,
        "data.images_per_id": 8,
        "data.flip": 0.5,
        "data.crop_padding": 10,
        "data.padding_fill": "black",
        "data.translation": 0.0,
        "data.erasing": 0.5,
        "data.erasing_fill": "mean",
        "data.erasing_area": [0.02, 0.4],
        "loss.cross_entropy": 1.0,
        "loss.label_smoothing": 0.1,
        "loss.triplet": 1.0,
        "loss.margin": 0.3,
        "loss.clothes.from_epoch": 0,
        "loss.clothes.correction": 1.0,
        "loss.clothes.unclothed": 1.0,
        "loss.clothes.distillation": 0.1,
        "loss.clothes.temperature": 4.0,
        "loss.clothes.detach_teacher": False,
        "loss.clothes.classifier_smoothing": 0.0,
        "optim.weight_decay": 5e-4,
        "optim.clip": None,
        "train.epochs": 120,
        "eval.flip": True,
        "eval.metric": "cosine",
        "eval.unit_length": False,
    }
    whole = values("prcc_cloth_changing_206")
    assert {key: whole[key] for key in expected} == expected
    assert [each["protocol"] for each in whole["eval.sets"]] == ["prcc_cross_clothes", "prcc_same_clothes"]


def test_cal_says_what_its_source_says():
    expected = {
        "model.name": "cal_resnet50",
        "data.height": 384,
        "data.width": 192,
        "data.batch_size": 64,
        "data.images_per_id": 8,
        "data.flip": 0.5,
        "data.crop_padding": 0,
        "data.translation": 0.5,
        "data.erasing": 0.5,
        "loss.cross_entropy": 1.0,
        "loss.label_smoothing": 0.1,
        "loss.triplet": 0.0,
        "loss.clothes.from_epoch": 25,
        "loss.clothes.adversarial": 1.0,
        "loss.clothes.memory": False,
        "loss.clothes.scale": 16.0,
        "loss.clothes.epsilon": 0.1,
        "optim.weight_decay": 5e-4,
        "train.epochs": 60,
        "eval.flip": True,
        "eval.metric": "cosine",
    }
    prcc, ltcc = values("prcc_cal"), values("ltcc_cal")
    assert {key: prcc[key] for key in expected} == expected
    assert {key for key in prcc if prcc[key] != ltcc[key]} == {"data.dataset", "eval.sets"}


@pytest.mark.parametrize("recipe", ["prcc_cloth_changing_206", "prcc_cal"])
def test_rates_of_the_sources(recipe):
    """The network's as recorded, or x 0.1 at 20 and 40 without a warm-up; the clothes classifier's stays as it is."""
    config = from_dict(read_recipe(recipe))
    parts = {"model": nn.Linear(2, 2), "criteria": nn.ModuleDict({"clothes_classifier": nn.Linear(2, 2)})}
    optimizer = build_optimizer(parts, config.optim)
    schedule = build_schedule(config.schedule, config.train.epochs)
    with np.load(GOLDEN / "cc_lr.npz") as file:
        recorded = file["lr"]
    assert len(optimizer.parts) == 2
    for epoch, rate in enumerate(recorded):
        if recipe == "prcc_cal":
            rate = 3.5e-4 * (1 if epoch < 20 else 0.1 if epoch < 40 else 0.01)
        schedule.apply(optimizer, epoch + 0.7)  # the same in the whole epoch
        network, classifier = optimizer.param_groups
        assert network["lr"] == pytest.approx(rate, rel=1e-9), epoch
        assert (classifier["lr"], classifier["weight_decay"]) == (3.5e-4, 5e-4)


def pictures(root, names):
    rng = np.random.default_rng(0)
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (64, 32, 3), dtype=np.uint8)).save(file)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """PRCC and LTCC in miniature under one folder, as the recipes' data.root expects them."""
    root = tmp_path_factory.mktemp("clothes") / "data"
    people, more = range(1, 5), range(5, 8)
    pictures(
        root / "prcc/rgb",
        [
            f"train/{pid:03d}/{camera}_cropped_rgb{k:03d}.jpg"
            for pid in people
            for camera in "ABC"
            for k in (1, 2)
        ]
        + [
            f"test/{camera}/{pid:03d}/cropped_rgb{k:03d}.jpg"
            for pid in more
            for camera in "ABC"
            for k in (1, 2)
        ],
    )
    name = "{}/{:03d}_{}_c{}_{:06d}.png"
    pictures(
        root / "LTCC_ReID",
        [name.format("train", pid, outfit, c, c) for pid in people for outfit in (1, 2) for c in (1, 2, 12)]
        + [name.format("query", pid, outfit, 1, 7) for pid in more for outfit in (1, 2)]
        + [name.format("test", pid, outfit, c, 8) for pid in more for outfit in (1, 2) for c in (1, 2)],
    )
    return root


DRY = [
    ("prcc_cloth_changing_210", "clothes id triplet correction unclothed_id unclothed_triplet distillation"),
    ("prcc_cloth_changing_218", "clothes id triplet correction unclothed_id unclothed_triplet distillation"),
    ("prcc_cloth_changing_211", "id triplet"),
    ("ltcc_cloth_changing_202", "clothes id triplet correction unclothed_id unclothed_triplet distillation"),
    ("ltcc_cal", "id clothes adversarial"),
]


@pytest.mark.parametrize(("recipe", "terms"), DRY)
def test_recipe_on_files_in_the_layout_of_its_data(recipe, terms, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = [
        *("--config", recipe, "--dry_run", "--data.root", data, "--loss.clothes.from_epoch", 0),
        *("--data.height", 64, "--data.width", 32, "--data.batch_size", 8, "--data.images_per_id", 4),
        *("--data.workers", 0, "--run.device", "cpu", "--run.threads", 1),
    ]
    assert train.main(list(map(str, arguments))) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    (line,) = [each for each in said.splitlines() if each.startswith("epoch 1/1 batch 1/1")]
    words = line.split("mean loss")[1].split(",")[0].split()[1:]
    assert words[::2] == terms.split()
    for each in values(recipe)["eval.sets"]:
        assert f"after epoch 1: {each['name']}: mAP" in said
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """Called with a recipe on procedural people and options: its run; returns the mean of every term in each epoch, and
    {(system, set): mAP}."""
    cache = tmp_path_factory.mktemp("people")

    def run(recipe, *options):
        folder = cache / recipe
        arguments = [
            *("--config", recipe, "--run.folder", folder, "--run.report", "false", "--eval.every", 0),
            *("--eval.hsv_stripes", "false", *options),
        ]
        assert train.main(list(map(str, arguments))) == 0
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        epochs = {}
        for line in lines:
            if line["kind"] == "train":
                epochs.setdefault(line["epoch"], []).append(line["losses"])
        means = [
            {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]} for rows in epochs.values()
        ]
        rows = json.loads((folder / "results/table.json").read_text())["rows"]
        return means, {(row["system"], row["set"]): row["mAP"] for row in rows}

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTREID_OPS_CACHE", str(cache))
        yield run


def test_cal_learns_people_whose_clothes_change(learned):
    """On people it has not seen: in the same clothes clearly, in other ones, where colours mislead, a little."""
    start = 4
    losses, found = learned("people_cal")
    assert [set(each) for each in losses[:start]] == [{"id", "pairs"}] * start  # epochs, not batches
    first, begun, last = losses[0], losses[start], losses[-1]
    assert last["id"] < first["id"] - 0.6
    assert last["clothes"] < begun["clothes"] - 2
    assert last["adversarial"] < begun["adversarial"] - 2
    for name, rise in (("same_clothes", 0.08), ("cross_clothes", 0.005)):
        assert found["trained", name] > found["untrained", name] + rise, (name, found)


def test_the_whole_network_learns(learned):
    """Every classifier's loss falls, and people it has not seen are found better than before, by far in the same
    clothes; of three seeds the least rises were 0.16 there and 0.013 in other clothes. Without `zero_init_residual`
    neither this network nor its baseline learns anything in as many steps.
    """
    losses, found = learned("people_cloth_changing")
    first, last = losses[0], losses[-1]
    for name, fall in {"id": 0.6, "clothes": 1.5, "correction": 1.2, "unclothed_id": 0.1}.items():
        assert last[name] < first[name] - fall, (name, first, last)
    for name, rise in (("same_clothes", 0.1), ("cross_clothes", 0.003)):
        assert found["trained", name] > found["untrained", name] + rise, (name, found)
