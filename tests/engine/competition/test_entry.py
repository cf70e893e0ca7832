# SPDX-License-Identifier: Apache-2.0
"""What a competition entry makes beside a plain reading, and going on after whatever happens: pictures of a few pixels
in NAIC's own layout, two models, one checkpoint more, a round of pseudo-labels, both halves.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from competition_entry import COLOURS, contents, copy, run
from competition_entry import plan as make_plan
from PIL import Image

from fastreid_ops import k_reciprocal
from fastreid_ops.config.plan import RerankEntry, read_plan
from fastreid_ops.data.datasets import read_dataset
from fastreid_ops.data.images import read_image
from fastreid_ops.engine.competition import arrays, pipeline, training
from fastreid_ops.engine.competition.distances import chunked_blocks, distance_blocks, write_distances
from fastreid_ops.engine.export import trained_model
from fastreid_ops.engine.interrupt import Interrupted

GOLDEN = Path(__file__).parents[2] / "golden"

# What is made


def _features(weights, root, paths):
    """One by one, pieces apart, mirror image added."""
    model, known = evaluated(weights)
    rows = []
    mean, std = (torch.tensor(json.loads(known[key]))[:, None, None] for key in ("mean", "std"))
    for path in paths:
        picture = read_image(root / path)
        size = (int(known["width"]), int(known["height"]))
        pixels = np.asarray(picture.resize(size, Image.BILINEAR), dtype=np.float32)
        image = ((torch.from_numpy(pixels).permute(2, 0, 1) / 255 - mean) / std)[None]
        both = [torch.cat(model.pieces(x), 1) for x in (image, image.flip(3))]
        rows.append((both[0] + both[1])[0] / 2)
    return torch.stack(rows), model.piece_dims


def evaluated(weights):
    model, known = trained_model(weights)
    return model.eval(), known


@torch.no_grad()
def test_result_beside_a_plain_reading(done, root):
    entry, _ = done
    got = json.loads((entry / "result-exact.json").read_text())
    assert len(got) == 12
    weights = {
        "a-epoch1": entry / "weights/a-epoch1.safetensors",
        "a-epoch2": entry / "weights/a-epoch2.safetensors",
        "b": entry / "models/b/weights.safetensors",
    }
    for half in COLOURS:
        query = [f"image_B_v1_1/query/{half}{pid}.png" for pid in range(6)]
        gallery = [f"image_B_v1_1/gallery/{half}{pid}_{k}.png" for pid in range(6) for k in range(3)]
        total = torch.zeros(6, 18, dtype=torch.float64)
        for label, file in weights.items():
            features, dims = _features(file, root, query + gallery)
            assert len(dims) == (2 if label == "b" else 1)
            mine = torch.zeros(6, 18, dtype=torch.float64)
            for piece in features.split(dims, 1):
                mine += k_reciprocal(
                    piece[:6], piece[6:], k1=6, k2=2, lambda_value=0.8, variant="naic", metric="cosine"
                ).double()
            stored = torch.from_numpy(np.load(entry / f"distances/{label}-{half}-exact.npy"))
            assert stored.dtype == torch.float32
            torch.testing.assert_close(stored.double(), mine, rtol=1e-3, atol=2e-4)
            total += stored
        order = total.argsort(dim=1, stable=True)[:, :5]
        for name, columns in zip(query, order.tolist(), strict=True):
            assert got[Path(name).name] == [Path(gallery[j]).name for j in columns]
    own = json.loads((entry / "results/b-exact.json").read_text())
    assert own.keys() == got.keys()
    assert {len(names) for names in own.values()} == {5}


def test_epochs_are_those_of_the_checkpoints(done):
    entry, _ = done
    first, second = (evaluated(entry / f"weights/a-epoch{e}.safetensors")[0].state_dict() for e in (1, 2))
    last = evaluated(entry / "models/a/weights.safetensors")[0].state_dict()
    assert all(torch.equal(second[name], last[name]) for name in last)
    assert not torch.equal(first["base.0.weight"], last["base.0.weight"])


@torch.no_grad()
def test_pseudo_labels_beside_a_plain_reading(done, root):
    entry, _ = done
    manifest = read_dataset(str(entry / "pseudo/by_a.csv"))
    labelled = manifest.take(
        row for row in range(len(manifest)) if "unlabelled" not in str(manifest.pid[row])
    )
    assert len(labelled) == 24
    query = [f"image_B_v1_1/query/green{pid}.png" for pid in range(6)]
    gallery = [f"image_B_v1_1/gallery/green{pid}_{k}.png" for pid in range(6) for k in range(3)]
    features, _ = _features(entry / "weights/a-epoch2.safetensors", root, query + gallery)
    unit = torch.nn.functional.normalize(features.double())
    angle = (unit[:6] @ unit[6:].T).clamp(-1, 1).acos()
    people = {}
    for column in range(18):
        nearest = min(range(6), key=lambda row: angle[row, column].item())
        if angle[nearest, column] < 0.2:
            people.setdefault(query[nearest], {query[nearest]}).add(gallery[column])
    want = {frozenset(Path(name).name for name in names) for names in people.values()}
    got = {}
    for path, pid in zip(manifest.path, manifest.pid, strict=True):
        if "unlabelled" in str(pid):
            got.setdefault(pid, set()).add(Path(path).name)
    assert {frozenset(names) for names in got.values()} == want
    assert want
    order = [pid for pid in manifest.label_map() if "unlabelled" in str(pid)]
    assert order == [f"unlabelled_by_a_{number:06d}" for number in range(len(want))]
    assert list(manifest.label_map())[:6] == [f"train_2020_fs_{pid}" for pid in range(6)]
    _, known = evaluated(entry / "models/b/weights.safetensors")
    assert int(known["num_classes"]) == 6 + len(want)


def test_recorded_rerankings(tmp_path):
    """[30, 2, 0.8] of the original, whole, and its chunked approximation."""
    want = {}
    for name in ("rerank", "approximations"):
        with np.load(GOLDEN / "naic" / f"{name}.npz") as file:
            want |= dict(file)
    pair = [(torch.from_numpy(want["qf"]), torch.from_numpy(want["gf"]))]
    write_distances(pair, RerankEntry(), 7, tmp_path / "d.npy", lambda: None)
    exact = np.load(tmp_path / "d.npy")
    assert np.abs(exact - want["exact_30_2_0.8"]).max() < 2e-3
    chunked = torch.cat(list(chunked_blocks(pair, (7, 25), k1=10, k2=3, lambda_value=0.6))).numpy()
    assert np.abs(chunked - want["chunk_7x25_10_3_0.6"]).max() < 2e-3
    assert np.abs(chunked - want["exact_10_3_0.6"]).max() > 0.2
    angles = torch.cat(list(distance_blocks(pair, RerankEntry(method="none"), 6))).numpy()
    assert np.abs(angles - want["arccos"]).max() < 2e-3


def test_never_more_than_a_block_of_a_matrix(done, monkeypatch):
    """Rows read of each file by the ensemble, and written by the re-ranking."""
    entry, plan = done
    asked = read_plan(plan)
    made = pipeline.Entry(asked, entry, pipeline.Log())
    taken = []

    class Rows(arrays.ArrayRows):
        def __getitem__(self, rows):
            taken.append(rows.stop - rows.start)
            return super().__getitem__(rows)

    distances = {
        label: {h: made.distances(label, h) for h in COLOURS} for label in ("a-epoch1", "a-epoch2", "b")
    }
    monkeypatch.setattr(pipeline, "ArrayRows", Rows)
    monkeypatch.setattr(pipeline, "write_ranking", lambda *_: None)
    made._rank(distances, ["result.json", *(f"{label}.json" for label in distances)])
    assert set(taken) == {4}
    pairs = [(torch.rand(9, 4), torch.rand(11, 4))] * 2
    for method in ("exact", "none"):
        blocks = list(distance_blocks(pairs, RerankEntry(method=method, k1=4), 4))
        assert [len(block) for block in blocks] == [4, 4, 1]


# Going on


def _no_training(*_):
    raise AssertionError("a training run was begun again")


def test_the_same_command_again_does_nothing(done, monkeypatch, capsys):
    entry, plan = done
    before = {path: path.stat().st_mtime_ns for path in entry.rglob("*") if path.is_file()}
    monkeypatch.setattr(training.run, "run", _no_training)
    assert run(plan) == 0
    said = capsys.readouterr().out
    assert "train-b: done" in said
    assert "result-exact: done" in said
    changed = {path.name for path, when in before.items() if path.stat().st_mtime_ns != when}
    assert changed <= {"log.txt", "plan.yaml", "run.lock"}
    assert run(plan, "--status") == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.partition(": ")[2] for line in lines} == {"done"}
    assert [line.partition(":")[0] for line in lines][:2] == ["train-a", "features-a-epoch1"]


def test_another_method_reuses_the_features(done, root, tmp_path, monkeypatch, capsys):
    copy(done[0], tmp_path)
    plan = make_plan(root, tmp_path)
    monkeypatch.setattr(training.run, "run", _no_training)
    monkeypatch.setattr(pipeline, "write_features", _no_training)
    assert run(plan, "--rerank.method", "chunked") == 0
    said = capsys.readouterr().out
    assert "compared with result-exact.json: the same list for" in said
    entry = tmp_path / "entry"
    assert {path.name for path in entry.glob("result-*.json")} == {"result-exact.json", "result-chunked.json"}
    query, gallery = (entry / "distances" / f"a-epoch1-green-{m}.npy" for m in ("exact", "chunked"))
    assert not np.array_equal(np.load(query), np.load(gallery))
    assert run(plan, "--rerank.k1=5") == 0
    assert "distances-b-normal-exact: again, made from something else" in capsys.readouterr().out


def test_mirror_images_are_part_of_the_features(done, capsys):
    assert run(done[1], "--flip", "false", "--top", "3", "--status") == 0
    states = dict(line.split(": ") for line in capsys.readouterr().out.splitlines())
    assert states["train-a"] == "done"
    for name in ("features-a-epoch1", "pseudo-by_a", "distances-a-epoch2-normal-exact", "result-exact"):
        assert states[name] == "made from something else"


def test_a_damaged_or_lost_file_is_made_again(done, root, tmp_path, monkeypatch, capsys):
    entry = copy(done[0], tmp_path)
    plan = make_plan(root, tmp_path)
    monkeypatch.setattr(training.run, "run", _no_training)
    want = contents(done[0])
    with (entry / "features/a-epoch1.npy").open("r+b") as file:
        file.seek(200)
        file.write(b"\0\1\2\3")
    (entry / "distances/b-green-exact.npy").unlink()
    (entry / "seals/result-exact.json").write_text("{")
    assert run(plan, "--status") == 0
    said = capsys.readouterr().out
    assert "features-a-epoch1: features/a-epoch1.npy has changed" in said
    assert "distances-b-green-exact: b-green-exact.npy is missing" in said
    assert "result-exact: its seal is damaged" in said
    assert "features-b: done" in said
    assert run(plan) == 0
    assert contents(entry) == want


@pytest.mark.parametrize("where", ["training", "features", "distances"])
def test_interrupted_and_gone_on(done, root, tmp_path, monkeypatch, where, capsys):
    """Stopped in the middle; the second call ends with the bytes of an undisturbed entry."""
    plan, calls = make_plan(root, tmp_path), []
    places = {
        "training": (training.run.method("naic"), "step", 4),
        "features": (pipeline, "write_features", 2),
        "distances": (pipeline, "write_distances", 3),
    }
    owner, name, count = places[where]
    real = getattr(owner, name)

    def stop(*arguments):
        calls.append(1)
        if len(calls) == count:
            raise Interrupted(15)
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, stop)
        assert run(plan) == 128 + 15
    assert "the same command goes on from here" in capsys.readouterr().err
    assert not (tmp_path / "entry/result-exact.json").exists()
    assert not list((tmp_path / "entry").rglob("*.tmp"))
    assert run(plan) == 0
    said = capsys.readouterr().out
    assert ("resumed at epoch" in said) == (where == "training")
    got, want = contents(tmp_path / "entry"), contents(done[0])
    # The folder's name stands in the pseudo-labels' run only by way of its CSV, whose rows name the same files.
    assert got == want


def test_an_epoch_outlives_its_checkpoint(done, root, tmp_path, monkeypatch):
    """A run that is stopped again and again keeps its last checkpoints only; what ranks was taken before."""
    plan, entry = make_plan(root, tmp_path), tmp_path / "entry"
    real, calls = training.run.method("naic").step, []

    def stop(*arguments):
        calls.append(1)
        if len(calls) == 5:
            raise Interrupted(15)
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(training.run.method("naic"), "step", stop)
        assert run(plan) == 128 + 15
    assert not (entry / "weights").is_dir() or not list((entry / "weights").iterdir())
    first = entry / "models/a/checkpoints/step-00000003.pt"
    later = first.with_name("step-00000004.pt")
    assert first.is_file()
    damaged = first.with_name("step-00000009.pt")
    damaged.write_bytes(b"x")
    with monkeypatch.context() as patch:
        patch.setattr(training.run, "run", lambda _: (_ for _ in ()).throw(Interrupted(15)))
        assert run(plan) == 128 + 15
    assert [file.name for file in (entry / "weights").iterdir()] == ["a-epoch1.safetensors"]
    assert later.is_file()
    first.unlink()
    damaged.unlink()
    assert run(plan) == 0
    assert contents(entry) == contents(done[0])


def test_taken_weights_rank_without_training(done, root, tmp_path, monkeypatch):
    monkeypatch.setattr(training.run, "run", _no_training)
    entry = done[0]
    taken = [
        {"name": "run", "weights": str(entry / "models/b")},
        {"name": "file", "weights": str(entry / "weights/a-epoch1.safetensors")},
    ]
    plan = make_plan(root, tmp_path, models=taken, pseudo=[], ensemble=["run"])
    assert run(plan) == 0
    mine = tmp_path / "entry"
    assert (mine / "result-exact.json").read_text() == (entry / "results/b-exact.json").read_text()
    assert not (mine / "models").exists()


def test_only_what_a_changed_ensemble_needs(done, root, tmp_path, monkeypatch, capsys):
    """One member taken out, and back again with one more that is taken as it is."""
    entry = copy(done[0], tmp_path)
    monkeypatch.setattr(training.run, "run", _no_training)

    def worked(**changes):
        assert run(make_plan(root, tmp_path, **changes)) == 0
        lines = capsys.readouterr().out.splitlines()
        stages = [line for line in lines if line.startswith(("train-", "features-", "distances-", "result-"))]
        return {line.partition(":")[0] for line in stages if not line.endswith(": done")}

    assert worked(ensemble=["b"]) == {"result-exact"}
    assert (entry / "result-exact.json").read_bytes() == (entry / "results/b-exact.json").read_bytes()
    values = yaml.safe_load(Path(make_plan(root, tmp_path)).read_text())
    more = {"name": "c", "weights": str(done[0] / "models/b")}
    added = {"features-c", "distances-c-green-exact", "distances-c-normal-exact", "result-exact"}
    assert worked(models=[*values["models"], more]) == added
    assert np.array_equal(np.load(entry / "features/c.npy"), np.load(entry / "features/b.npy"))


def test_halves_are_sorted_where_nobody_did(done, root, tmp_path, capsys):
    """Without lists of green and normal pictures, and with those of one side: as with the lists."""
    raw = tmp_path / "raw"
    shutil.copytree(root, raw)
    home = raw / "image_B_v1_1"
    for file in home.glob("*_*.txt"):
        file.unlink()
    taken = [{"name": "b", "weights": str(done[0] / "models/b")}]
    plan = make_plan(raw, tmp_path, models=taken, pseudo=[])
    assert run(plan, "--status") == 1
    assert (
        "query_green.txt: got no such file, expected the names of the green half" in capsys.readouterr().err
    )
    assert run(plan) == 0
    assert "query_green.txt: 6 pictures" in capsys.readouterr().out
    for side in ("query", "gallery"):
        for half in COLOURS:
            name = f"{side}_{half}.txt"
            assert (home / name).read_text() == (root / "image_B_v1_1" / name).read_text()
    want = (done[0] / "results/b-exact.json").read_text()
    assert (tmp_path / "entry/result-exact.json").read_text() == want
    (home / "gallery_green.txt").unlink()
    (home / "gallery_normal.txt").write_text("normal0_0.png\n")  # a list that is there is believed
    assert run(plan) == 0
    got = json.loads((tmp_path / "entry/result-exact.json").read_text())
    assert {tuple(got[f"normal{pid}.png"]) for pid in range(6)} == {("normal0_0.png",)}
    assert {len(got[f"green{pid}.png"]) for pid in range(6)} == {5}
    blocked = {"dataset": "naic", "root": str(raw), "options": {"lists": str(home / "query_green.txt/x")}}
    assert run(make_plan(raw, tmp_path, models=taken, pseudo=[], data=blocked)) == 2
    assert "expected a place for the lists of the halves; name another" in capsys.readouterr().err
