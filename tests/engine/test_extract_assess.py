# SPDX-License-Identifier: Apache-2.0
"""Features in order and modes put back; evaluation of a set against ranks counted by hand."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fastreid_ops.config import Config, EvalSet
from fastreid_ops.data.datasets import gallery_permutations, sysu_mm01
from fastreid_ops.data.images import BadImageError, BadImagePolicy
from fastreid_ops.data.manifest import Manifest
from fastreid_ops.engine import setup
from fastreid_ops.engine.assess import (
    assess,
    assess_colour,
    result_record,
    table_row,
    table_text,
    unique_files,
)
from fastreid_ops.engine.extract import extract
from fastreid_ops.engine.interrupt import Interrupted

CPU = torch.device("cpu")


class Batch:
    def __init__(self, images, index):
        self.images, self.index = images, torch.tensor(index)


class Corner(nn.Module):
    """Feature = the left and the right column's mean red: a mirrored image gives them exchanged."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.frozen = nn.BatchNorm1d(2).eval()
        self.seen = []

    def forward(self, x):
        self.seen.append(
            (
                self.training,
                torch.is_inference_mode_enabled(),
                x.is_contiguous(memory_format=torch.channels_last),
            )
        )
        return torch.stack([x[:, 0, :, 0].mean(1), x[:, 0, :, -1].mean(1)], 1)


