# SPDX-License-Identifier: Apache-2.0
"""`python -m fastreid_ops.evaluate`: the numbers of the end of training, to the last bit, from every kind of
checkpoint.
"""

import importlib.util
import shutil
from pathlib import Path

import pytest

from fastreid_ops import evaluate, models, train

TINY = Path(__file__).parents[1] / "faults" / "tiny.py"


@pytest.fixture(scope="module")
def tiny():
    spec = importlib.util.spec_from_file_location("evaluate_tiny", TINY)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    import sys

    folder = tmp_path_factory.mktemp("evaluate")
    sys.modules["evaluate_tiny"] = tiny
    models.MODELS["tiny"] = "evaluate_tiny:tiny"
    csv = tiny.write_people(folder / "people")
    assert train.main(tiny.arguments(csv, folder / "run", "--eval.flip", "true")) == 0
    yield folder / "run", csv
    del models.MODELS["tiny"], sys.modules["evaluate_tiny"]


@pytest.fixture
def run(trained, tmp_path):
    return Path(shutil.copytree(trained[0], tmp_path / "run"))


def test_the_same_file_to_the_last_byte(run):
    before = (run / "results" / "test.json").read_bytes()
    (run / "results" / "test.json").unlink()
    assert evaluate.main([str(run)]) == 0
    assert (run / "results" / "test.json").read_bytes() == before


def test_a_moved_run_with_its_images_gone_elsewhere_says_so(run, trained, capsys):
    manifest = run / "manifests" / "test.csv"
    manifest.write_text(manifest.read_text().replace("people/", "gone/"))
    assert evaluate.main([str(run), "--dry"]) == 1
    assert "gone/" in capsys.readouterr().err


def test_best_goes_into_a_file_of_its_own(run, capsys):
    before = (run / "results" / "test.json").read_bytes()
    assert evaluate.main([str(run), "--checkpoint", "best", "--set", "test"]) == 0
    assert "best.pt" in capsys.readouterr().out
    assert (run / "evaluations" / "test-best.json").is_file()
    assert (run / "results" / "test.json").read_bytes() == before


def test_a_checkpoint_by_its_path_and_dry(run, capsys):
    names = {path.name for path in (run / "results").iterdir()}
    assert (
        evaluate.main([str(run), "--checkpoint", str(run / "checkpoints" / "step-00000008.pt"), "--dry"]) == 0
    )
    assert "step-00000008.pt" in capsys.readouterr().out
    assert {path.name for path in (run / "results").iterdir()} == names


def test_another_data_set(run, trained, tiny, tmp_path, capsys):
    other = tiny.write_people(tmp_path / "others", seed=5)
    other = other.rename(other.with_name("others.csv"))
    before = (run / "results" / "test.json").read_bytes()
    assert evaluate.main([str(run), "--dataset", str(other), "--protocol", "no_camera"]) == 0
    assert '"no_camera"' in (run / "evaluations" / "others-step-00000009.json").read_text()
    assert (run / "results" / "test.json").read_bytes() == before


def test_a_damaged_newest_checkpoint_falls_back_with_a_warning(run, capsys):
    (run / "checkpoints" / "step-00000009.pt").write_bytes(b"x")
    assert evaluate.main([str(run), "--dry"]) == 0
    shown = capsys.readouterr()
    assert "step-00000009.pt: got sha256" in shown.err
    assert "step-00000008.pt" in shown.out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--set", "tets"], "--set: got 'tets', expected a set of the run; nearest: test"),
        (["--checkpoint", "nowhere.pt"], "checkpoint: nowhere.pt: got No such file"),
        (["--dataset", "markt1501"], "markt1501"),
        (["--dataset", "sample", "--protocol", "markt1501"], "markt1501"),
    ],
)
def test_refused(run, capsys, argv, words):
    assert evaluate.main([str(run), *argv]) == 1
    assert words in capsys.readouterr().err


def test_a_folder_that_is_no_run(tmp_path, capsys):
    assert evaluate.main([str(tmp_path)]) == 1
    assert "expected a run folder (with a config.yaml)" in capsys.readouterr().err
