# SPDX-License-Identifier: Apache-2.0
"""The packaged crops, and manifests of one's own whose files must be there."""

from __future__ import annotations

import csv
import os
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from fastreid_ops.data.datasets import csv_file, read_dataset, sample
from fastreid_ops.data.manifest import ManifestError


def test_the_sample_holds_589_crops_of_eleven_people_under_two_pseudo_cameras():
    manifest = read_dataset("sample")
    gallery, query = manifest.select("gallery"), manifest.select("query")
    assert (len(gallery), len(query), len(manifest.select("train"))) == (589, 563, 0)
    assert gallery.pids() == list(range(1, 12))
    assert query.pids() == list(range(1, 11))
    assert set(gallery.camid) == {0, 1}
    assert {camid for pid, camid in zip(gallery.pid, gallery.camid, strict=True) if pid == 11} == {0}
    assert set(query.path) <= set(gallery.path)
    assert manifest.problems() == []
    assert all(manifest.file(row).is_file() for row in range(len(manifest)))


def test_every_crop_is_one_of_the_boxes_and_has_its_size():
    manifest = read_dataset("sample").select("gallery")
    with (sample.FOLDER / "boxes.csv").open(newline="") as file:
        boxes = {(int(b["frame"]), int(b["tracklet"])): b for b in csv.DictReader(file)}
    assert len(boxes) == 2227
    for row in range(len(manifest)):
        box = boxes[(manifest.frame[row], manifest.tracklet[row])]
        assert (int(box["pid"]), int(box["zone"]) - 1) == (manifest.pid[row], manifest.camid[row])
        with Image.open(manifest.file(row)) as image:
            assert abs(image.size[0] - int(box["w"])) <= 8
            assert abs(image.size[1] - int(box["h"])) <= 8


def test_the_sample_is_always_described_alike():
    words = "one camera with two pseudo-cameras (left and right of a lamp post) and eleven people"
    assert words == sample.DESCRIPTION
    assert words in (sample.FOLDER / "README.md").read_text()
    notice = (sample.FOLDER / "NOTICE").read_text()
    for part in ("vtest.avi", "OpenCV", "PETS 2009", "University of Reading", "Apache-2.0 AND BSD-3-Clause"):
        assert part in notice


def test_a_sample_folder_that_is_not_whole_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ManifestError, match="expected a folder with crops"):
        sample.read(tmp_path)
    (tmp_path / "crops").mkdir()
    (tmp_path / "crops" / "0001_c1s1_000221_23.jpg").write_bytes(b"x")
    assert len(sample.read(tmp_path)) == 1
    monkeypatch.setattr(sample, "FOLDER", tmp_path)
    with pytest.raises(ManifestError, match="got 1 crops, expected 589; the installation is incomplete"):
        sample.read()
    (tmp_path / "crops" / "photo.jpg").write_bytes(b"x")
    with pytest.raises(ManifestError, match=r"photo\.jpg: got an unknown name"):
        sample.read(tmp_path)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    for name in ("a.jpg", "sub/B.JPG", "c d.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def write(folder: Path, *rows: str) -> Path:
    file = folder / "own.csv"
    file.write_text(
        "\n".join(["path,pid,camid,split", *rows]) + "\n", encoding="utf-8", errors="surrogateescape"
    )
    return file


def test_own_data_is_read_from_where_its_files_are(own: Path, monkeypatch: pytest.MonkeyPatch):
    file = write(own, "a.jpg,1,0,train", "sub/B.JPG,1,1,train", f"{own / 'c d.jpg'},2,0,query")
    for manifest in (read_dataset(str(file)), read_dataset("csv", file), csv_file.read(file)):
        assert manifest.root == own
        assert [path.name for path in map(manifest.file, range(3))] == ["a.jpg", "B.JPG", "c d.jpg"]
    (own / "lists").mkdir()
    moved = write(own / "lists", "a.jpg,1,0,train")
    assert csv_file.read(moved, own).file(0) == own / "a.jpg"
    assert read_dataset(str(moved), own).file(0) == own / "a.jpg"
    monkeypatch.chdir(own)
    assert read_dataset("own.csv").file(0).is_file()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("none.jpg", "expected a file at "),
        ("sub", "a folder, expected an image file"),
        ("A.jpg", "'a.jpg' with other capitals does"),
        ("sub/b.jpg", "'B.JPG' with other capitals does"),
        ("sub\\B.JPG", "expected forward slashes: 'sub/B.JPG' is there"),
        ("a.jpg/x.jpg", "expected a file at "),
        ("dangling.jpg", "a broken link, a pipe or a device"),
        ("pipe.jpg", "a broken link, a pipe or a device"),
    ],
)
def test_missing_files_are_named_with_their_line(own: Path, path: str, message: str):
    (own / "dangling.jpg").symlink_to(own / "nowhere.jpg")
    os.mkfifo(own / "pipe.jpg")
    file = write(own, "a.jpg,1,0,train", f"{path},1,1,train")
    with pytest.raises(ManifestError) as caught:
        csv_file.read(file)
    assert str(caught.value).startswith(f"{file}:3: path: got {path!r}")
    assert message in str(caught.value)


def test_many_missing_files_are_counted(own: Path):
    file = write(own, *(f"{n}.jpg,1,0,train" for n in range(40)))
    with pytest.raises(
        ManifestError, match=f"40 of 40 files are missing; relative paths start from {own}"
    ) as caught:
        csv_file.read(file)
    assert len(caught.value.problems) == 6
    with pytest.raises(ManifestError, match="root: got 'nowhere', which is no folder"):
        csv_file.read(file, "nowhere")
    with pytest.raises(ValueError, match="options: got 'sep', expected options of csv: none"):
        read_dataset(str(file), sep=";")


def test_the_crops_are_spread_as_described():
    gallery = read_dataset("sample").select("gallery")
    assert min(Counter(gallery.pid).values()) > 10
