# SPDX-License-Identifier: Apache-2.0
"""Recipes, command line and checks: what is accepted, and in which words the rest is refused."""

import dataclasses

import pytest
import yaml

from fastreid_ops.config import (
    Config,
    ConfigError,
    EvalSet,
    difference,
    digest,
    flatten,
    from_dict,
    to_dict,
    validate,
)
from fastreid_ops.config.read import RECIPES, dump_yaml, read, read_recipe, read_yaml, recipes
from fastreid_ops.config.schema import DataSource, OptimGroup


def changed(argv):
    request = read(argv)
    return difference(request.base, to_dict(request.config))


def test_the_default_recipe_is_the_dataclasses():
    assert read_yaml(RECIPES / "default.yaml") == to_dict(Config())


@pytest.mark.parametrize("name", recipes())
def test_recipes_are_complete_and_valid(name):
    values = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
    assert flatten(values).keys() == flatten(to_dict(Config())).keys()
    assert {frozenset(s) for s in values["eval"]["sets"]} == {
        frozenset(f.name for f in dataclasses.fields(EvalSet))
    }
    validate(from_dict(values))


def test_the_recipes_that_were_promised_are_there():
    assert {"default", "market1501_resnet50_bnneck", "market1501_osnet_x1_0"} <= set(recipes())


def test_bag_of_tricks_values():
    flat = flatten(read_recipe("market1501_resnet50_bnneck"))
    expected = {
        "data.height": 256,
        "data.width": 128,
        "data.batch_size": 64,
        "data.images_per_id": 4,
        "data.crop_padding": 10,
        "optim.name": "adam",
        "optim.lr": 3.5e-4,
        "schedule.warmup_epochs": 10,
        "schedule.milestones": [40, 70],
        "train.epochs": 120,
        "loss.label_smoothing": 0.1,
        "loss.margin": 0.3,
        "data.erasing": 0.5,
    }
    assert {key: flat[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], {}),
        (["--optim.lr", "3e-4"], {"optim.lr": [2e-3, 3e-4]}),
        (["--optim.lr=3e-4"], {"optim.lr": [2e-3, 3e-4]}),
        (["--schedule.milestones", "[3,4]"], {"schedule.milestones": [[], [3, 4]]}),
        (
            ["--train.amp", "bf16", "--train.ema", "0.9"],
            {"train.amp": ["off", "bf16"], "train.ema": [None, 0.9]},
        ),
        (["--train.amp", "off", "--optim.clip", "null"], {}),
        (["--run.tensorboard", "true"], {"run.tensorboard": [False, True]}),
        (
            ["--data.options.people", "40", "--data.options.x", "a"],
            {"data.options": [{}, {"people": 40, "x": "a"}]},
        ),
        (["--data.options.resolution", "[40, 60]"], {"data.options": [{}, {"resolution": [40, 60]}]}),
        (["--loss.margin", "null"], {"loss.margin": [0.3, None]}),
    ],
)
def test_overrides(argv, expected):
    assert changed(argv) == expected


def test_a_list_of_tables_takes_the_place_of_the_recipes():
    """What an item leaves out is the default, not what the recipe's item in its place has."""
    argv = ["--config", "mars_resnet50_xent", "--eval.sets", "[{name: mine}]"]
    groups = "--optim.groups=[{match: 'model.*', lr: 1e-4}]"
    config = read([*argv, groups, "--data.sources", "[{dataset: people}]"]).config
    assert config.eval.sets == [EvalSet(name="mine")]
    assert config.optim.groups == [OptimGroup("model.*", lr=1e-4)]
    assert config.data.sources == [DataSource("people")]


def test_own_recipe_with_text_numbers_and_bare_off(tmp_path):
    """YAML 1.1 reads 3e-4 as text and off as false; a recipe means a number and a word."""
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("optim: {lr: 3e-4}\ntrain: {amp: off, epochs: 7}\n")
    request = read(["--config", str(recipe), "--train.epochs", "9"])
    assert request.recipe == "mine"
    assert (request.config.optim.lr, request.config.train.amp, request.config.train.epochs) == (
        3e-4,
        "off",
        9,
    )
    assert difference(request.base, to_dict(request.config)) == {"train.epochs": [7, 9]}


