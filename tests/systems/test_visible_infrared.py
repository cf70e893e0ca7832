# SPDX-License-Identifier: Apache-2.0
"""WRIM-Net, DEEN, EmbedNet and AGW as systems: their recipes on files laid out as the real ones."""

from __future__ import annotations

import pytest
import visible_infrared_trees as trees
from torch import nn

from fastreid_ops import train
from fastreid_ops.config import ConfigError, flatten, from_dict, validate
from fastreid_ops.config.read import read_recipe
from fastreid_ops.engine.optim import build_optimizer
from fastreid_ops.engine.schedule import build_schedule

SMALL = {
    "embednet": {"image_size": "[64, 32]", "dim": 48, "depth": 4, "num_heads": 4},
}
TABLES = {
    "sysu_mm01": {"sysu_mm01", "sysu_mm01_multishot", "sysu_mm01_indoor", "sysu_mm01_indoor_multishot"},
    "regdb": {"regdb_visible2thermal", "regdb_thermal2visible"},
    "llcm": {"llcm_vis2nir", "llcm_nir2vis"},
}


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    folder = tmp_path_factory.mktemp("roots")
    return {name: getattr(trees, name)(folder / name) for name in TABLES}


# Every system and every data set; the others differ from these in the data section only.
@pytest.mark.parametrize(
    ("data", "system"),
    [
        ("sysu_mm01", "wrim"),
        ("sysu_mm01", "deen"),
        ("sysu_mm01", "embednet"),
        ("regdb", "deen"),
        ("regdb", "agw"),
        ("regdb", "embednet"),
        ("llcm", "wrim"),
        ("llcm", "embednet"),
    ],
)
def test_recipe_on_files_in_the_layout_of_its_data(data, system, roots, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = [x for key, v in SMALL.get(system, {}).items() for x in (f"--model.options.{key}", str(v))]
    if data == "regdb":
        options += ["--data.options.trial", "2"]
    arguments = [
        *("--config", f"{data}_{system}", "--dry_run", "--data.root", str(roots[data])),
        *("--data.height", "64", "--data.width", "32", "--data.batch_size", "8", "--data.images_per_id", "2"),
        *("--data.workers", "0", "--run.device", "cpu", "--run.threads", "1", *options),
    ]
    assert train.main(arguments) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "dry run: one step" in said
    for name in TABLES[data]:
        assert f"{data}-{name}: mAP" in said


def published_rate(epoch: int, second: int) -> float:
    """Of AGW's and DEEN's public code, for an initial rate of 0.1; steps at epoch 20 and at `second`."""
    if epoch < 10:
        return 0.1 * (epoch + 1) / 10
    return 0.1 if epoch < 20 else 0.01 if epoch < second else 0.001


@pytest.mark.parametrize(
    ("recipe", "second"), [("sysu_mm01_deen", 80), ("regdb_deen", 80), ("llcm_deen", 80), ("regdb_agw", 50)]
)
def test_rates_of_the_public_code(recipe, second):
    config = from_dict(read_recipe(recipe))
    parts = {name: nn.Linear(2, 2) for name in ("base_resnet", "bottleneck", "classifier")}
    optimizer = build_optimizer({"model": nn.ModuleDict(parts), "criteria": nn.ModuleDict()}, config.optim)
    schedule = build_schedule(config.schedule, config.train.epochs)
    for epoch in range(config.train.epochs):
        schedule.apply(optimizer, epoch + 0.7)  # the same in the whole epoch
        for name, part in parts.items():
            (group,) = [
                g
                for g in optimizer.param_groups
                if any(p is q for p in part.parameters() for q in g["params"])
            ]
            share = 0.1 if name == "base_resnet" else 1
            assert group["lr"] == pytest.approx(share * published_rate(epoch, second), rel=1e-9), (
                name,
                epoch,
            )
            assert (group["momentum"], group["nesterov"], group["weight_decay"]) == (0.9, True, 5e-4)
    assert config.train.epochs == {80: 151, 50: 81}[second]


def test_recipes_say_what_their_sources_say():
    for data in TABLES:
        wrim, deen, agw = (flatten(read_recipe(f"{data}_{system}")) for system in ("wrim", "deen", "agw"))
        for values, size, batch in (
            (wrim, (384, 128), (128, 8)),
            (deen, (384, 144), (48, 4)),
            (agw, (288, 144), (64, 4)),
        ):
            assert (values["data.height"], values["data.width"]) == size
            assert (values["data.batch_size"], values["data.images_per_id"]) == batch
            assert values["data.sampler"] == "paired"
            assert values["loss.triplet"] == values["loss.cross_entropy"] == 1.0
        assert (wrim["loss.cross_modal.cmkic"], wrim["loss.cross_modal.cmkic_k"]) == (1.0, 5)
        assert (deen["loss.cross_modal.cpm"], deen["loss.cross_modal.orthogonality"]) == (0.8, 0.01)
        assert deen["data.erasing_area"] == ([0.2, 0.8] if data == "sysu_mm01" else [0.02, 0.4])
        assert (deen["eval.flip"], agw["eval.flip"], agw["data.erasing"]) == (True, False, 0.0)
        assert deen["model.name"] == f"deen_{data.removesuffix('_mm01')}"


def test_nesterov_is_refused_without_momentum():
    for optim in ({"name": "adam"}, {"name": "sgd", "momentum": 0.0}):
        with pytest.raises(ConfigError, match=r"optim.nesterov: got true .* expected sgd with a momentum"):
            validate(from_dict({"optim": {"nesterov": True, **optim}}))
