# SPDX-License-Identifier: Apache-2.0
"""Splits that are drawn, listed or handed on as files, and what can be wrong with them."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from image_trees import CASES, build, build_msmt17, grid_partitions, rows, touch

from fastreid_ops.data.checks import label_findings
from fastreid_ops.data.datasets import read_dataset, scan_dataset
from fastreid_ops.data.manifest import ManifestError


def sides(manifest) -> dict[str, set]:
    return {split: set(manifest.select(split).pid) for split in ("train", "query", "gallery")}


DRAWN = {name: CASES[name] for name in ("viper", "cuhk01", "ilids", "prid")}


@pytest.mark.parametrize("name", DRAWN)
def test_draws_follow_the_seed_alone(tmp_path: Path, name: str):
    build(DRAWN[name], tmp_path)
    state = random.getstate(), np.random.get_state()[1].tolist()
    drawn = [rows(read_dataset(name, tmp_path, seed=1, split=split)) for split in (0, 2, 4, 9)]
    assert drawn[2] == rows(read_dataset(name, tmp_path, seed=1, split=4))
    assert len({str(one) for one in drawn}) == 4
    assert rows(read_dataset(name, tmp_path)) == rows(read_dataset(name, tmp_path, seed=0))
    assert rows(read_dataset(name, tmp_path, seed=2)) != drawn[0]
    assert (random.getstate(), np.random.get_state()[1].tolist()) == state
    assert sorted(path.name for path in tmp_path.rglob("*.json")) == []
    (note,) = [
        item for item in scan_dataset(name, tmp_path, split=3).findings() if item.code == "drawn_split"
    ]
    assert "drawn with seed 0" in note.text
    with pytest.raises(ValueError, match=rf"{name}: split: got (20|10), expected 0 to (19|9)"):
        read_dataset(name, tmp_path, split=20 if name in ("viper", "cuhk01") else 10)
    with pytest.raises(ValueError, match="seed: got -1, expected 0 to"):
        read_dataset(name, tmp_path, seed=-1)
    with pytest.raises(TypeError, match="seed: got 'x', expected a whole number or None"):
        read_dataset(name, tmp_path, seed="x")


@pytest.mark.parametrize("name", ["viper", "cuhk01"])
def test_two_directions_share_their_training_people(tmp_path: Path, name: str):
    build(DRAWN[name], tmp_path)
    there, back = (read_dataset(name, tmp_path, split=split) for split in (6, 7))
    assert there.select("train").path == back.select("train").path
    assert sorted(there.select("query").path) == sorted(back.select("gallery").path)
    assert set(there.select("query").camid) == {0}
    assert set(back.select("query").camid) == {1}


def test_ilids_has_a_camera_for_every_picture_of_a_person(tmp_path: Path):
    build(CASES["ilids"], tmp_path)
    manifest = read_dataset("ilids", tmp_path)
    assert len({(pid, camid) for _, pid, camid, _ in rows(manifest)}) == len(manifest)
    assert {int(path[-7:-4]) - 1 - camid for path, _, camid, _ in rows(manifest)} == {0}
    (tmp_path / "Persons" / "0001002.jpg").unlink()
    for n in (1, 3):
        (tmp_path / "Persons" / f"0001{n:03d}.jpg").unlink()
    with pytest.raises(ManifestError, match=r"got one image of 1 identities \(1\), expected two"):
        read_dataset("ilids", tmp_path)
    texts = [item.text for item in scan_dataset("ilids", tmp_path).findings()]
    assert "473 images (published: 476) of 119 people (published: 119)" in texts


def prid450s(folder: Path) -> Path:
    touch(folder, [f"cam_{cam}/img_{pid:03d}.png" for cam in "ab" for pid in range(1, 11)])
    return folder


@pytest.mark.parametrize("layout", ["prid450s", "PRID450S", ""])
def test_prid450s_tests_everybody_from_both_sides(tmp_path: Path, layout: str):
    prid450s(tmp_path / layout)
    manifest = read_dataset("prid450s", tmp_path, seed=4, split=2)
    assert manifest.select("query").path == manifest.select("gallery").path
    state = np.random.RandomState(4)
    for _ in range(3):
        order = np.arange(10)
        state.shuffle(order)
    people = {int(place) + 1 for place in order[:5]}
    assert sides(manifest)["train"] == people
    assert sides(manifest)["query"] == set(range(1, 11)) - people
    assert set(rows(manifest)) >= {(f"cam_{cam}/img_{pid:03d}.png", pid, camid, "train")
                                   for pid in people for camid, cam in enumerate("ab")}  # fmt: skip
    assert {item.code for item in label_findings(manifest) if item.level == "problem"} == set()
    whole = read_dataset("prid450s", tmp_path, combineall=True)
    assert sides(whole)["train"] == set(range(1, 11))
    assert len(whole) == 20


def test_a_split_file_of_torchreid_0_with_its_indices_from_0(tmp_path: Path):
    """Restated from the specification: names count from 1, split indices from 0, so that index 0 finds nobody."""
    prid450s(tmp_path)
    train = [0, 2, 3, 7, 9]
    label = {index: n for n, index in enumerate(train)}
    split = {"train": [], "query": [], "gallery": []}
    for camid, cam in enumerate("ab"):
        for pid in range(1, 11):
            name = f"C:\\data\\prid450s\\cam_{cam}\\img_{pid:03d}.png"
            if pid in train:
                split["train"].append([name, label[pid], camid])
            else:
                split["query"].append([name, pid, camid])
                split["gallery"].append([name, pid, camid])
    (tmp_path / "splits.json").write_text(json.dumps([split]))
    assert sides(read_dataset("prid450s", tmp_path)) == {
        "train": {2, 3, 7, 9}, "query": {1, 4, 5, 6, 8, 10}, "gallery": {1, 4, 5, 6, 8, 10}
    }  # fmt: skip
    assert len(sides(read_dataset("prid450s", tmp_path, seed=0))["train"]) == 5
    found = scan_dataset("prid450s", tmp_path).findings()
    assert [item.text for item in found if item.code == "split_file"] == [
        f"split 0 of 1 taken from {tmp_path / 'splits.json'}"
    ]
    assert [item.text for item in found if item.text.startswith("train: 8 images (published: 450), 4 ids")]


VIPER = [f"cam_{cam}/{pid:03d}_{angle}.bmp" for cam, angle in (("a", 0), ("b", 90)) for pid in (1, 2, 3, 4)]
GOOD = {
    "train": [["/old/VIPeR/cam_a/001_0.bmp", 0, 0], ["cam_b/001_90.bmp", 0, 1],
              ["cam_a/003_0.bmp", 1, 0], ["cam_b\\003_90.bmp", 1, 1]],
    "query": [["cam_a/002_0.bmp", 0, 0], ["cam_a/004_0.bmp", 1, 0]],
    "gallery": [["cam_b/002_90.bmp", 0, 1], ["cam_b/004_90.bmp", 1, 1]],
}  # fmt: skip


def changed(split: str, place: int, value: object) -> dict:
    made = json.loads(json.dumps(GOOD))
    made[split][place] = value
    return made


def test_a_split_file_with_relative_absolute_and_windows_names(tmp_path: Path):
    touch(tmp_path / "viper" / "VIPeR", VIPER)
    # torchreid keeps it beside the folder VIPeR; one above the folder that the user names is nobody's business.
    (tmp_path / "viper" / "splits.json").write_text("\ufeff" + json.dumps([GOOD]))
    manifest = read_dataset("viper", tmp_path)
    assert sides(manifest) == {"train": {1, 3}, "query": {2, 4}, "gallery": {2, 4}}
    assert sides(read_dataset("viper", tmp_path / "viper")) == sides(manifest)
    above = scan_dataset("viper", tmp_path / "viper" / "VIPeR").findings()
    assert {"drawn_split", "split_file"} & {item.code for item in above} == {"drawn_split"}
    with pytest.raises(ValueError, match="split: got 1, expected 0 to 0"):
        read_dataset("viper", tmp_path, split=1)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "got no JSON text"),
        ("[]", "got no list of objects"),
        ('{"train": []}', "got no list of objects"),
        ([{**GOOD, "query": 3}], "query: got something else, expected a list of"),
        ([{"train": GOOD["train"]}], "query: got something else"),
        ([changed("train", 0, ["cam_a/001_0.bmp"])], "train: got something else"),
        (
            [changed("train", 0, ["cam_a/009_0.bmp", 0, 0])],
            "got no file for 1 listed names, expected cam_a/009_0.bmp",
        ),
        ([changed("train", 0, ["cam_a/001_0.bmp", 1, 0])], "got identities that contradict the file names"),
        (
            [changed("gallery", 0, ["cam_b/002_90.bmp", 1, 1])],
            "got identities that contradict the file names",
        ),
        ([changed("query", 0, ["cam_a/002_0.bmp", 0, 1])], "got cameras that contradict the file names"),
        (
            [changed("query", 0, ["cam_a/001_0.bmp", 5, 0])],
            r"1 identities in train and in query or gallery \(1\)",
        ),
    ],
)
def test_a_split_file_that_is_wrong_is_refused(tmp_path: Path, content: object, words: str):
    touch(tmp_path, VIPER)
    (tmp_path / "splits.json").write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ManifestError, match=words):
        read_dataset("viper", tmp_path)


@pytest.mark.parametrize("name", ["ilids", "prid"])
def test_split_files_of_names_and_ids(tmp_path: Path, name: str):
    build(CASES[name], tmp_path)
    file = tmp_path / ("splits.json" if name == "ilids" else "splits_single_shot.json")
    good = (
        {"train": ["0001001.jpg", "/a/0001002.jpg"], "query": ["0002001.jpg"], "gallery": ["0002004.jpg"]}
        if name == "ilids"
        else {"train": [3, 4], "test": [1, 2]}
    )
    file.write_text(json.dumps([good]))
    manifest = read_dataset(name, tmp_path)
    assert sides(manifest)["train"] == ({1} if name == "ilids" else {3, 4})
    assert sides(manifest)["query"] == ({2} if name == "ilids" else {1, 2})
    for wrong, words in (
        ({**good, "train": 7}, "train: got something else"),
        ({"train": good["train"]}, "got something else, expected a list of"),
        ({**good, "train": good.get("query", good.get("test"))}, "in train and in query or gallery"),
    ):
        file.write_text(json.dumps([wrong]))
        with pytest.raises(ManifestError, match=words):
            read_dataset(name, tmp_path)
    gone = {"ilids": ("Persons/0002001.jpg", good), "prid": ("single_shot/cam_b/person_0500.png", good)}[name]
    file.write_text(json.dumps([gone[1]]))
    (tmp_path / gone[0]).unlink()
    with pytest.raises(ManifestError, match=f"got no file for 1 listed names, expected {gone[0]}"):
        read_dataset(name, tmp_path)


def test_prid_keeps_the_strangers_of_the_first_camera_out(tmp_path: Path):
    build(CASES["prid"], tmp_path)
    manifest = read_dataset("prid", tmp_path)
    assert {pid for _, pid, camid, _ in rows(manifest) if camid == 0} == set(range(1, 201))
    assert {pid for _, pid, _, split in rows(manifest) if split == "gallery"} >= set(range(201, 750))
    found = {item.code: item for item in scan_dataset("prid", tmp_path).findings()}
    assert (found["one_camera_people"].level, found["one_camera_people"].count) == ("note", 185)


@pytest.mark.parametrize("name", ["viper", "prid450s"])
def test_a_missing_half_and_a_second_picture_are_named(tmp_path: Path, name: str):
    files = {
        "viper": VIPER,
        "prid450s": [f"cam_{cam}/img_{pid:03d}.png" for cam in "ab" for pid in range(4)],
    }[name]
    touch(tmp_path, files)
    (tmp_path / files[-1]).unlink()
    with pytest.raises(
        ManifestError, match=r"cam_b: got no image of 1 identities that the other camera has \([34]\)"
    ):
        read_dataset(name, tmp_path)
    assert {item.code for item in scan_dataset(name, tmp_path).findings()} >= {"broken"}
    touch(tmp_path, [files[-1], files[0].replace("/0", "/").replace("img_0", "img_00")])
    with pytest.raises(ManifestError, match="got a second image for an identity under one camera: cam_a/"):
        read_dataset(name, tmp_path)


def test_grid_without_its_partitions(tmp_path: Path):
    build(CASES["grid"], tmp_path)
    partitions = tmp_path / "features_and_partitions.mat"
    (tmp_path / "probe" / "0002_3_25004_107_32_106_221.jpeg").rename(
        tmp_path / "probe" / "0000_3_1_1_1_1_1.jpeg"
    )
    found = {item.code: item for item in scan_dataset("grid", tmp_path).findings()}
    assert found["distractor_id"].examples == ("probe/0000_3_1_1_1_1_1.jpeg",)
    partitions.write_bytes(partitions.read_bytes()[:300])
    with pytest.raises(ManifestError, match=r"features_and_partitions\.mat: (cannot be read|got no)"):
        read_dataset("grid", tmp_path)
    partitions.unlink()
    with pytest.raises(ManifestError, match=r"got no such file and no splits.json, expected one of them"):
        read_dataset("grid", tmp_path)
    grid_partitions(partitions)
    for file in (*tmp_path.glob("probe/0007_*"), *tmp_path.glob("gallery/0007_*")):
        file.unlink()
    trees = [scan_dataset("grid", tmp_path, split=split) for split in range(10)]
    trained = [7 in np.random.RandomState(n).permutation(np.arange(1, 251))[:125] for n in range(10)]
    assert [bool(tree.broken) for tree in trees] == trained
    assert set(trained) == {True, False}
    with pytest.raises(ManifestError, match=r"got no image of 1 identities of split \d \(7\), expected two"):
        trees[trained.index(True)].checked()


def test_msmt17_lists_with_windows_ends_absolute_names_and_numbers_that_clash(tmp_path: Path):
    build_msmt17(tmp_path, end="\r\n")
    windows = rows(read_dataset("msmt17", tmp_path))
    build_msmt17(tmp_path)
    assert rows(read_dataset("msmt17", tmp_path)) == windows
    query = tmp_path / "list_query.txt"
    query.write_text("".join(f"/home/me/MSMT17_V1/test/{line}\n" for line in query.read_text().splitlines()))
    assert rows(read_dataset("msmt17", tmp_path)) == windows
    manifest = read_dataset("msmt17", tmp_path)
    assert sides(manifest) == {"train": set(range(4)), "query": set(range(10000, 10006)),
                               "gallery": set(range(10000, 10006))}  # fmt: skip
    assert max(manifest.camid) == 14
    assert manifest.problems() == []
    assert len(read_dataset("msmt17", tmp_path, list_val=True).select("train")) == 16
    with pytest.raises(ValueError, match="version: got 'V3', expected 'any', 'V1', 'V2'"):
        read_dataset("msmt17", tmp_path, version="V3")


def test_msmt17_lists_that_are_missing_damaged_or_name_missing_files(tmp_path: Path):
    build_msmt17(tmp_path)
    (tmp_path / "list_val.txt").unlink()
    read_dataset("msmt17", tmp_path)
    with pytest.raises(ManifestError, match=r"\(without list_val.txt\)"):
        read_dataset("msmt17", tmp_path, list_val=True)
    gallery = tmp_path / "list_gallery.txt"
    text = gallery.read_text()
    gallery.write_text(text + "0001/0001_000_00_0303morning_0015_0.jpg 1\n0001/0001.jpg 1\nno-number\n")
    with pytest.raises(ManifestError) as caught:
        read_dataset("msmt17", tmp_path)
    assert "list_gallery.txt:13 '0001/0001_000_00_" in str(caught.value)
    assert "list_gallery.txt:15 'no-number'" in str(caught.value)
    gallery.write_text(text + text.splitlines()[0] + "\n")
    assert "repeated_path" in {item.code for item in label_findings(read_dataset("msmt17", tmp_path))}
    gallery.write_text(text)
    (tmp_path / "test/0000/0000_001_04_0303morning_0015_0.jpg").unlink()
    with pytest.raises(
        ManifestError, match=r"got no file for 1 listed names, expected test/0000/0000_001_04"
    ):
        read_dataset("msmt17", tmp_path)
    found = {item.code: item for item in scan_dataset("msmt17", tmp_path).findings()}
    assert found["listed_not_there"].count == 1
    gallery.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ManifestError, match="got bytes that are no UTF-8 text"):
        read_dataset("msmt17", tmp_path)


def test_a_queried_person_that_the_gallery_lacks_stays_and_is_reported(tmp_path: Path):
    build(CASES["sensereid"], tmp_path)
    touch(tmp_path, ["test_probe/00099_0.jpg"])
    manifest = read_dataset("sensereid", tmp_path)
    assert 99 in sides(manifest)["query"] - sides(manifest)["gallery"]
    found = {item.code: item for item in label_findings(manifest)}
    assert found["query_without_id_in_gallery"].examples == ("test_probe/00099_0.jpg",)


def test_people_of_dukemtmcreid_in_train_and_test_and_junk_of_other_sets(tmp_path: Path):
    build(CASES["dukemtmcreid"], tmp_path)
    touch(tmp_path, ["query/0005_c1_f0044158.jpg", "bounding_box_test/-1_c1_f0000001.jpg"])
    with pytest.raises(
        ManifestError, match=r"got bounding_box_test/-1_c1_f0000001.jpg, expected \*.jpg files named"
    ):
        read_dataset("dukemtmcreid", tmp_path)
    (tmp_path / "bounding_box_test/-1_c1_f0000001.jpg").unlink()
    found = {item.code: item for item in label_findings(read_dataset("dukemtmcreid", tmp_path))}
    assert found["ids_in_train_and_test"].examples == ("5",)
    touch(tmp_path, ["query/0002_c9_f0044158.jpg"])
    found = {item.code: item for item in scan_dataset("dukemtmcreid", tmp_path).findings()}
    assert found["outside_range"].count == 1


def test_cuhk02_pairs_count_their_people_anew(tmp_path: Path):
    build(CASES["cuhk02"], tmp_path)
    manifest = read_dataset("cuhk02", tmp_path)
    assert len(sides(manifest)["train"]) == 5 + 4 + 3 + 2
    assert sides(manifest)["query"] == {50000 + pid for pid in range(1, 7)}
    assert {(path.rsplit("/", 1)[0], camid) for path, _, camid, _ in rows(manifest)} == {
        (f"P{pair}/cam{cam}", 2 * pair + cam - 3) for pair in range(1, 6) for cam in (1, 2)
    }


def test_university1652_views_and_cameras(tmp_path: Path):
    build(CASES["university1652"], tmp_path)
    touch(tmp_path, ["test/query_satellite/0001/0001.jpg", "test/gallery_drone/0001/image-01.jpeg"])
    manifest = read_dataset("university1652", tmp_path)
    assert sorted(manifest.camid) == list(range(len(manifest)))
    back = read_dataset("university1652", tmp_path, query="satellite", gallery="drone")
    assert back.select("query").path == ["test/query_satellite/0001/0001.jpg"]
    assert back.select("gallery").path == ["test/gallery_drone/0001/image-01.jpeg"]
    with pytest.raises(ValueError, match="query: got 'plane', expected 'drone', 'satellite', 'street'"):
        read_dataset("university1652", tmp_path, query="plane")
