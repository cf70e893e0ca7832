# SPDX-License-Identifier: Apache-2.0
"""WRIM-Net, DEEN, EmbedNet and AGW as systems: their recipes on files laid out as the real ones."""

from __future__ import annotations

import pytest
import visible_infrared_trees as trees

from fastreid_ops import train

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
