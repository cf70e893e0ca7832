# SPDX-License-Identifier: Apache-2.0
"""NAIC's lists beside a recording of the original's loader, and the traps of its rounds."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from fastreid_ops.data.checks import label_findings
from fastreid_ops.data.columns import modality_codes
from fastreid_ops.data.datasets import naic, read_dataset, scan_dataset
from fastreid_ops.data.datasets.naic.lists import split_line
from fastreid_ops.data.manifest import Manifest, ManifestError

FIXTURE = Path(__file__).parents[2] / "golden/naic_and_cloth_changing/naic_dataset_fixture.json"
RECORDED = json.loads(FIXTURE.read_text())
# Folder of each list of the recording -> folder of its pictures.
PLACES = {
    "train_2020_cs": "train_2020_cs/images",
    "train_2020_fs": "train_2020_fs/images",
    "train_2019_cs": "train_2019_cs",
    "train_2019_fs": "train_2019_fs",
    "unlabel": "unlabel/images",
}


def plant(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def build(root: Path, changes: dict[str, str | None] | None = None, ends: str = "\n") -> Path:
    """The recording's lists with a picture for each line, every one of other bytes."""
    for name, text in {**RECORDED["files"], **(changes or {})}.items():
        if text is None:
            continue
        plant(root, {name: text.replace("\n", ends)})
        folder, _, list_name = name.partition("/")
        for line in text.split():
            picture = line.split(":")[0]
            if folder in PLACES and "." in picture:
                plant(root, {f"{PLACES[folder]}/{picture}": f"{folder} {picture}"})
            elif folder not in PLACES:
                plant(root, {f"{folder}/{list_name.split('_')[0]}/{line}": line})
    return root


def triples(manifest: Manifest, split: str = "train") -> list[list]:
    """Rows as the original gives them: its path, class number, camera from 1."""
    part = manifest.select(split)
    if split == "train":
        labels = part.labels(part.label_map())
    else:
        assert set(part.pid) == {"unknown"}
        labels = [1] * len(part)
    return [
        [f"MyDataSet/{path}", label, camid + 1]
        for path, label, camid in zip(part.path, labels, part.camid, strict=True)
    ]


@pytest.mark.parametrize(("layout", "ends"), [("MyDataSet", "\n"), ("naic", "\r\n"), ("", "\n")])
def test_the_recording_of_the_original(tmp_path: Path, layout: str, ends: str):
    root = build(tmp_path / layout, ends=ends)
    manifest = read_dataset("naic", tmp_path)
    assert manifest.root == root
    assert triples(manifest) == RECORDED["train_unlabel0"]
    assert len(manifest.select("train").pids()) == RECORDED["num_pids_unlabel0"]
    for half in ("green", "normal"):
        part = read_dataset("naic", tmp_path, half=half)
        assert part.modality is None
        for split in ("query", "gallery"):
            assert triples(part, split) == RECORDED[f"{split}_{half}"]
            both = manifest.select(split)
            marked = both.take(row for row, kind in enumerate(both.modality) if kind == half)
            assert triples(marked, split) == RECORDED[f"{split}_{half}"]
    assert set(manifest.select("train").modality) == {"unsorted"}
    # Halves are for the protocol: to loaders and models these are no two modalities.
    assert modality_codes(manifest) is modality_codes(manifest.select("query")) is None


def test_the_last_line_without_a_line_end_is_of_the_same_identity(tmp_path: Path):
    """The original keeps the line end in its labels, so that e3 and e4 are two people of one picture each there."""
    manifest = read_dataset("naic", build(tmp_path), unlabelled=True)
    ours = triples(manifest)
    assert ours[: len(RECORDED["train_unlabel1"])] == RECORDED["train_unlabel1"]
    assert [row[0] for row in ours[len(RECORDED["train_unlabel1"]) :]] == [
        f"MyDataSet/unlabel/images/{name}.png" for name in ("e3", "e4")
    ]
    assert RECORDED["num_pids_unlabel1"] == 8
    assert len(manifest.select("train").pids()) == 9
    # Test identities are unknown and all under one camera: no protocol with figures fits, and the check says so.
    assert {item.code for item in label_findings(manifest)} == {"one_camera", "single_camera_ids"}


