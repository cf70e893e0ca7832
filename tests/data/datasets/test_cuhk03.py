# SPDX-License-Identifier: Apache-2.0
"""CUHK03: both boxes, both splits, from split files and from .mat files, and the extraction of the pictures."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from image_trees import rows, same, touch
from PIL import Image

from fastreid_ops.data.datasets import cuhk03_extract, read_dataset, scan_dataset
from fastreid_ops.data.manifest import ManifestError

needs_h5py = pytest.mark.skipif(importlib.util.find_spec("h5py") is None, reason="h5py is not installed")
PAIRS = (5, 2, 1, 1, 1)
TESTS = [[(1, 1), (2, 1)], [(1, 3), (5, 1)]]


def there(kind: str, pair: int, person: int, number: int) -> bool:
    """Pictures are missing here and there, and the third person has one view only."""
    if (pair, person) == (1, 3):
        return number <= 5
    return (pair + person + number + (kind == "labeled")) % 4 != 0


def names(kind: str) -> list[str]:
    return [
        f"{pair}_{person:03d}_{1 if number <= 5 else 2}_{number:02d}.png"
        for pair, people in enumerate(PAIRS, 1)
        for person in range(1, people + 1)
        for number in range(1, 11)
        if there(kind, pair, person, number)
    ]


def pixels(kind: str, pair: int, person: int, number: int) -> np.ndarray:
    seed = [kind == "labeled", pair, person, number]
    return np.random.default_rng(seed).integers(0, 256, (6, 4, 3), dtype=np.uint8)


def raw(file: Path) -> None:
    """cuhk-03.mat as MATLAB 7.3 stores it: cells are references, arrays lie with their columns first."""
    import h5py

    file.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(file, "w") as mat:
        mat.create_group("#refs#")

        def put(value: np.ndarray):
            return mat["#refs#"].create_dataset(str(len(mat["#refs#"])), data=value.T).ref

        def cells(array: np.ndarray) -> np.ndarray:
            return array.astype(h5py.ref_dtype)

        for kind in ("detected", "labeled"):
            pairs = np.empty((5, 1), dtype=object)
            for pair, people in enumerate(PAIRS, 1):
                pictures = np.empty((people, 10), dtype=object)
                for person in range(people):
                    for number in range(10):
                        place = kind, pair, person + 1, number + 1
                        empty = np.zeros(2, dtype=np.uint64)
                        pictures[person, number] = put(pixels(*place) if there(*place) else empty)
                pairs[pair - 1, 0] = put(cells(pictures))
            mat[kind] = cells(pairs).T
        tests = np.empty((len(TESTS), 1), dtype=object)
        for n, test in enumerate(TESTS):
            tests[n, 0] = put(np.array(test, dtype=np.float64))
        mat["testsets"] = cells(tests).T


def config(file: Path, kind: str) -> dict[str, list[int]]:
    """A new-protocol file: the first two people of pair 1 and the one of pair 3 are tested; returns its indices."""
    from scipy.io import savemat

    every = names(kind)
    people = sorted({name[:5] for name in every})
    label = {person: n for n, person in enumerate(people, 1)}
    chosen = {"train_idx": [], "query_idx": [], "gallery_idx": []}
    for place, name in enumerate(every, 1):
        tested = name[:5] in ("1_001", "1_002", "3_001")
        kind_of = "query_idx" if name.endswith("6.png") else "gallery_idx"
        chosen[kind_of if tested else "train_idx"].append(place)
    filelist = np.empty((len(every), 1), dtype=object)
    filelist[:, 0] = every
    columns = {key: np.array(places)[:, None] for key, places in chosen.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    savemat(
        file,
        {"filelist": filelist, "labels": np.array([label[name[:5]] for name in every])[:, None], **columns},
    )
    return chosen


def source(root: Path) -> Path:
    raw(root / "cuhk03_release" / "cuhk-03.mat")
    for kind in ("detected", "labeled"):
        config(root / f"cuhk03_new_protocol_config_{kind}.mat", kind)
    return root


OPTIONS = [
    {"labeled": labeled, "classic": classic, "split": split}
    for labeled in (False, True)
    for classic, split in ((False, 0), (True, 0), (True, 1))
]


@needs_h5py
def test_all_boxes_and_splits_are_those_of_torchreid(tmp_path: Path, torchreid: Callable):
    source(tmp_path / "cuhk03")
    extracted = tmp_path / "pictures"
    counts = cuhk03_extract.extract(tmp_path, extracted)
    assert counts == {kind: len(names(kind)) for kind in ("detected", "labeled")}
    for chosen in OPTIONS:
        ours = read_dataset("cuhk03", extracted, **chosen)
        theirs = torchreid(
            "cuhk03", "CUHK03", tmp_path, cuhk03_labeled=chosen["labeled"], cuhk03_classic_split=chosen["classic"],
            split_id=chosen["split"],
        )  # fmt: skip
        # Theirs lie beside the source by now: read them through their own split files, which hold absolute names.
        same(read_dataset("cuhk03", tmp_path, **chosen), theirs)
        assert rows(read_dataset("cuhk03", tmp_path, **chosen)) == rows(ours)
    for kind in ("detected", "labeled"):
        for file in (extracted / f"images_{kind}").iterdir():
            assert (
                np.asarray(Image.open(file))
                == np.asarray(Image.open(tmp_path / "cuhk03" / f"images_{kind}" / file.name))
            ).all()


@needs_h5py
def test_the_extracted_pictures_are_the_ones_put_in(tmp_path: Path):
    cuhk03_extract.extract(source(tmp_path / "in"), tmp_path / "out")
    for kind in ("detected", "labeled"):
        assert sorted(path.name for path in (tmp_path / "out" / f"images_{kind}").iterdir()) == sorted(
            names(kind)
        )
        name = names(kind)[3]
        pair, person, _, number = (int(part) for part in name[:-4].split("_"))
        found = np.asarray(Image.open(tmp_path / "out" / f"images_{kind}" / name))
        assert (found == pixels(kind, pair, person, number)).all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
    for file in (tmp_path / "out").glob("*.json"):
        assert str(tmp_path) not in file.read_text()
    moved = (tmp_path / "out").rename(tmp_path / "moved")
    assert len(read_dataset("cuhk03", moved, classic=True, split=1).select("query")) > 0


@needs_h5py
def test_splits_straight_from_the_mat_files_are_the_same(tmp_path: Path):
    cuhk03_extract.extract(source(tmp_path / "in"), tmp_path / "out")
    for kind in ("detected", "labeled"):
        (tmp_path / "out" / f"images_{kind}").rename(tmp_path / "in" / f"images_{kind}")
        (tmp_path / "out" / f"images_{kind}").mkdir()
        touch(tmp_path / "out" / f"images_{kind}", names(kind))
    for chosen in OPTIONS:
        from_files = rows(read_dataset("cuhk03", tmp_path / "out", **chosen))
        assert sorted(rows(read_dataset("cuhk03", tmp_path / "in", **chosen))) == sorted(from_files)


@needs_h5py
def test_extraction_leaves_all_or_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    base = source(tmp_path / "in")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    with pytest.raises(ManifestError, match="expected a new or empty folder"):
        cuhk03_extract.extract(base, tmp_path / "full")
    config(base / "cuhk03_new_protocol_config_labeled.mat", "detected")
    with pytest.raises(
        ManifestError, match=r"cuhk03_new_protocol_config_labeled\.mat: got .*expected names of pictures"
    ):
        cuhk03_extract.extract(base, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "in"]
    (base / "cuhk03_new_protocol_config_labeled.mat").unlink()
    assert cuhk03_extract.main([str(base), str(tmp_path / "out")]) == 0
    assert f"{len(names('labeled'))} labeled pictures" in capsys.readouterr().out
    assert not (tmp_path / "out" / "splits_new_labeled.json").exists()
    with pytest.raises(
        ManifestError, match=r"got neither splits_new_labeled.json nor cuhk03_new_protocol_config_lab"
    ):
        read_dataset("cuhk03", tmp_path / "out", labeled=True)
    assert cuhk03_extract.main([str(tmp_path / "full"), str(tmp_path / "x")]) == 2
    assert "expected cuhk03_release/cuhk-03.mat or cuhk-03.mat in one of" in capsys.readouterr().err
    (base / "cuhk03_release" / "cuhk-03.mat").write_bytes(b"MATLAB 5.0")
    with pytest.raises(ManifestError, match=r"cannot be read as a MATLAB file of version 7\.3"):
        cuhk03_extract.extract(base, tmp_path / "x")


def test_pictures_that_are_still_inside_the_mat_file(tmp_path: Path):
    touch(tmp_path, ["cuhk03/cuhk03_release/cuhk-03.mat"])
    with pytest.raises(
        ManifestError, match=r"write them with: python -m fastreid_ops\.data\.datasets\.cuhk03_extract"
    ):
        read_dataset("cuhk03", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        ManifestError, match=r"expected images_labeled or cuhk03_release/cuhk-03\.mat or cuhk-03"
    ):
        read_dataset("cuhk03", tmp_path / "empty", labeled=True)


def test_new_split_from_its_mat_file(tmp_path: Path):
    chosen = config(tmp_path / "cuhk03" / "cuhk03_new_protocol_config_detected.mat", "detected")
    touch(tmp_path / "cuhk03" / "images_detected", names("detected"))
    manifest = read_dataset("cuhk03", tmp_path)
    every = names("detected")
    for split in ("train", "query", "gallery"):
        wanted = [f"images_detected/{every[place - 1]}" for place in chosen[f"{split}_idx"]]
        assert manifest.select(split).path == wanted
    assert manifest.problems() == []
    assert dict(zip(manifest.path, manifest.camid, strict=True))["images_detected/1_001_2_07.png"] == 1
    assert dict(zip(manifest.path, manifest.pid, strict=True))["images_detected/1_001_2_07.png"] == 10001
    with pytest.raises(ValueError, match="split: got 1, expected 0 to 0"):
        read_dataset("cuhk03", tmp_path, split=1)
    assert set(read_dataset("cuhk03", tmp_path, combineall=True).path) == set(manifest.path)
    (tmp_path / "cuhk03" / "images_detected" / "1_001_2_07.png").unlink()
    with pytest.raises(ManifestError, match=r"got no file for 1 listed names, expected 1_001_2_07\.png"):
        read_dataset("cuhk03", tmp_path)


def test_a_new_split_file_that_contradicts_the_names(tmp_path: Path):
    from scipy.io import loadmat, savemat

    file = tmp_path / "cuhk03_new_protocol_config_detected.mat"
    config(file, "detected")
    touch(tmp_path / "images_detected", names("detected"))
    good = {key: value for key, value in loadmat(file).items() if not key.startswith("__")}
    for change, words in (
        ({"labels": good["labels"] * 0}, "got labels that contradict the names"),
        ({"query_idx": good["train_idx"]}, "identities in train and in query or gallery"),
        ({"query_idx": good["query_idx"] * 0}, "an index under 1"),
        ({"query_idx": good["query_idx"] + 9999}, "expected filelist, labels"),
    ):
        savemat(file, {**good, **change})
        with pytest.raises(ManifestError, match=words):
            read_dataset("cuhk03", tmp_path)
    savemat(file, {"labels": good["labels"]})
    with pytest.raises(ManifestError, match="expected filelist, labels, train_idx"):
        read_dataset("cuhk03", tmp_path)


def test_names_that_are_not_of_cuhk03(tmp_path: Path):
    config(tmp_path / "cuhk03_new_protocol_config_detected.mat", "detected")
    touch(
        tmp_path / "images_detected",
        [*names("detected"), "1_001_1_06.png", "6_001_1_01.png", "1_001_2_11.png"],
    )
    with pytest.raises(
        ManifestError, match=r"1_001_1_06\.png, images_detected/1_001_2_11\.png, images_detected/6_001"
    ):
        read_dataset("cuhk03", tmp_path)
    found = {item.code: item for item in scan_dataset("cuhk03", tmp_path).findings()}
    assert found["unreadable_names"].count == 3


def test_a_classic_split_file(tmp_path: Path):
    touch(tmp_path / "images_detected", names("detected"))
    with pytest.raises(ManifestError, match=r"got neither splits_classic_\*.json nor cuhk-03.mat"):
        read_dataset("cuhk03", tmp_path, classic=True)
    tested = [["/x/images_detected/1_001_1_01.png", 0, 0], ["/x/images_detected/1_001_2_07.png", 0, 1]]
    split = {"train": [["/x/images_detected/1_002_1_03.png", 0, 0]], "query": tested, "gallery": tested}
    (tmp_path / "splits_classic_detected.json").write_text(json.dumps([split]))
    manifest = read_dataset("cuhk03", tmp_path, classic=True)
    assert rows(manifest) == [
        ("images_detected/1_002_1_03.png", 10002, 0, "train"),
        *((f"images_detected/{name}.png", 10001, cam, split)
          for split in ("query", "gallery") for name, cam in (("1_001_1_01", 0), ("1_001_2_07", 1))),
    ]  # fmt: skip
    assert scan_dataset("cuhk03", tmp_path, classic=True).published["train"] == {"ids": 1367}


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    touch(tmp_path, ["cuhk03_release/cuhk-03.mat", "images_detected/1_001_1_01.png",
                     "cuhk03_new_protocol_config_detected.mat"])  # fmt: skip
    monkeypatch.setitem(sys.modules, "h5py", None)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(ManifestError, match=r"needs h5py: pip install 'fastreid-ops\[matlab\]'"):
        read_dataset("cuhk03", tmp_path, classic=True)
    with pytest.raises(ManifestError, match=r"needs SciPy: pip install 'fastreid-ops\[matlab\]'"):
        read_dataset("cuhk03", tmp_path)


@pytest.mark.parametrize("layout", ["cuhk03-np", "CUHK03-NP", "cuhk03", ""])
def test_the_new_split_in_the_folders_of_market1501(tmp_path: Path, layout: str):
    base = tmp_path / layout
    boxes = ["bounding_box_train/0003_c1_21.png", "query/0001_c1_1.png", "bounding_box_test/0001_c2_6.png"]
    touch(base, [f"{kind}/{name}" for kind in ("detected", "labeled") for name in boxes])
    assert rows(read_dataset("cuhk03", tmp_path, labeled=True)) == [
        ("labeled/bounding_box_train/0003_c1_21.png", 3, 0, "train"),
        ("labeled/query/0001_c1_1.png", 1, 0, "query"),
        ("labeled/bounding_box_test/0001_c2_6.png", 1, 1, "gallery"),
    ]
    assert set(read_dataset("cuhk03", tmp_path, combineall=True).pid) == {1, 3}
    with pytest.raises(
        ManifestError, match="got the folders of the new split, expected images_detected for the cl"
    ):
        read_dataset("cuhk03", tmp_path, classic=True)
    touch(base, ["detected/query/-1_c1_1.png"])
    with pytest.raises(ManifestError, match=r"got detected/query/-1_c1_1\.png"):
        read_dataset("cuhk03", tmp_path)
    (base / "labeled" / "query").rename(base / "labeled" / "probe")
    with pytest.raises(ManifestError, match=r"\(without labeled/query\)"):
        read_dataset("cuhk03", tmp_path, labeled=True)
