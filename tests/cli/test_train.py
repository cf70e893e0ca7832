# SPDX-License-Identifier: Apache-2.0
"""`python -m fastreid_ops.train` from the outside: one real run of the smallest OSNet, and the ways to get it
wrong.
"""

import csv
import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

TINY = Path(__file__).parents[1] / "faults" / "tiny.py"


def train(*argv, cwd=None, verb="train"):
    command = [sys.executable, "-m", f"fastreid_ops.{verb}", *map(str, argv)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240)


def overrides(people, *more):
    open_set = f"{{name: open, dataset: '{people}', protocol: no_camera}}"
    return [
        *("--data.dataset", people, "--data.height", 32, "--data.width", 16, "--data.batch_size", 8),
        *("--data.images_per_id", 2, "--data.workers", 0, "--data.crop_padding", 2, "--train.epochs", 2),
        *("--eval.every", 1, "--schedule.warmup_epochs", 1, "--run.threads", 1, "--run.device", "cpu"),
        *("--eval.sets", f"[{{name: people, label: tiny people}}, {open_set}]"),
        *more,
    ]


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    spec = importlib.util.spec_from_file_location("cli_tiny", TINY)
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)
    return tiny.write_people(tmp_path_factory.mktemp("people"))


@pytest.fixture(scope="module")
def finished(people, tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    done = train(*overrides(people), cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = (folder / "runs").iterdir()
    return done, run


def test_run_folder(finished, people):
    done, run = finished
    assert run.name.startswith("default-")
    assert run.name.endswith("-1")
    expected = {
        "config.yaml",
        "recipe.txt",
        "config_diff.json",
        "environment.json",
        "metrics.jsonl",
        "manifests",
    }
    expected |= {
        "results",
        "checkpoints",
        "weights.safetensors",
        "log.txt",
        "report.html",
        "baselines.json",
        "run.lock",
    }
    assert {path.name for path in run.iterdir()} == expected
    assert (run / "recipe.txt").read_text() == "default\n"
    assert yaml.safe_load((run / "config.yaml").read_text())["train"]["epochs"] == 2
    assert json.loads((run / "config_diff.json").read_text())["train.epochs"] == [24, 2]
    assert json.loads((run / "environment.json").read_text())["threads"] == 1
    assert (run / "run.lock").read_text() == ""
    assert f"report: {run / 'report.html'}" in done.stdout
    assert "train.epochs: 2 (recipe: 24)" in done.stdout
    assert done.stdout.strip() in (run / "log.txt").read_text() or "trained" in (run / "log.txt").read_text()


def test_results_and_table(finished, people):
    _, run = finished
    rows = json.loads((run / "results" / "table.json").read_text())["rows"]
    assert [(row["system"], row["set"]) for row in rows] == [
        (system, name) for name in ("people", "open") for system in ("HSV stripes", "untrained", "trained")
    ]
    # A set without a label of its own is called what it is, never what the recipe was made for.
    assert {row["set"]: row["label"] for row in rows} == {"people": "tiny people", "open": Path(people).name}
    for name in ("people", "open"):
        result = json.loads((run / "results" / f"{name}.json").read_text())
        trained = next(row for row in rows if row["system"] == "trained" and row["set"] == name)
        assert result["mAP"] == trained["mAP"]
        assert result["mAP"] == pytest.approx(
            sum(q["ap"] for q in result["queries"]) / len(result["queries"])
        )
        assert all(Path(q["path"]).is_file() for q in result["queries"])
        assert all(len(r["gallery"]) <= 10 for r in result["ranked"])
        with open(run / "manifests" / f"{name}.csv", newline="") as file:
            assert (
                len(list(csv.DictReader(file))) == result["counts"]["queries"] + result["counts"]["gallery"]
            )
    last = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][-2]
    assert (last["set"], last["mAP"]) == ("people", rows[2]["mAP"])


def test_a_second_run_gives_the_same_numbers(finished, people, tmp_path):
    done = train(
        *overrides(people, "--run.folder", tmp_path / "again", "--data.workers", 1, "--run.report", "false")
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "again" / "weights.safetensors").read_bytes() == (
        finished[1] / "weights.safetensors"
    ).read_bytes()
    for name in ("table.json", "people.json", "open.json"):
        assert (tmp_path / "again" / "results" / name).read_text() == (
            finished[1] / "results" / name
        ).read_text()


def test_print_config():
    done = train("--print_config", "--optim.lr", "3e-4", "--config", "market1501_resnet50_bnneck")
    assert done.returncode == 0
    assert yaml.safe_load(done.stdout)["optim"]["lr"] == 3e-4
    assert yaml.safe_load(done.stdout)["model"]["name"] == "resnet50_bnneck"


def test_help_names_recipes_and_keys():
    done = train("--help")
    assert done.returncode == 0
    assert "market1501_osnet_x1_0" in done.stdout
    assert "--optim.lr" in done.stdout


@pytest.mark.parametrize(
    ("argv", "status", "words"),
    [
        (["--optim.lrr", "1"], 2, "error: command line: unknown key --optim.lrr; nearest: optim.lr"),
        (["--data.height", "0"], 2, "error: config: data.height: got 0, expected a number above 0"),
        (["--config", "market1501_osnet_x1_0", "--data.root", "/nowhere"], 1, "/nowhere"),
        (["--data.dataset", "/nowhere/people.csv"], 1, "/nowhere/people.csv"),
        (["--run.device", "cuda:77"], 1, "error: run.device: got cuda:77"),
    ],
)
def test_what_goes_wrong_is_said_in_one_line(tmp_path, argv, status, words):
    done = train(*argv, cwd=tmp_path)
    assert done.returncode == status
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_sigterm_and_resume(finished, people, tmp_path):
    """A real signal to a real process, with a worker; the run that is resumed ends as the undisturbed one."""
    run = tmp_path / "run"
    argv = overrides(people, "--run.folder", run, "--run.report", "false", "--data.workers", 1)
    with subprocess.Popen(
        [sys.executable, "-m", "fastreid_ops.train", *map(str, argv)], stdout=subprocess.PIPE, text=True
    ) as process:
        for line in process.stdout:
            if line.startswith("epoch 1/2"):
                os.kill(process.pid, signal.SIGTERM)
                break
        rest = process.stdout.read()
    assert process.returncode == 143
    assert f"--resume {run}" in rest
    done = train("--resume", run)
    assert done.returncode == 0, done.stderr
    assert (run / "weights.safetensors").read_bytes() == (finished[1] / "weights.safetensors").read_bytes()
