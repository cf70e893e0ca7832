# SPDX-License-Identifier: Apache-2.0
"""PRCC, LTCC, VC-Clothes and DeepChange on miniature trees with the traps of the real ones, beside a second reading of
the published rules: names cut at their signs, no patterns."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from fastreid_ops.data.checks import label_findings
from fastreid_ops.data.datasets import deepchange, ltcc, prcc, read_dataset, scan_dataset, vcclothes
from fastreid_ops.data.manifest import Manifest, ManifestError


def plant(root: Path, names) -> Path:
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return root


def rows(manifest: Manifest, split: str) -> list[tuple]:
    part = manifest.select(split)
    return list(zip(part.path, part.pid, part.camid, part.clothes, strict=True))


def same_groups(ours: list[tuple], theirs: list[tuple]) -> None:
    """Equal paths, identities and cameras in order; clothes equal up to their names."""
    assert [row[:3] for row in ours] == [row[:3] for row in theirs]
    pairs = {(mine[3], their[3]) for mine, their in zip(ours, theirs, strict=True)}
    assert len(pairs) == len({pair[0] for pair in pairs}) == len({pair[1] for pair in pairs})


PRCC = [
    "train/001/A_cropped_rgb001.jpg", "train/001/B_cropped_rgb010.jpg", "train/001/C_cropped_rgb002.jpg",
    "train/012/A_cropped_rgb001.jpg", "train/012/C_cropped_rgb100.jpg",
    "val/001/A_cropped_rgb003.jpg", "val/012/C_cropped_rgb007.jpg",
    "test/A/005/cropped_rgb001.jpg", "test/B/005/cropped_rgb001.jpg", "test/C/005/cropped_rgb001.jpg",
    "test/A/113/cropped_rgb001.jpg", "test/C/113/cropped_rgb001.jpg",
]  # fmt: skip
PRCC_STRAYS = [
    "train/001/Thumbs.db",
    "train/.DS_Store",
    "test/A/005/cropped_rgb001.png",
    "test/A/005/._cropped_rgb001.jpg",
]


@pytest.mark.parametrize("layout", ["prcc/rgb", "PRCC/rgb", "prcc", "rgb", ""])
@pytest.mark.parametrize("validation", [False, True])
def test_prcc_beside_a_second_reading(tmp_path: Path, layout: str, validation: bool):
    root = plant(tmp_path / layout, PRCC + PRCC_STRAYS)
    manifest = read_dataset("prcc", tmp_path, validation=validation)
    assert manifest.root == root
    expected = {"train": [], "query": [], "gallery": []}
    for path in PRCC:
        parts = path.split("/")
        if parts[0] == "test":
            camera, person = parts[1], parts[2]
            clothes = 2 * int(person) + (camera == "C")
            expected["gallery" if camera == "A" else "query"].append(
                (path, int(person), "ABC".index(camera), clothes)
            )
        elif parts[0] == "train" or validation:
            camera, person = parts[2][0], parts[1]
            expected["train"].append((path, int(person), "ABC".index(camera), person + "C" * (camera == "C")))
    for split, theirs in expected.items():
        same_groups(rows(manifest, split), theirs)
    assert set(scan_dataset("prcc", tmp_path).passed) == set(PRCC_STRAYS)
    assert label_findings(manifest) == []


def test_prcc_refuses(tmp_path: Path):
    root = plant(tmp_path / "prcc/rgb", PRCC)
    plant(root, ["val/077/A_cropped_rgb001.jpg"])
    read_dataset("prcc", tmp_path)
    with pytest.raises(ManifestError, match="val: got identity 77, expected those of train only"):
        read_dataset("prcc", tmp_path, validation=True)
    plant(root, ["train/001/D_cropped_rgb001.jpg", "train/extra/A_cropped_rgb001.jpg"])
    with pytest.raises(
        ManifestError, match=r"got train/001/D_cropped_rgb001\.jpg, train/extra/A_cropped_rgb001\.jpg"
    ):
        read_dataset("prcc", tmp_path)
    (root / "test/B").rename(root / "test/b")
    with pytest.raises(ManifestError, match=r"without test/B.*b is B in other capitals"):
        read_dataset("prcc", tmp_path)


def test_prcc_published_counts():
    numbers = prcc.PUBLISHED
    assert (numbers["train"]["images"], numbers["query"]["images"], numbers["gallery"]["images"]) == (
        17896,
        7416,
        3384,
    )
    # The whole set has 33,698 pictures of 221 people.
    assert sum(part["images"] for part in prcc.PUBLISHED_WITH_VALIDATION.values()) == 33698
    assert numbers["train"]["ids"] + numbers["gallery"]["ids"] == 221


LTCC = {
    "train": ["094_1_c9_015833.png", "094_2_c10_015833.png", "001_1_c12_000001.png", "001_1_c1_000001.png"],
    "query": ["002_1_c1_000001.png", "011_1_c3_000005.png"],
    "test": ["002_1_c2_000001.png", "002_3_c1_000002.png", "011_1_c5_000005.png"],
}
LTCC_INFO = {"cloth-change_id_train": "94\r\n", "cloth-change_id_test": "2\n", "cloth-unchange_id_train": "001",
             "cloth-unchange_id_test": "011\n\n"}  # fmt: skip


def build_ltcc(root: Path, gallery: str = "test", extra: list[str] = ()) -> Path:
    plant(
        root,
        [
            f"{gallery if folder == 'test' else folder}/{name}"
            for folder, names in LTCC.items()
            for name in names
        ],
    )
    plant(root, ["query/001.txt", "info/readme.txt", *extra])
    for name, text in LTCC_INFO.items():
        (root / f"info/{name}.txt").write_bytes(text.encode())
    return root


def cut_ltcc(folder: str, name: str) -> tuple:
    pid, clothes, camera, _ = name.split("_")
    return f"{folder}/{name}", int(pid), int(camera[1:]) - 1, f"{pid}_{clothes}"


@pytest.mark.parametrize(
    ("layout", "gallery"),
    [("LTCC_ReID", "test"), ("LTCC_ReID/rgb", "gallery"), ("ltcc", "gallery"), ("", "test")],
)
def test_ltcc_beside_a_second_reading(tmp_path: Path, layout: str, gallery: str):
    build_ltcc(tmp_path / layout, gallery)
    manifest = read_dataset("ltcc", tmp_path)
    for split, folder in (("train", "train"), ("query", "query"), ("gallery", "test")):
        home = gallery if folder == "test" else folder
        same_groups(rows(manifest, split), [cut_ltcc(home, name) for name in sorted(LTCC[folder])])
    assert scan_dataset("ltcc", tmp_path).passed == ["query/001.txt"]
    some = {kind: read_dataset("ltcc", tmp_path, identities=kind) for kind in ("changing", "constant")}
    assert [set(some["changing"].select(split).pid) for split in ("train", "query", "gallery")] == [
        {94},
        {2},
        {2},
    ]
    assert [set(some["constant"].select(split).pid) for split in ("train", "query", "gallery")] == [
        {1},
        {11},
        {11},
    ]
    assert len(some["changing"]) + len(some["constant"]) == len(manifest)


@pytest.mark.parametrize(
    "name", ["094_1_c13_015833.png", "094_1_c0_015833.png", "094_c9_1.png", "094_1_C9_1.png", "x.png"]
)
def test_ltcc_refuses_names(tmp_path: Path, name: str):
    with pytest.raises(ManifestError, match=r"expected .* files named like 094_1_c9_015833") as caught:
        read_dataset("ltcc", build_ltcc(tmp_path, extra=[f"query/{name}"]))
    assert f"query/{name}" in str(caught.value)


def test_ltcc_lists_must_fit(tmp_path: Path):
    root = build_ltcc(tmp_path)
    with pytest.raises(
        ValueError, match="ltcc: identities: got 'change', expected 'all', 'changing', 'constant'"
    ):
        read_dataset("ltcc", root, identities="change")
    (root / "info/cloth-change_id_test.txt").write_text("2\n50\n")
    with pytest.raises(ManifestError, match="info: got 50, expected identities with images"):
        read_dataset("ltcc", root, identities="changing")
    (root / "info/cloth-change_id_test.txt").unlink()
    with pytest.raises(ManifestError, match=r"without info/cloth-change_id_test\.txt"):
        read_dataset("ltcc", root, identities="changing")
    assert len(read_dataset("ltcc", root)) == 9
    assert sum(part["images"] for part in ltcc.PUBLISHED.values()) == 17119


VC = {
    "train": ["0001-01-01-01.jpg", "0001-02-02-01.jpg", "0004-4-03-10.jpg"],
    "query": ["0002-02-01-01.jpg", "0300-04-05-02.jpg"],
    "gallery": ["0002-03-01-07.jpg", "0300-03-01-02.jpg", "0300-04-05-09.jpg"],
}


@pytest.mark.parametrize("layout", ["VC-Clothes", "vcclothes", ""])
def test_vcclothes_beside_a_second_reading(tmp_path: Path, layout: str):
    plant(tmp_path / layout, [f"{folder}/{name}" for folder, names in VC.items() for name in names])
    plant(tmp_path / layout, ["gallery/0002-03-01-08.JPG"])
    manifest = read_dataset("vcclothes", tmp_path)
    for split, names in VC.items():
        cut = [(f"{split}/{name}", *name.split("-")[:3]) for name in names]
        same_groups(
            rows(manifest, split), [(path, int(pid), int(cam) - 1, pid + clo) for path, pid, cam, clo in cut]
        )
    assert scan_dataset("vcclothes", tmp_path).passed == ["gallery/0002-03-01-08.JPG"]
    # What the protocols of cameras 2 and 3, or 3 and 4, pick.
    assert [path for path, _, camid, _ in rows(manifest, "gallery") if camid in (1, 2)] == [
        "gallery/0002-03-01-07.jpg", "gallery/0300-03-01-02.jpg"
    ]  # fmt: skip
    assert sum(part["images"] for part in vcclothes.PUBLISHED.values()) == 19060


@pytest.mark.parametrize(
    "name", ["0001-05-01-01.jpg", "0001-00-01-01.jpg", "0001_01_01_01.jpg", "0001-01-01.jpg"]
)
def test_vcclothes_refuses_names(tmp_path: Path, name: str):
    plant(tmp_path, [f"{folder}/{one}" for folder, names in VC.items() for one in names] + [f"query/{name}"])
    with pytest.raises(ManifestError, match=r"expected .* files named like 0002-01-01-03"):
        read_dataset("vcclothes", tmp_path)


DEEP = {
    "train-set": ["P1_C1_T1_20200101.jpg,1", "P1_C17_T2_x_y.jpg,12", "P20_C3_summer.jpg,3"],
    "val-set-query": ["P5_C1_T1_a.jpg,100"],
    "val-set-gallery": ["P5_C1_T1_b.jpg,101", "P5_C2_T3_b.jpg,102"],
    "test-set-query": ["P7_C1_T1_a.jpg,200", "P7_C1_T1_b.jpg,200"],
    "test-set-gallery": ["P7_C1_T1_c.jpg,201", "P7_C16_T2_c.jpg,202", "P9_C2_T1_c.jpg,203"],
}


def build_deep(root: Path, lists: dict[str, list[str]] | None = None) -> Path:
    for folder, lines in {**DEEP, **(lists or {})}.items():
        plant(root, [f"{folder}/{line.split(',')[0]}" for line in DEEP[folder]])
        (root / f"{folder}-bbox.txt").write_bytes("\r\n".join([*lines, ""]).encode())
    return plant(root, ["train-set/P3_C1_T1_unlisted.jpg", "train-set/Thumbs.db"])


def cut_deep(folder: str, line: str) -> tuple:
    names = line.split(".")[0].split("_")
    return f"{folder}/{line.split(',')[0]}", int(names[0][1:]), int(line.split(",")[1]), names[0] + names[2]


@pytest.mark.parametrize("layout", ["DeepChangeDataset", "DeepChange", ""])
@pytest.mark.parametrize("part", ["test", "val"])
def test_deepchange_beside_a_second_reading(tmp_path: Path, layout: str, part: str):
    build_deep(tmp_path / layout)
    manifest = read_dataset("deepchange", tmp_path, part=part)
    homes = {"train": "train-set", "query": f"{part}-set-query", "gallery": f"{part}-set-gallery"}
    for split, home in homes.items():
        same_groups(rows(manifest, split), [cut_deep(home, line) for line in DEEP[home]])
    assert manifest.tracklet is None
    seen = read_dataset("deepchange", tmp_path, part=part, camera="camera")
    assert seen.tracklet == manifest.camid
    assert seen.camid == [int(path.split("/")[1].split("_")[1][1:]) - 1 for path in seen.path]
    assert scan_dataset("deepchange", tmp_path, part=part).published == deepchange.published(part)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("P7_C18_T1_a.jpg,1", r"test-set-query-bbox\.txt:1: got 'P7_C18_T1_a\.jpg,1', expected lines like"),
        ("P7_C0_T1_a.jpg,1", "expected lines like"),
        ("P7_C1_T1_a.jpg", "expected lines like"),
        ("P7_C1_T1_a.jpg,-1", "expected lines like"),
        ("P7_C1_T1_a.png,1", "expected lines like"),
        ("7_C1_T1_a.jpg,1", "expected lines like"),
        ("P7_C1_T1_gone.jpg,1", r"1 listed names, expected test-set-query/P7_C1_T1_gone\.jpg"),
    ],
)
def test_deepchange_refuses_lines(tmp_path: Path, line: str, message: str):
    with pytest.raises(ManifestError, match=message):
        read_dataset("deepchange", build_deep(tmp_path, {"test-set-query": [line]}))


def test_deepchange_refuses_repeated_names_and_other_options(tmp_path: Path):
    root = build_deep(tmp_path, {"test-set-query": ["P7_C1_T1_a.jpg,1", "P7_C1_T1_a.jpg,2"]})
    with pytest.raises(ManifestError, match=r":2: got 'P7_C1_T1_a\.jpg' again, first on line 1"):
        read_dataset("deepchange", root)
    with pytest.raises(ValueError, match="deepchange: part: got 'validation', expected 'test', 'val'"):
        read_dataset("deepchange", root, part="validation")
    with pytest.raises(ValueError, match="deepchange: camera: got 'none', expected 'tracklet', 'camera'"):
        read_dataset("deepchange", root, camera="none")
    assert sum(deepchange.COUNTS.values()) == 75083 + 4976 + 17865 + 17527 + 62956


def test_the_tracklet_in_the_place_of_the_camera_keeps_matches_of_one_camera(tmp_path: Path):
    manifest = read_dataset("deepchange", build_deep(tmp_path))
    under = defaultdict(set)
    for path, pid, camid, _ in rows(manifest, "gallery"):
        under[pid].add((camid, path))
    for path, pid, camid, _ in rows(manifest, "query"):
        kept = {other for number, other in under[pid] if number != camid}
        assert "test-set-gallery/P7_C1_T1_c.jpg" in kept, path