def test_identities_are_kept_apart_by_round_and_need_two_pictures(tmp_path: Path):
    root = build(tmp_path)
    manifest = read_dataset("naic", root).select("train")
    assert manifest.pids() == [
        "train_2019_cs_3", "train_2019_fs_3", "train_2019_fs_6", "train_2020_cs_7", "train_2020_cs_9",
        "train_2020_fs_20", "train_2020_fs_7",
    ]  # fmt: skip
    assert min(Counter(manifest.pid).values()) == 2
    found = {item.code: item for item in scan_dataset("naic", root).findings()}
    assert found["single_pictures"].examples == ("train_2020_cs_10", "train_2020_fs_100", "train_2019_cs_4")
    assert found["mislabelled"].count == 3
    assert not any("105180993" in path for path in manifest.path)
    some = read_dataset("naic", root, sources=["2019_final", "2020_final"])
    assert list(dict.fromkeys(some.select("train").pid)) == [
        "train_2019_fs_3", "train_2019_fs_6", "train_2020_fs_7", "train_2020_fs_20"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "pair"),
    [
        ("a.png:7", ("a.png", "7")), ("a.png 7", ("a.png", "7")), ("a.png,7", ("a.png", "7")),
        ("a.png\t7", ("a.png", "7")), ("a.png  7", ("a.png", "7")), ("a.png : 7", ("a.png", "7")),
        ("a.png: 7", ("a.png", "7")), ("a.png :7", ("a.png", "7")), ("a.png, 7", ("a.png", "7")),
        ("train/c d.png 7", ("train/c d.png", "7")), ("C:/x/a.png:7", ("C:/x/a.png", "7")),
        ("C:/x/a.png 7", ("C:/x/a.png", "7")), ("a b.png:7", ("a b.png", "7")), ("a.png", None), (":7", None),
        ("a.png:", None), ("7", None),
    ],
)  # fmt: skip
def test_every_separator(line: str, pair: tuple[str, str] | None):
    assert split_line(line) == pair


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("b1.png:7\nb1.png:8\n", r"train_list\.txt:2: got 'b1\.png' again"),
        (
            "b1.png:7\n\nname,label\n",
            r"train_list\.txt:3: got 'name,label', expected a file name, a colon or space",
        ),
        ("b1.png\n", ":1: got 'b1.png', expected a file name"),
        ("b1.png:-1\n", ":1: got 'b1.png:-1', expected"),
        ("\n", "got an empty list"),
        ("b1.png:7\nb2.png:7\nB1.png:7\n", r"1 listed names, expected train_2020_fs/images/B1\.png"),
    ],
)
def test_damaged_lists_are_refused(tmp_path: Path, text: str, message: str):
    root = build(tmp_path)
    (root / "train_2020_fs/train_list.txt").write_text(text)
    with pytest.raises(ManifestError, match=message):
        read_dataset("naic", root)


def test_missing_rounds_and_lists(tmp_path: Path):
    root = build(tmp_path / "MyDataSet")
    (root / "train_2019_cs/new_2019_cs_train_list.txt").unlink()
    with pytest.raises(ManifestError, match="got none of new_2019_cs_train_list"):
        read_dataset("naic", tmp_path)
    (root / "train_2019_cs").rename(tmp_path / "elsewhere")
    assert "train_2019_cs_3" not in read_dataset("naic", tmp_path).pid
    with pytest.raises(ManifestError, match="without train_2019_cs"):
        read_dataset("naic", tmp_path, sources=["2019_preliminary"])
    for options, message in (
        ({"sources": ["2021"]}, "naic: sources: got '2021', expected '2020_preliminary'"),
        ({"duplicates": True}, "naic: duplicates: got True, expected 'listed', 'sha256', 'keep'"),
        ({"half": "Green"}, "naic: half: got 'Green', expected 'both', 'green', 'normal'"),
    ):
        with pytest.raises(ValueError, match=message):
            read_dataset("naic", tmp_path, **options)
    with pytest.raises(ManifestError, match="expected train_2020_cs or train_2020_fs or"):
        read_dataset("naic", tmp_path / "elsewhere/train")