def test_yaml_round_trip():
    values = to_dict(Config())
    values["data"]["options"] = {"people": 3, "name": "x y", "on": True}
    assert yaml.safe_load(dump_yaml(values)) == values


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--optim.lrr", "1"], "unknown key --optim.lrr; nearest: optim.lr"),
        (["--lr", "1"], "unknown key --lr; nearest: optim.lr"),
        (["--optm.lr", "1"], "unknown key --optm.lr; nearest: optim.lr"),
        (["--optim.lr", "fast"], "optim.lr: got fast, expected float"),
        (["--run.threads", "2.5"], "run.threads: got 2.5, expected int or null"),
        (["--train.amp", "fp8"], "train.amp: got fp8, expected"),
        (["--train.method", "identit"], "train.method: got identit, expected"),
        (["--config", "defalt"], "got 'defalt', expected a recipe or a .yaml file; nearest: default"),
        (["--config", "nowhere.yaml"], "nowhere.yaml: cannot be read as YAML"),
        (["--config"], "--config: got nothing"),
        (["--resume", "nowhere"], "nowhere: got no such folder"),
        (["--resume", "a", "--config", "default"], "expected one"),
        (["--resume_allow", "optim.l", "--resume", "a"], "a: got no such folder"),
        (["--resume_allow", "optim.l"], "unknown key optim.l; nearest: optim.lr"),
        (["stray"], "stray"),
        (["--optim", "{lr: 1}"], "unknown key --optim"),
        (["--eval.sets", "sets.yaml"], "expected a list such as"),
        (["--optim.groups"], "optim.groups: got '', expected a list such as"),
        (["--data.sources", "[{dataset: people"], "data.sources: got '[{dataset: people', expected a list"),
        (["--data.sources", "[{}]"], "data.sources.0.dataset: got nothing, expected a value"),
        (["--eval.sets", "[{class_path: os.system}]"], "class_path"),
    ],
)
def test_refused_command_lines(argv, words):
    with pytest.raises(ConfigError) as error:
        read(argv)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("optim: {lrr: 1}", "unknown key optim.lrr; nearest: optim.lr"),
        ("optimm: {lr: 1}", "unknown key optimm; nearest: optim"),
        ("optim: {class_path: os.system, init_args: {command: id}}", "unknown key optim.class_path"),
        ("optim: 3", "optim: got 3, expected a table of keys"),
        ("optim: {lr: yes}", "optim.lr: got True, expected float"),
        ("data: {height: 12.5}", "data.height: got 12.5, expected int"),
        ("data: {height: true}", "data.height: got True, expected int"),
        ("data: {mean: 3}", "data.mean: got 3, expected a list"),
        ("data: {options: {a: [{}]}}", "data.options.a.0: got {}, expected bool or int or float or str"),
        ("eval: {sets: [{nam: x}]}", "unknown key eval.sets.0.nam; nearest: eval.sets.0.name"),
        ("train: {amp: fp8}", "train.amp: got 'fp8', expected one of off, bf16, fp16"),
        ("[1, 2]", "got list, expected a YAML table"),
        ("optim: {lr: 1", "cannot be read as YAML"),
        ("optim: !!python/object/apply:os.system [id]", "cannot be read as YAML"),
        ("", "got NoneType, expected a YAML table"),
        ("\x00\xff", "cannot be read as YAML"),
    ],
)
def test_refused_recipes(tmp_path, text, words):
    recipe = tmp_path / "bad.yaml"
    recipe.write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError) as error:
        read(["--config", str(recipe)])
    assert words in str(error.value)
    assert str(recipe) in str(error.value)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--optim.lr", "0"], "optim.lr: got 0.0, expected a number above 0"),
        (["--train.epochs", "0"], "train.epochs: got 0"),
        (["--data.batch_size", "63"], "expected a multiple of data.images_per_id = 4"),
        (["--data.images_per_id", "64"], "got 1 people x 64 images in a batch"),
        (["--data.images_per_id", "null"], "loss.triplet: got no data.images_per_id"),
        (["--loss.triplet", "0", "--loss.cross_entropy", "0"], "expected at least one above 0"),
        (["--loss.label_smoothing", "1"], "expected a number below 1"),
        (["--schedule.name", "multistep"], "schedule.milestones: got []"),
        (["--schedule.milestones", "[5,3]"], "expected rising epoch numbers"),
        (["--schedule.warmup_epochs", "1000"], "expected at most train.epochs"),
        (["--train.amp", "fp16", "--run.device", "cpu"], "expected bf16 or off"),
        (["--train.ema", "1"], "expected a number between 0 and 1"),
        (["--run.device", "gpu"], "expected auto, cpu, cuda or cuda:N"),
        (["--data.std", "[1, 0, 1]"], "expected numbers above 0"),
        (["--data.mean", "[1, 0]"], "expected three numbers"),
        (["--optim.betas", "[0.9, 1.0]"], "expected two numbers"),
        (["--run.threads", "0"], "expected a number above 0, or null"),
        (["--eval.sets", "[{name: a}, {name: a}]"], "name 'a' appears twice"),
        (["--eval.sets", "[{name: ../a}]"], "expected letters"),
        (["--eval.sets", "[{name: table}]"], "not table"),
        (["--eval.sets", "[]"], "eval.sets: got none"),
        (["--model.name", "osnet_x0_52"], "model.name: got 'osnet_x0_52'"),
        (["--data.dataset", "market1502"], "nearest: market1501"),
        (["--eval.sets", "[{name: a, protocol: market}]"], "eval.sets.0.protocol: got 'market'"),
        (
            ["--eval.sets", "[{name: a, protocol: llcm, protocol_options: {trial: 2}}]"],
            "eval.sets.0.protocol_options: Protocol: fields: got unknown trial",
        ),
        (
            ["--eval.sets", "[{name: a, protocol: llcm, protocol_options: {trials: 0}}]"],
            "eval.sets.0.protocol_options: Protocol: trials: got 0",
        ),
        (
            ["--eval.sets", "[{name: a, protocol_options: {max_rank: 5}}]"],
            "eval.sets.0.protocol_options: max_rank: got 5, expected at least 10",
        ),
        (
            ["--eval.sets", "[{name: a, protocol: prcc}, {name: a-prcc_same_clothes}]"],
            "name 'a-prcc_same_clothes' appears twice",
        ),
        (["--data.dataset", "peeple"], "nearest: people"),
    ],
)
def test_values_that_cannot_run(argv, words):
    with pytest.raises(ConfigError) as error:
        validate(read(argv).config)
    assert words in str(error.value)