class Halves(nn.Module):
    """Feature = mean red, and which half made it; counts the images of every call."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, x, mode=0):
        self.calls.append((mode, len(x), x.is_contiguous(memory_format=torch.channels_last)))
        return torch.stack([x[:, 0, :, 0].mean(1), torch.full((len(x),), float(mode))], 1)


class TwoModalities(Batch):
    def __init__(self, images, index, modality):
        super().__init__(images, index)
        self.modality = torch.tensor(modality)


def test_networks_for_two_modalities_get_either_apart():
    images = torch.randn(6, 3, 4, 6)
    batches = [
        TwoModalities(images[:4], [0, 1, 2, 5], [1, 0, 1, 0]),
        TwoModalities(images[4:], [6, 7], [1, 1]),
    ]
    model = Halves()
    found = extract(model, batches, CPU, flip=True, channels_last=True)
    assert found.rows.tolist() == [0, 1, 2, 5, 6, 7]
    assert found.values[:, 1].tolist() == [2.0, 1.0, 2.0, 1.0, 2.0, 2.0]
    either = (images[:, 0, :, 0].mean(1) + images[:, 0, :, -1].mean(1)) / 2
    torch.testing.assert_close(found.values[:, 0], either)
    assert model.calls == 2 * [(1, 2, True), (2, 2, True)] + 2 * [(2, 2, True)]
    with pytest.raises(ValueError, match=r"extract: batch.modality: got None, expected 0 \(visible\)"):
        extract(model, [Batch(images, list(range(6)))], CPU)


def test_order_modes_and_flip():
    images = torch.randn(5, 3, 4, 6)
    batches = [Batch(images[:3], [0, 1, 4]), Batch(images[3:], [7, 9])]
    model = Corner().train()
    model.frozen.eval()
    found = extract(model, batches, CPU, channels_last=True)
    expected = torch.stack([images[:, 0, :, 0].mean(1), images[:, 0, :, -1].mean(1)], 1)
    torch.testing.assert_close(found.values, expected)
    assert found.rows.tolist() == [0, 1, 4, 7, 9]
    assert model.seen == [(False, True, True)] * 2
    assert (model.training, model.norm.training, model.frozen.training) == (True, True, False)
    flipped = extract(model, batches, CPU, flip=True).values
    torch.testing.assert_close(flipped, (expected + expected.flip(1)) / 2)


def test_unit_length_comes_after_the_mirror_image():
    images = torch.randn(5, 3, 4, 6)
    images[3] = 0
    whole = [Batch(images, list(range(5)))]
    left, right = images[:, 0, :, 0].mean(1), images[:, 0, :, -1].mean(1)
    mirrored = extract(Corner(), whole, CPU, flip=True, unit_length=True).values
    length = (2 * ((left + right) / 2) ** 2).sqrt()
    expected = torch.stack([(left + right) / 2 / length] * 2, 1).nan_to_num()  # both entries are the mean
    torch.testing.assert_close(mirrored, expected)
    plain = extract(Corner(), whole, CPU, unit_length=True).values
    assert plain.norm(dim=1).tolist() == pytest.approx([1, 1, 1, 0, 1])
    torch.testing.assert_close(plain[:, 0] * right, plain[:, 1] * left)  # the direction stays


def test_modes_come_back_after_an_error():
    def check():
        raise Interrupted(2)

    model = Corner().train()
    with pytest.raises(Interrupted):
        extract(model, [Batch(torch.zeros(1, 3, 2, 2), [0])], CPU, check=check)
    assert model.training


def test_refused_features():
    with pytest.raises(ValueError, match="got no image"):
        extract(Corner(), [], CPU)
    images = torch.zeros(4, 3, 2, 2)
    images[2] = float("nan")
    with pytest.raises(ValueError, match=r"got 1 features with NaN or Inf \(first: row 7\)"):
        extract(Corner(), [Batch(images, [5, 6, 7, 8])], CPU)


class Red(nn.Module):
    def forward(self, x):
        return x.mean((2, 3))


COLOURS = {"a": (250, 0, 0), "b": (0, 250, 0), "c": (0, 0, 250)}


@pytest.fixture
def folder(tmp_path):
    """Three people in two cameras, the second camera darker; each image is query and gallery at once; `b`
    looks like `c` in camera 1.
    """
    rows = []
    for pid, colour in COLOURS.items():
        for camera in range(2):
            name = f"{pid}{camera}.png"
            shown = COLOURS["c"] if (pid, camera) == ("b", 1) else colour
            Image.fromarray(np.full((8, 4, 3), np.array(shown) * (1 - 0.1 * camera), dtype=np.uint8)).save(
                tmp_path / name
            )
            rows.append((name, pid, camera))
    return tmp_path, rows


def manifest(folder, rows):
    paths, pids, camids = (list(column) for column in zip(*rows, strict=True))
    n = len(rows)
    return Manifest(folder, paths * 2, pids * 2, camids * 2, ["query"] * n + ["gallery"] * n)


def data(folder, rows, mode="raise"):
    config = Config()
    config.data.height, config.data.width, config.data.workers, config.eval.batch_size = 8, 4, 0, 4
    policy = BadImagePolicy(mode)
    return setup.eval_data(
        EvalSet(name="set", label="Set", note="a note"), manifest(folder, rows), config, policy
    ), policy


def test_each_file_is_read_once(folder):
    made, _ = data(*folder)
    assert made.files.path == [name for name, _, _ in folder[1]]
    assert len(unique_files(made.query, made.gallery)) == 6


def test_figures_by_hand(folder):
    """a0, a1 find each other first. b0: b1 is nearest to the two c, then a: rank 4 of a0, a1, b1, c0, c1
    without b0 itself ...
    """
    made, _ = data(*folder)
    found = assess(Red(), made, CPU, metric="euclidean")["set"]
    record = result_record(found, 3)
    first = [query["first_rank"] for query in record["queries"]]
    features = {
        name: np.array(Image.open(folder[0] / name)).mean((0, 1)) / 255 / np.array([0.229, 0.224, 0.225])
        for name, _, _ in folder[1]
    }
    for (name, pid, camera), rank in zip(folder[1], first, strict=True):
        kept = [(n, p) for n, p, c in folder[1] if not (p == pid and c == camera)]
        order = sorted(kept, key=lambda item: np.linalg.norm(features[item[0]] - features[name]))
        assert [p for _, p in order].index(pid) + 1 == rank, name
        listed = next(
            r for q, r in zip(record["queries"], record["ranked"], strict=True) if q["path"].endswith(name)
        )
        assert [entry["path"] for entry in listed["gallery"]] == [str(folder[0] / n) for n, _ in order[:3]]
        assert [entry["match"] for entry in listed["gallery"]] == [p == pid for _, p in order[:3]]
    assert record["mAP"] == pytest.approx(np.mean([1 / rank for rank in first]))
    assert record["set"] == "set"
    assert record["protocol"]["name"] == "market1501"
    assert record["counts"]["valid"] == 6


def test_colour_alone(folder):
    made, policy = data(*folder)
    found = assess_colour(made, policy)["set"]
    assert found.result.first_rank[:2] == [1, 1]
    assert found.result.first_rank[2] > 1


@pytest.mark.parametrize("mode", ["skip", "replace"])
def test_bad_files(folder, mode):
    (folder[0] / "c1.png").write_bytes(b"no image")
    made, policy = data(*folder, mode=mode)
    found = assess(Red(), made, CPU, metric="euclidean")["set"]
    assert len(found.query_features) == (5 if mode == "skip" else 6)
    assert list(policy.files) == [str(folder[0] / "c1.png")]
    assert len(assess_colour(made, policy)["set"].query_rows) == 5
    with pytest.raises(BadImageError, match=r"c1\.png"):
        assess(Red(), data(*folder)[0], CPU, metric="euclidean")


def test_a_set_without_queries_is_refused(folder):
    rows = [("a0.png", "a", 0)]
    only = Manifest(folder[0], ["a0.png"], ["a"], [0], ["gallery"])
    with pytest.raises(ValueError, match="got 0 queries and 1 gallery images"):
        setup.eval_data(EvalSet(name="x"), only, Config(), BadImagePolicy())
    assert len(manifest(folder[0], rows)) == 2


def test_table():
    figures = {"mAP": 0.5, "mINP": 0.25, "rank1": 1.0, "rank5": 1.0, "rank10": 1.0}
    rows = [
        table_row("trained", "people", "unseen ids", figures),
        table_row("HSV stripes", "people", "", figures),
    ]
    lines = table_text(rows).split("\n")
    assert lines[0].split() == ["system", "set", "mAP", "mINP", "Rank-1", "Rank-5", "Rank-10"]
    assert lines[1].split("  ")[0] == "trained"
    assert lines[1].split()[-5:] == ["50.0", "25.0", "100.0", "100.0", "100.0"]
    assert "people" in lines[2]
    assert len({len(line) for line in lines}) == 1


def shown_twice(folder, rows, **columns):
    """The manifest with a modality by camera, and what else is given, on both sides."""
    made = manifest(folder, rows)
    modality = ["infrared" if camid else "visible" for camid in made.camid]
    return dataclasses.replace(made, modality=modality, **columns)


def made_for(folder, rows, protocol, **options):
    config = Config()
    config.data.height, config.data.width, config.data.workers, config.eval.batch_size = 8, 4, 0, 4
    item = EvalSet(name="set", protocol=protocol, protocol_options=options)
    return setup.eval_data(item, shown_twice(folder, rows), config, BadImagePolicy("skip"))


def test_a_family_reads_each_file_once_and_has_a_result_for_each_member(folder):
    made = made_for(*folder, "regdb")
    assert made.files.path == [name for name, _, _ in folder[1]]
    assert made.files.modality == ["visible", "infrared"] * 3
    found = assess(Red(), made, CPU, metric="euclidean")
    assert list(found) == ["set-regdb_visible2thermal", "set-regdb_thermal2visible"]
    for one, name in zip(found.values(), ("0.png", "1.png"), strict=True):
        record = result_record(one, 5)
        assert {query["path"][-5:] for query in record["queries"]} == {name}
        assert record["counts"] == {
            "queries": 3,
            "gallery": 3,
            "valid": 3,
            "absent_pid": 0,
            "same_camera_only": 0,
        }
        assert record["label"].endswith(f", {one.name[4:]}")
        assert "trials" not in record


def test_only_what_some_trial_shows_is_read(folder):
    """Visible queries against one drawn infrared image: the other infrared images are never opened."""
    root, rows = folder
    more = [(f"{pid}{n}.png", pid, 1) for pid in COLOURS for n in range(2, 9)]
    for name, _, _ in more:
        (root / name).write_bytes(b"would not open")
    made = made_for(root, rows + more, "llcm_vis2nir", trials=1, draw_seed=4)
    assert len(made.files) == 6
    assert "(draw_seed=4, trials=1)" in made.draws["set"].protocol.name


def test_an_unreadable_file_leaves_the_draw_as_it_was(folder):
    root, rows = folder
    more = [(f"{pid}{n}.png", pid, 1) for pid in COLOURS for n in range(2, 5)]
    for name, pid, _ in more:
        Image.fromarray(np.full((8, 4, 3), COLOURS[pid], dtype=np.uint8)).save(root / name)
    whole = made_for(root, rows + more, "llcm_vis2nir", trials=3, camera_rule="none")
    first = whole.draws["set"].trials[0].gallery.tolist()
    (root / whole.gallery.path[first[0]]).write_bytes(b"no image")
    again = made_for(root, rows + more, "llcm_vis2nir", trials=3, camera_rule="none")
    assert all(
        torch.equal(a.gallery, b.gallery)
        for a, b in zip(whole.draws["set"].trials, again.draws["set"].trials, strict=True)
    )
    found = assess(Red(), again, CPU, metric="euclidean")["set"]
    assert found.result.results[0].gallery == 2
    record = result_record(found, 3)
    assert [entry["path"] for entry in record["ranked"][0]["gallery"]] != []
    assert record["note"].endswith("Means over 3 trials; queries and ranked lists are those of the first.")


def test_the_official_table_is_used_where_there_is_one(folder, monkeypatch):
    table = {(pid, camid): [[1]] * 10 for pid in COLOURS for camid in range(2)}
    asked = []

    def permutations(name, root):
        asked.append((name, root))
        return table

    monkeypatch.setattr(setup, "gallery_permutations", permutations)
    official = made_for(*folder, "sysu_mm01").draws["set"].protocol
    assert official.draw_seeding == "official"
    assert asked == [("people", None)]
    monkeypatch.setattr(setup, "gallery_permutations", lambda name, root: None)
    assert made_for(*folder, "sysu_mm01").draws["set"].protocol.draw_seeding == "each_trial"


def test_permutations_are_those_of_the_data_set(tmp_path, monkeypatch):
    assert gallery_permutations("people", tmp_path) is None
    assert gallery_permutations("sysu_mm01", None) is None
    assert gallery_permutations("sysu_mm01", tmp_path) is None
    (tmp_path / "SYSU-MM01" / "exp").mkdir(parents=True)
    (tmp_path / "SYSU-MM01" / "exp" / "rand_perm_cam.mat").write_bytes(b"no table")
    with pytest.raises(ValueError, match="sysu_mm01"):  # there, so never passed over in silence
        gallery_permutations("sysu_mm01", tmp_path)
    monkeypatch.setattr(sysu_mm01, "permutations", lambda root: {"from": root})
    assert gallery_permutations("sysu_mm01", tmp_path) == {"from": tmp_path}


def test_clothes_and_names_for_identities_go_through(folder):
    root, rows = folder
    config = Config()
    config.data.height, config.data.width, config.data.workers = 8, 4, 0
    whole = shown_twice(root, rows, clothes=["x", "x", "x", "y", "x", "x"] * 2)
    item = EvalSet(name="set", protocol="clothes_changing")
    made = setup.eval_data(item, whole, config, BadImagePolicy())
    found = assess(Red(), made, CPU, metric="euclidean")["set"].result
    assert found.status == [2, 2, 0, 0, 2, 2]  # only b changed
    with pytest.raises(ValueError, match=r"eval\.sets: set: draw: query\.tracklets: got None"):
        setup.eval_data(EvalSet(name="set", protocol="mars"), whole, config, BadImagePolicy())
