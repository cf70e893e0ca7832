# SPDX-License-Identifier: Apache-2.0
"""`python -m fastreid_ops.evaluate`: the numbers of the end of training, to the last bit, from every kind of
checkpoint.
"""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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


def test_options_reach_the_reader_of_another_data_set(run, tmp_path):
    sizes = {"train_ids": 0, "test_ids": 3, "cameras": 2, "images_per_camera": 2, "height": 32, "width": 16}
    options = [word for name, value in sizes.items() for word in ("--option", f"{name}={value}")]
    argv = [str(run), "--dataset", "people", "--root", str(tmp_path / "people"), *options]
    assert evaluate.main(argv) == 0
    record = json.loads((run / "evaluations" / "people-step-00000009.json").read_text())
    assert (record["counts"]["queries"], record["counts"]["gallery"]) == (6, 6)


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
        (["--option", "split=3"], "--option: got 'split=3', expected it beside --dataset only"),
        (["--dataset", "sample", "--option", "split"], "--option: got 'split', expected NAME=VALUE"),
        (["--dataset", "sample", "--option", "split=3"], "got 'split', expected options of sample: none"),
    ],
)
def test_refused(run, capsys, argv, words):
    assert evaluate.main([str(run), *argv]) == 1
    assert words in capsys.readouterr().err


def test_a_folder_that_is_no_run(tmp_path, capsys):
    assert evaluate.main([str(tmp_path)]) == 1
    assert "expected a run folder (with a config.yaml)" in capsys.readouterr().err


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Five people under six cameras, 3 and 6 infrared (2 and 5 here), two tracklets of two frames in each, clothes by
    camera; every image stands on both sides."""
    folder, rng = tmp_path_factory.mktemp("world"), np.random.default_rng(3)
    lines = []
    for pid in range(5):
        for camid in range(6):
            for frame in range(4):
                name = f"{pid}_{camid}_{frame}.png"
                pixels = np.clip(40 * pid + rng.normal(60, 40, (16, 8, 3)), 0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / name)
                modality = "infrared" if camid in (2, 5) else "visible"
                for split in ("query", "gallery"):
                    lines.append(f"{name},{pid},{camid},{split},{modality},{camid // 2},{frame // 2}")
    header = "path,pid,camid,split,modality,clothes,tracklet"
    (folder / "world.csv").write_text("\n".join([header, *lines]) + "\n")
    return folder / "world.csv"


@pytest.mark.parametrize(
    ("protocol", "sizes"),
    [
        ("sysu_mm01", {"": (40, 20)}),
        ("sysu_mm01_indoor_multishot", {"": (40, 40)}),
        ("llcm", {"-llcm_vis2nir": (80, 10), "-llcm_nir2vis": (40, 20)}),
        ("regdb", {"-regdb_visible2thermal": (80, 40), "-regdb_thermal2visible": (40, 80)}),
        ("prcc", {"-prcc_same_clothes": (20, 20), "-prcc_cross_clothes": (20, 20)}),
        ("ltcc", {"-ltcc_standard": (120, 120), "-ltcc_clothes_changing": (120, 120)}),
        ("mars", {"": (60, 60)}),
        ("random_gallery", {"": (115, 5)}),
    ],
)
def test_every_kind_of_protocol_through_the_verb(run, world, protocol, sizes, capsys):
    assert evaluate.main([str(run), "--dataset", str(world), "--protocol", protocol]) == 0
    table = capsys.readouterr().out
    for suffix, (queries, gallery) in sizes.items():
        (path,) = (run / "evaluations").glob(f"world{suffix}-step-*.json")
        record = json.loads(path.read_text())
        assert record["set"] == f"world{suffix}"
        assert (record["counts"]["queries"], record["counts"]["gallery"]) == (queries, gallery)
        assert record["protocol"]["name"] == (suffix[1:] or protocol)
        assert len(record["queries"]) == len(record["ranked"]) == queries
        shown = {Path(entry["path"]).name for each in record["ranked"] for entry in each["gallery"]}
        assert shown <= {f"{p}_{c}_{f}.png" for p in range(5) for c in range(6) for f in range(4)}
        assert f"world.csv{', ' + suffix[1:] if suffix else ''} " in table
        several = record["protocol"]["trials"] > 1
        assert ("trials" in record) == several == ("Means over 10 trials" in record["note"])
        if several:
            assert record["mAP"] == pytest.approx(np.mean([trial["mAP"] for trial in record["trials"]]))
            assert len(record["trials"]) == 10
    assert len(list((run / "evaluations").iterdir())) == len(sizes)
    assert not (run / "rankings").exists()


def test_a_ranking_file_of_both_halves(run, world, tmp_path, capsys):
    halves = world.with_name("halves.csv")
    lines = world.read_text().replace("visible", "green").replace("infrared", "normal").splitlines()
    rows = [line.split(",") for line in lines[1:]]
    kept = [r for r in rows if (r[3] == "query") == r[0].endswith("_0.png")]
    halves.write_text("\n".join([lines[0], *(",".join([r[0], "unknown", *r[2:]]) for r in kept)]) + "\n")
    assert evaluate.main([str(run), "--dataset", str(halves), "--protocol", "naic"]) == 0
    (path,) = (run / "rankings").glob("halves-step-*.json")
    ranking = json.loads(path.read_text())
    assert len(ranking) == 30
    for query, listed in ranking.items():
        infrared = query[2] in "25"
        assert len(listed) == len(set(listed)) == (30 if infrared else 60)
        assert all((name[2] in "25") == infrared and not name.endswith("_0.png") for name in listed)
    (first, _) = sorted((run / "evaluations").glob("halves-naic_*.json"))
    assert "One identity only" in json.loads(first.read_text())["note"]


def test_a_protocol_that_asks_for_more_than_there_is(run, trained, capsys):
    assert evaluate.main([str(run), "--dataset", str(trained[1]), "--protocol", "llcm"]) == 1
    assert "eval.sets: people: draw: query.modality: got None" in capsys.readouterr().err


def test_a_run_with_a_family_and_trials(tiny, trained, world, tmp_path):
    """Training evaluates them as well: results, table and report have every one."""
    sets = (
        f"[{{name: both, dataset: '{world}', protocol: prcc}}, "
        f"{{name: drawn, dataset: '{world}', protocol: sysu_mm01, protocol_options: {{trials: 2}}}}]"
    )
    more = ("--train.epochs", "1", "--eval.sets", sets, "--run.report", "true")
    assert train.main(tiny.arguments(trained[1], tmp_path / "run", *more)) == 0
    names = {"both-prcc_same_clothes", "both-prcc_cross_clothes", "drawn"}
    results = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "run" / "results").iterdir()}
    table = results.pop("table")["rows"]
    assert results.keys() == names
    systems = ("HSV stripes", "untrained", "trained")
    assert {(row["system"], row["set"]) for row in table} == {(s, n) for s in systems for n in names}
    assert results["drawn"]["protocol"]["name"] == "sysu_mm01 (trials=2)"
    assert "drawn by random.seed(0 + trial)" in results["drawn"]["rules"]
    for row in table:
        if row["system"] == "trained":
            assert row["mAP"] == results[row["set"]]["mAP"]
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "protocol prcc_cross_clothes: " in log
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Means over 2 trials; queries and ranked lists are those of the first." in page