def test_numbers_that_are_none():
    with pytest.raises(ConfigError, match=r"optim.lr: got inf, expected a finite number"):
        validate(from_dict({"optim": {"lr": float("inf")}}))


def test_all_wrong_values_in_one_message():
    with pytest.raises(ConfigError) as error:
        validate(read(["--optim.lr", "0", "--train.epochs", "0"]).config)
    assert {"config: optim.lr", "config: train.epochs"} <= {
        line.split(": got")[0] for line in str(error.value).split("\n")
    }


def test_hash_knows_every_key_but_the_folder():
    base = to_dict(Config())
    seen = {digest(base)}
    for key, value in flatten(base).items():
        other = to_dict(Config())
        section, name = key.split(".")
        other[section][name] = "changed" if value != "changed" else None
        seen.add(digest(other))
        assert (digest(other) == digest(base)) == (key == "run.folder")
    assert len(seen) == len(flatten(base))


def test_resume_takes_the_place_of_the_recipe(tmp_path):
    values = to_dict(Config())
    values["optim"]["lr"] = 0.5
    (tmp_path / "config.yaml").write_text(dump_yaml(values))
    request = read(
        ["--resume", str(tmp_path), "--train.epochs", "3", "--resume_allow", "train.epochs", "optim.lr"]
    )
    assert request.config.optim.lr == 0.5
    assert difference(request.base, to_dict(request.config)) == {"train.epochs": [Config().train.epochs, 3]}
    assert request.resume_allow == ["train.epochs", "optim.lr"]
    (tmp_path / "config.yaml").unlink()
    with pytest.raises(ConfigError, match=r"a folder without config\.yaml"):
        read(["--resume", str(tmp_path)])