RAW = "a1.png:7\na2.png:7\ndouble1.png:5\ndouble2.png:5\na5.png:9\na6.png:9\n"


def test_duplicates_by_list(tmp_path: Path):
    changes = {"train_2020_cs/new_train_list.txt": None, "train_2020_cs/train_list.txt": RAW}
    root = build(tmp_path, changes)
    assert "train_2020_cs_5" in read_dataset("naic", root).pid
    found = {item.code: item for item in scan_dataset("naic", root).findings()}
    assert "train_2020_cs: train_list.txt is taken, from which duplicates" in found["duplicates_kept"].text
    plant(root, {"cs_2020equal_path.txt": "old/place/double1.png\r\nold\\place\\double2.png\r\n"})
    assert "train_2020_cs_5" not in read_dataset("naic", root).pid
    assert "train_2020_cs_5" in read_dataset("naic", root, duplicates="keep").pid
    found = {item.code: item for item in scan_dataset("naic", root).findings()}
    assert (
        found["duplicates"].text
        == "2 pictures are left out, named by cs_2020equal_path.txt (published: 33814)"
    )
    assert "duplicates_kept" not in found
    # The list without duplicates wins where it is there, unless all are asked for.
    plant(root, {"train_2020_cs/new_train_list.txt": "a1.png:7\na2.png:7\n"})
    assert "train_2020_cs_9" not in read_dataset("naic", root).pid
    assert "train_2020_cs_9" in read_dataset("naic", root, duplicates="keep").pid


def test_duplicates_by_content_keep_the_later_round(tmp_path: Path):
    changes = {"train_2020_cs/new_train_list.txt": None, "train_2020_cs/train_list.txt": RAW}
    root = build(tmp_path, changes)
    plant(root, {
        # Equal to a picture of the final round of the same year, of another name and label; one of its own round.
        "train_2020_cs/images/a1.png": (root / "train_2020_fs/images/b2.png").read_bytes(),
        "train_2020_cs/images/double1.png": (root / "train_2020_cs/images/a6.png").read_bytes(),
        "train_2019_cs/train/c1.png": (root / "train_2019_fs/train/d1.png").read_bytes(),
        "train_2019_fs/train/d3.png": (root / "train_2020_cs/images/a5.png").read_bytes(),
    })  # fmt: skip
    manifest = read_dataset("naic", root, duplicates="sha256").select("train")
    # a1, c1, d3 and, of two in one round, the second are gone; what is left alone of an identity goes with them.
    assert [path.rpartition("/")[2] for path in manifest.path] == [
        "double1.png", "double2.png", "b1.png", "b2.png", "b4.png", "b5.png", "d1.png", "d2.png"
    ]  # fmt: skip
    found = {item.code: item for item in scan_dataset("naic", root, duplicates="sha256").findings()}
    assert found["duplicates"].count == 4
    assert set(found["duplicates"].examples) == {
        "train_2020_cs/images/a1.png", "train_2020_cs/images/a6.png", "train_2019_cs/train/c1.png",
        "train_2019_fs/train/d3.png",
    }  # fmt: skip


def test_equal_files_beside_comparing_every_pair(tmp_path: Path):
    draw = random.Random(1)
    paths = [f"{number % 3}/{number}.png" for number in range(120)]
    plant(tmp_path, {path: bytes(draw.choices(b"ab", k=draw.choice((0, 1, 3, 3, 4)))) for path in paths})
    content = [(tmp_path / path).read_bytes() for path in paths]
    slow = [
        path for place, path in enumerate(paths) if any(content[place] == content[k] for k in range(place))
    ]
    assert 10 < len(slow) < 110
    for threads in (1, 4, None):
        assert naic.equal_files(tmp_path, paths, threads=threads) == slow
    assert naic.equal_files(tmp_path, []) == []
    with pytest.raises(FileNotFoundError):
        naic.equal_files(tmp_path, ["gone.png"])


