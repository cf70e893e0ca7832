# SPDX-License-Identifier: Apache-2.0
"""Every check finds what it is for and stays silent on clean data."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastreid_ops.data.checks import Finding, counts, label_findings
from fastreid_ops.data.file_checks import file_findings
from fastreid_ops.data.manifest import Manifest

CLEAN = [
    ("a.png", 1, 0, "train"),
    ("b.png", 1, 1, "train"),
    ("c.png", 2, 0, "train"),
    ("d.png", 2, 1, "train"),
    ("e.png", 3, 0, "query"),
    ("f.png", 3, 1, "gallery"),
    ("g.png", 4, 0, "gallery"),
]


def manifest(rows: list[tuple], root: Path = Path("data")) -> Manifest:
    path, pid, camid, split = map(list, zip(*rows, strict=True)) if rows else ([], [], [], [])
    return Manifest(root=root, path=path, pid=pid, camid=camid, split=split)


def by_code(findings: list[Finding]) -> dict[str, Finding]:
    assert all(finding.level in ("problem", "note") and finding.text for finding in findings)
    return {finding.code: finding for finding in findings}


def test_clean_labels_have_no_findings_and_are_counted():
    assert label_findings(manifest(CLEAN)) == []
    assert manifest(CLEAN).problems() == []
    assert counts(manifest(CLEAN)) == {
        "train": {"images": 4, "ids": 2, "cameras": 2},
        "query": {"images": 1, "ids": 1, "cameras": 1},
        "gallery": {"images": 2, "ids": 2, "cameras": 2},
    }


TRAIN, TEST = CLEAN[:4], CLEAN[4:]


@pytest.mark.parametrize(
    ("rows", "code", "level", "count", "words"),
    [
        ([], "empty", "problem", 0, "nothing to train on"),
        (TEST, "no_train", "note", 0, "can be evaluated, not trained on"),
        (TRAIN, "no_test", "note", 0, "can be trained on, not evaluated"),
        ([*TRAIN, CLEAN[4]], "no_gallery", "problem", 0, "nothing can be evaluated"),
        ([*TRAIN, CLEAN[5]], "no_query", "problem", 0, "nothing can be evaluated"),
        (CLEAN[:2], "one_train_id", "problem", 1, "nobody to tell it from"),
        ([*CLEAN, ("x.png", 5, 0, "train")], "single_image_ids", "problem", 1, "no positive pair"),
        ([*CLEAN, ("./a.png", 1, 0, "train")], "repeated_path", "problem", 1, "more than once in one split"),
        ([*CLEAN, ("a.png", 1, 0, "gallery")], "train_file_in_test", "problem", 1, "both in train and"),
        ([*CLEAN, ("a.png", 1, 0, "gallery")], "ids_in_train_and_test", "problem", 1, "identities are in train and"),
        ([*CLEAN, ("e.png", 4, 0, "gallery")], "two_labels", "problem", 1, "two different identities or cameras"),
        ([*CLEAN, ("e.png", 3, 0, "gallery")], "query_in_gallery", "note", 1, "finds itself first"),
        ([*CLEAN, ("x.png", "003", 0, "gallery")], "lookalike_ids", "problem", 1, "leading zeros or capitals"),
        ([*CLEAN, ("x.png", "Bo", 0, "gallery"), ("y.png", "bo", 0, "gallery")], "lookalike_ids", "problem", 1, "cap"),
        ([*CLEAN, ("x.png", 9, 0, "query")], "query_without_id_in_gallery", "problem", 1, "of 2 queries"),
        ([*CLEAN, ("x.png", 4, 0, "query")], "query_under_same_camera_only", "problem", 1, "protocol no_camera keeps"),
        ([*CLEAN, ("x.png", 6, 0, "train"), ("y.png", 6, 0, "train")], "single_camera_ids", "note", 1, "by one camera"),
    ],
)  # fmt: skip
def test_each_label_finding(rows: list[tuple], code: str, level: str, count: int, words: str):
    found = by_code(label_findings(manifest(rows)))
    assert code in found
    assert (found[code].level, found[code].count) == (level, count)
    assert words in found[code].text
    assert (found[code].text in manifest(rows).problems()) == (level == "problem")


def test_one_camera_names_the_protocol_and_is_said_once():
    rows = [("e.png", 3, 5, "query"), ("f.png", 3, 5, "gallery"), ("g.png", 4, 5, "gallery")]
    found = by_code(label_findings(manifest([*TRAIN, *rows])))
    assert set(found) == {"one_camera"}
    assert "(camid 5)" in found["one_camera"].text
    assert "all 1 queries; evaluate with protocol no_camera" in found["one_camera"].text


def test_many_examples_are_counted_and_few_shown():
    rows = [*CLEAN, *((f"{n}.png", 100 + n, 0, "query") for n in range(30))]
    finding = by_code(label_findings(manifest(rows)))["query_without_id_in_gallery"]
    assert finding.count == 30
    assert len(finding.examples) == 5


@pytest.fixture
def files(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, _, _, _ in CLEAN:
        Image.fromarray(rng.integers(0, 256, (32, 16, 3), dtype=np.uint8)).save(tmp_path / name)
    return tmp_path


def test_clean_files_have_no_findings(files: Path):
    assert file_findings(manifest(CLEAN, files)) == []
    assert file_findings(manifest(CLEAN, files), verify=True, threads=1) == []


def test_files_are_looked_at_in_blocks(files: Path, monkeypatch: pytest.MonkeyPatch):
    (files / "e.png").unlink()
    whole = file_findings(manifest(CLEAN, files))
    monkeypatch.setattr("fastreid_ops.data.file_checks.BLOCK", 2)
    assert file_findings(manifest(CLEAN, files)) == whole
    assert [item.code for item in whole] == ["bad_file"]


def test_files_that_cannot_be_used_are_found_without_decoding(files: Path):
    (files / "a.png").unlink()
    (files / "b.png").write_bytes(b"")
    (files / "c.png").unlink()
    (files / "c.png").mkdir()
    finding = by_code(file_findings(manifest(CLEAN, files)))["bad_file"]
    assert (finding.level, finding.count) == ("problem", 3)
    assert finding.examples == (
        f"{files / 'a.png'}: cannot be opened: No such file or directory",
        f"{files / 'b.png'}: empty: 0 bytes",
        f"{files / 'c.png'}: a folder, no file",
    )


def test_verify_finds_truncated_flat_and_oddly_sized_images(files: Path):
    (files / "a.png").write_bytes((files / "a.png").read_bytes()[:-400])
    Image.new("RGB", (16, 32), (0, 0, 0)).save(files / "b.png")
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (90, 9, 3), dtype=np.uint8)).save(
        files / "c.png"
    )
    Image.fromarray(np.random.default_rng(2).integers(0, 256, (7, 7, 3), dtype=np.uint8)).save(
        files / "d.png"
    )
    assert file_findings(manifest(CLEAN, files)) == []
    found = by_code(file_findings(manifest(CLEAN, files), verify=True))
    assert {code: (finding.level, finding.count) for code, finding in found.items()} == {
        "bad_file": ("problem", 1),
        "flat_image": ("problem", 1),
        "odd_size": ("note", 2),
    }
    assert "9 x 90 pixels" in found["odd_size"].examples[0]


def test_a_wrong_extension_is_found_by_content(files: Path):
    Image.open(files / "a.png").convert("RGB").save(files / "x.jpg", "JPEG")
    rows = [("x.jpg", 1, 0, "train"), ("y.jpg", 1, 1, "train"), ("z.png", 2, 0, "train"), *CLEAN[2:]]
    shutil.copy(files / "a.png", files / "y.jpg")
    shutil.copy(files / "x.jpg", files / "z.png")
    finding = by_code(file_findings(manifest(rows, files)))["wrong_extension"]
    assert finding.count == 2
    assert "y.jpg: holds what is usually called *.png" in finding.examples[0]
    assert "z.png: holds what is usually called *.jpg" in finding.examples[1]


@pytest.mark.parametrize(
    ("copied", "onto", "code", "level"),
    [
        ("a.png", "b.png", "same_content", "note"),
        ("a.png", "c.png", "same_content_two_ids", "problem"),
        ("f.png", "g.png", "same_content_two_ids", "problem"),
        ("a.png", "h.png", "same_content_train_test", "problem"),
    ],
)
def test_one_picture_stored_twice(files: Path, copied: str, onto: str, code: str, level: str):
    rows = [*CLEAN, ("h.png", 1, 0, "gallery")]
    Image.new("L", (16, 32), 9).save(files / "h.png")
    shutil.copy(files / copied, files / onto)
    found = by_code(file_findings(manifest(rows, files)))
    assert set(found) == {code}
    assert (found[code].level, found[code].count) == (level, 1)


def test_one_file_in_two_splits_is_no_duplicate_content(files: Path):
    assert file_findings(manifest([*CLEAN, ("e.png", 3, 0, "gallery")], files)) == []
