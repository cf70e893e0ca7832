# SPDX-License-Identifier: Apache-2.0
"""What a competition entry refuses before any work, and the packaged plans."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from competition_entry import changed, contents, copy, picture, recipe, run
from competition_entry import plan as make_plan

from fastreid_ops.config import ConfigError
from fastreid_ops.config.plan import plans, read_plan, training_config
from fastreid_ops.engine.competition import pipeline, preparation


def _broken(**changes):
    return lambda plan: plan.update(changes)


def _entry(number, **changes):
    return lambda plan: plan["models"][number].update(changes)


REFUSED = [
    (_broken(models=[]), "models: got none, expected at least one"),
    (_broken(top=0), "top: got 0, expected a number above 0"),
    (_broken(ensemble=["c"]), r"ensemble: got 'c', expected a name of the plan"),
    (_broken(rerank={"chunk": [3]}), r"rerank.chunk: got \[3\], expected two numbers above 0"),
    (_broken(rerank={"lambda_value": 1.5}), r"rerank.lambda_value: got 1.5, expected a number from 0 to 1"),
    (_broken(rerank={"method": "fast"}), r"rerank.method: got 'fast', expected one of exact, chunked, none"),
    (_broken(models=[{"name": "a"}]), r"models.a: got neither of recipe and weights"),
    (_broken(surprise=1), r"unknown key surprise"),
    (_entry(0, name="b"), "models: got the name 'b' twice"),
    (_entry(0, weights="x"), r"models.a: got both of recipe and weights"),
    (_entry(0, epochs=[3]), r"models.a.epochs: got 3, expected an epoch with a checkpoint: every 1 up to 2"),
    (
        _entry(0, overrides={"run.keep": 1}),
        r"models.a.epochs: got 1 with run.keep 1, expected at least 2 kept",
    ),
    (_entry(0, overrides={"data.heightt": 3}), r"unknown key data.heightt; nearest: .*data.height"),
    (_entry(0, overrides={"data.height": 0}), r"models.a: data.height: got 0, expected a number above 0"),
    (_entry(1, pseudo="by_c"), r"models.b.pseudo: got 'by_c', expected a name of the plan; .*by_a"),
    (_entry(0, pseudo="by_a"), r"models.a.pseudo: got a circle a <- a"),
]


@pytest.mark.parametrize(("change", "words"), REFUSED, ids=[words[:30] for _, words in REFUSED])
def test_refused_plans(tmp_path, change, words):
    path = changed(make_plan(tmp_path, tmp_path), change)
    with pytest.raises(ConfigError, match=words):
        read_plan(path)


REFUSED_WITH_DATA = [
    (
        _broken(pseudo=[{"name": "by_a", "model": "a", "half": "all"}]),
        "by_a.half: got all, expected one of green, normal",
    ),
    (_entry(0, overrides={"model.options.colour": 1}), "models.a: model.options: "),
    (
        _entry(0, overrides={"loss.naic.head": "linear"}),
        "models.a: model.options.classifier: got none, expected linear",
    ),
    (
        _broken(models=[{"name": "a", "weights": "nowhere.safetensors"}], pseudo=[]),
        "weights: got nowhere.safetensors",
    ),
    (_broken(data={"dataset": "naic", "root": "nowhere"}), "nowhere"),
]


@pytest.mark.parametrize(("change", "words"), REFUSED_WITH_DATA, ids=[w[:30] for _, w in REFUSED_WITH_DATA])
def test_refused_before_any_work(root, tmp_path, change, words, capsys):
    assert run(changed(make_plan(root, tmp_path), change)) in (1, 2)
    assert words in capsys.readouterr().err
    assert {file.name for file in (tmp_path / "entry").iterdir()} <= {"log.txt", "run.lock"}


def test_a_run_of_another_configuration_is_left_alone(done, root, tmp_path, capsys):
    plan = make_plan(root, tmp_path, folder=str(done[0]))
    before = contents(done[0])
    assert run(changed(plan, _entry(0, overrides={"optim.lr": 0.5}))) == 2
    error = capsys.readouterr().err
    assert "models.a: got a changed configuration" in error
    assert "optim.lr: got 0.5, expected 0.01" in error
    assert contents(done[0]) == before


def test_other_pseudo_labels_than_the_run_began_with(done, root, tmp_path, capsys):
    entry = copy(done[0], tmp_path)
    (entry / "models/b.labels").write_text("0" * 64)
    (entry / "seals/train-b.json").unlink()
    assert run(make_plan(root, tmp_path)) == 2
    assert "models.b: got other pseudo-labels than the run" in capsys.readouterr().err


def test_a_run_that_was_begun_without_pseudo_labels(done, root, tmp_path, capsys):
    entry = copy(done[0], tmp_path)
    (entry / "models/b.labels").unlink()
    assert run(make_plan(root, tmp_path), "--rerank.method", "none") == 2
    assert "models.b.pseudo: got by_a, expected none for the run in" in capsys.readouterr().err
    assert not (entry / "distances/a-epoch1-green-none.npy").exists()


def test_a_run_of_other_training_rows(done, root, tmp_path, capsys):
    copy(done[0], tmp_path)
    fewer = tmp_path / "fewer"
    shutil.copytree(root, fewer)
    file = fewer / "train_2020_fs/train_list.txt"
    file.write_text(file.read_text().rpartition("\n")[0])
    plan = make_plan(fewer, tmp_path)
    assert run(plan, "--status") == 2
    assert "models.a: got other training rows than the run in" in capsys.readouterr().err
    shutil.move(root, tmp_path / "moved")  # the same rows in another place are the same
    try:
        assert run(make_plan(tmp_path / "moved", tmp_path), "--status") == 0
    finally:
        shutil.move(tmp_path / "moved", root)
    assert {line.partition(": ")[2] for line in capsys.readouterr().out.splitlines()} == {"done"}


def test_a_place_that_cannot_be_written(root, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run(make_plan(root, tmp_path, folder=str(tmp_path / "file/entry"))) == 2
    assert "file/entry: got Not a directory, expected a place that can be written" in capsys.readouterr().err


def test_a_model_that_this_machine_cannot_train(root, tmp_path, capsys, monkeypatch):
    """Seen before the models before it are trained, and not by who only looks."""
    monkeypatch.setattr(pipeline.environment, "pick_device", lambda _: torch.device("cpu"))
    half = {"train.amp": "fp16"}
    plan = changed(
        make_plan(root, tmp_path, device="auto"), lambda values: values["models"][1]["overrides"].update(half)
    )
    assert run(plan, "--status") == 0
    assert run(plan) == 2
    assert (
        "models.b: train.amp: got 'fp16' with run.device cpu, expected bf16 or off" in capsys.readouterr().err
    )
    assert {file.name for file in (tmp_path / "entry").iterdir()} <= {"log.txt", "run.lock"}


def test_a_disk_without_room(root, tmp_path, monkeypatch, capsys):
    """Seen before any work from the sizes of all matrices: 3 rankings of 2 halves, 6 queries and 18 pictures each."""
    needed = 3 * 2 * 6 * 18 * 4  # 2.5 KiB
    monkeypatch.setattr(preparation.shutil, "disk_usage", lambda _: SimpleNamespace(free=needed - 1))
    assert run(make_plan(root, tmp_path)) == 2
    assert "got 0.0 MiB free, expected 0.0 for 6 matrices of distances" in capsys.readouterr().err
    assert {file.name for file in (tmp_path / "entry").iterdir()} <= {"log.txt", "run.lock"}
    preparation.check_room(tmp_path, {"x": (6, 18 * 6 - 1)})
    with pytest.raises(ConfigError, match="for 1 matrices"):
        preparation.check_room(tmp_path, {"x": (6, 18 * 6 + 1)})
    (tmp_path / "x").touch()
    preparation.check_room(tmp_path, {"x": (6, 18 * 6 + 1)})


def test_no_picture_is_near_enough(done, root, tmp_path, capsys):
    copy(done[0], tmp_path)
    pseudo = [{"name": "by_a", "model": "a", "threshold": 1e-6}]
    assert run(make_plan(root, tmp_path, pseudo=pseudo)) == 1
    assert (
        "pseudo.by_a: got no gallery picture nearer to a query than threshold 1e-06"
        in capsys.readouterr().err
    )


def test_file_names_that_stand_twice(root, tmp_path, capsys):
    with open(tmp_path / "twice.csv", "w") as file:
        file.write("path,pid,camid,split\n")
        for name, split in (("x/1.png", "query"), ("y/1.png", "query"), ("x/2.png", "gallery")):
            picture(tmp_path / name, 100, np.random.default_rng(0))
            file.write(f"{name},1,0,{split}\n")
    models = [{"name": "a", "recipe": recipe(tmp_path)}]
    plan = make_plan(root, tmp_path, data={"dataset": str(tmp_path / "twice.csv")}, pseudo=[], models=models)
    assert run(plan) == 2
    assert "half all: queries: got 1 file names that stand twice" in capsys.readouterr().err


def test_a_query_in_both_halves(root, tmp_path, capsys):
    with open(tmp_path / "both.csv", "w") as file:
        file.write("path,pid,camid,split,modality\n")
        for half in ("green", "normal"):
            for name, split in ((f"{half}/1.png", "query"), (f"{half}/2.png", "gallery")):
                picture(tmp_path / name, 100, np.random.default_rng(0))
                file.write(f"{name},1,0,{split},{half}\n")
    models = [{"name": "a", "recipe": recipe(tmp_path)}]
    plan = make_plan(root, tmp_path, data={"dataset": str(tmp_path / "both.csv")}, pseudo=[], models=models)
    assert run(plan) == 2
    assert "data: queries: got 1 file names that stand in both halves" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--rerank.k3", "4"], "unknown key --rerank.k3; nearest: rerank.k"),
        (["--top"], "--top: got nothing, expected a value"),
        (["--top", "many"], "top: got 'many', expected int"),
        (["--models", "[]"], "unknown key --models"),
    ],
)
def test_refused_command_lines(root, tmp_path, words, expected, capsys):
    assert run(make_plan(root, tmp_path), *words) == 2
    assert expected in capsys.readouterr().err


def test_the_packaged_plans():
    assert set(plans()) == {"naic2020", "naic2020_dmt", "people"}
    entry = read_plan("naic2020", ["--data.root", "elsewhere"])
    assert (entry.rerank.k1, entry.rerank.k2, entry.rerank.lambda_value, entry.top) == (30, 2, 0.8, 200)
    sizes = [(c.data.height, c.data.width, c.data.batch_size) for c in _configs(entry)]
    assert sizes == [(256, 128, 256), (384, 192, 240), (480, 240, 200)]
    assert {c.data.root for c in _configs(entry)} == {"elsewhere"}
    a, b, se = _configs(read_plan("naic2020_dmt"))
    assert (a.model.name, a.loss.naic.center, a.data.images_per_id) == ("naic_resnet101_ibn_a", 3e-4, 8)
    assert (b.model.name, b.loss.naic.center, b.model.options["pool"]) == ("naic_resnet101_ibn_b", 0.0, "gem")
    assert (se.model.name, se.data.batch_size, se.data.height) == ("naic_se_resnet101_ibn_a", 96, 384)
    with pytest.raises(ConfigError, match=r"expected a plan or a \.yaml file; nearest: naic2020"):
        read_plan("naic202")


def _configs(plan):

    return [training_config(plan, entry) for entry in plan.models]