@pytest.mark.parametrize("place", ["train/images", "train", "."])
def test_copies_of_one_round_only(tmp_path: Path, place: str):
    names = ["train/105180993.png", "x1.png", "x2.png", "x3.png", "x4.png"]
    text = "".join(f"{name}\t{label}\n" for name, label in zip(names, (4, 10, 10, 9, 9), strict=True))
    plant(tmp_path, {"train/train_list.txt": text})
    plant(tmp_path, {f"{place}/{name}": name for name in names})
    plant(
        tmp_path, {f"test/{side}_a/{side}{kind}.png": side for side in ("query", "gallery") for kind in "gn"}
    )
    plant(tmp_path, {f"test/{side}_a_{kind}.txt": f"12 {side}{kind[0]}.png\n"
                     for side in ("query", "gallery") for kind in ("green", "normal")})  # fmt: skip
    if place != "train/images":
        # The first name decides where pictures lie, so that it must be one that is used.
        (tmp_path / place / "x1.png").touch()
    manifest = read_dataset("naic", tmp_path)
    assert manifest.select("train").pids() == ["train_10", "train_9"]
    assert all(manifest.file(row).is_file() for row in range(len(manifest)))
    assert read_dataset("naic", tmp_path, test="test:_a", half="green").select("query").path == [
        "test/query_a/queryg.png"
    ]
    with pytest.raises(ManifestError, match=r"test: got 'test:_b', expected a folder test/query_b"):
        read_dataset("naic", tmp_path, test="test:_b")


def test_without_a_test_set_there_are_training_rows_only(tmp_path: Path):
    root = build(tmp_path, {name: None for name in RECORDED["files"] if name.startswith("image_B")})
    manifest = read_dataset("naic", root)
    assert set(manifest.split) == {"train"}
    assert manifest.modality is None
    assert label_findings(manifest)[0].code == "no_test"
    assert "no_test_set" in {item.code for item in scan_dataset("naic", root).findings()}


def test_halves_sort_pictures_by_their_mean_colour(tmp_path: Path):
    colours = {"b.png": (66, 200, 66), "a.png": (66, 66, 66), "c.png": (65, 200, 200), "d.jpg": (255, 255, 0)}
    for name, colour in colours.items():
        Image.new("RGB", (8, 16), colour).save(tmp_path / name)
    (tmp_path / "notes.txt").touch()
    # One bright row lifts every mean from 65 to just above it.
    mixed = Image.new("RGB", (8, 16), (65, 65, 65))
    mixed.putpixel((0, 0), (255, 255, 255))
    mixed.save(tmp_path / "e.png")
    assert naic.halves(tmp_path) == {"green": ["a.png", "b.png", "e.png"], "normal": ["c.png", "d.jpg"]}


def test_lists_of_the_halves(tmp_path: Path):
    root = build(tmp_path / "data")
    (root / "image_B_v1_1/query_normal.txt").rename(tmp_path / "query_normal.txt")
    with pytest.raises(
        ManifestError, match=r"query_normal\.txt: got no such file, .*naic\.halves sorts a folder"
    ):
        read_dataset("naic", root)
    assert len(read_dataset("naic", root, half="green").select("query")) == 2
    with pytest.raises(ManifestError, match=r"gallery_normal\.txt: got no such file"):
        read_dataset("naic", root, half="normal", lists=tmp_path)
    for text, message in (("q3.png\nq3.png\n", "got 1 names twice"), ("\n", "got an empty list"),
                          ("q9.png\n", r"expected image_B_v1_1/query/q9\.png")):  # fmt: skip
        (root / "image_B_v1_1/query_normal.txt").write_text(text)
        with pytest.raises(ManifestError, match=message):
            read_dataset("naic", root)
