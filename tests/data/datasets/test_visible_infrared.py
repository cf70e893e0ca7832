# SPDX-License-Identifier: Apache-2.0
"""SYSU-MM01, RegDB and LLCM on miniature trees with the traps of the real ones, beside a second reading of the
published rules: plain loops over folders and fixed places in the names, no patterns."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from fastreid_ops.data.checks import label_findings
from fastreid_ops.data.datasets import llcm, read_dataset, regdb, scan_dataset, sysu_mm01
from fastreid_ops.data.datasets._lists import id_list, identities, labelled_list
from fastreid_ops.data.manifest import Manifest, ManifestError


def plant(root: Path, names) -> Path:
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return root


def rows(manifest: Manifest, split: str) -> list[tuple]:
    part = manifest.select(split)
    return list(zip(part.path, part.pid, part.camid, part.modality, strict=True))


def ids_of_one_line(file: Path) -> list[str]:
    return sorted(f"{int(word):04d}" for word in file.read_text().splitlines()[0].split(","))


# Identity 3 is unseen by camera 3, identity 9 seen by infrared cameras only, 12 by one of each kind.
SYSU = {1: (1, 2, 3, 4, 5, 6), 3: (1, 2, 4, 5, 6), 7: (1, 3), 9: (3, 6), 12: (5, 6), 533: (4, 5, 6)}
SYSU_LISTS = {"train": "1,7", "val": "12", "test": "533,3,9"}


def build_sysu(root: Path, lists: dict[str, str] | None = None) -> Path:
    draw = random.Random(5)
    for pid, cameras in SYSU.items():
        for camera in cameras:
            numbers = draw.sample(range(1, 30), draw.randint(1, 4))
            plant(root, [f"cam{camera}/{pid:04d}/{number:04d}.jpg" for number in numbers])
    # Identity 40 is in no list; a stray picture of another kind; a hidden twin as Macs leave them.
    plant(root, ["cam1/0040/0001.jpg", "cam3/0001/0001.png", "cam6/0533/._0001.jpg", "cam2/Thumbs.db"])
    (root / "exp").mkdir()
    for name, text in {**SYSU_LISTS, **(lists or {})}.items():
        (root / f"exp/{name}_id.txt").write_bytes(text.encode() + b"\r\n")
    return root


@pytest.mark.parametrize("layout", ["SYSU-MM01", "sysu_mm01", ""])
def test_sysu_beside_a_second_reading(tmp_path: Path, layout: str):
    root = build_sysu(tmp_path / layout)
    manifest = read_dataset("sysu_mm01", tmp_path)

    def reading(part: str, cameras: list[str]) -> list[tuple]:
        found = []
        for person in ids_of_one_line(root / f"exp/{part}_id.txt"):
            for camera in cameras:
                folder = root / camera / person
                names = sorted(os.listdir(folder)) if folder.is_dir() else []
                for name in names:
                    path = f"{camera}/{person}/{name}"
                    if name[-4:] == ".jpg" and name[0] != ".":
                        number = int(path[-15])
                        found.append(
                            (
                                path,
                                int(path[-13:-9]),
                                number - 1,
                                "infrared" if number in (3, 6) else "visible",
                            )
                        )
        return found

    every = [f"cam{number}" for number in range(1, 7)]
    assert rows(manifest, "train") == sorted(
        reading("train", every) + reading("val", every), key=lambda row: (row[1], row[0])
    )
    assert rows(manifest, "query") == reading("test", ["cam3", "cam6"])
    assert rows(manifest, "gallery") == reading("test", ["cam1", "cam2", "cam4", "cam5"])
    assert {row[1] for row in rows(manifest, "query")} == {3, 9, 533}
    assert {row[1] for row in rows(manifest, "gallery")} == {3, 533}
    assert set(scan_dataset("sysu_mm01", tmp_path).passed) == {"cam3/0001/0001.png", "cam6/0533/._0001.jpg"}


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"test": "3,1"}, "got 1 in the lists of train and test"),
        ({"val": "3,12"}, "got 3 in the lists of validation and test"),
        ({"val": "7"}, "got 7 in the lists of train and validation"),
        ({"test": "3,3"}, "got 3 more than once"),
        ({"test": "3,x9"}, "got x9, expected identities separated by commas"),
        ({"test": "-3"}, "got -3, expected identities"),
        ({"test": ""}, "got nothing, expected identities"),
        ({"test": "3,55"}, r"expected cam\*/0055"),
    ],
)
def test_sysu_refuses_damaged_lists(tmp_path: Path, lists: dict[str, str], message: str):
    with pytest.raises(ManifestError, match=message):
        read_dataset("sysu_mm01", build_sysu(tmp_path, lists))


def test_sysu_says_what_is_missing(tmp_path: Path):
    root = build_sysu(tmp_path / "SYSU-MM01")
    (root / "exp/val_id.txt").unlink()
    (root / "cam6").rename(root / "Cam6")
    with pytest.raises(ManifestError, match=r"without cam6, exp/val_id\.txt.*Cam6 is cam6 in other capitals"):
        read_dataset("sysu_mm01", tmp_path)


def test_sysu_published_counts_are_those_of_the_protocol():
    assert sysu_mm01.PUBLISHED["train"]["images"] == 22258 + 11909
    assert sysu_mm01.PUBLISHED["query"]["images"] == 1883 + 1920
    assert sysu_mm01.PUBLISHED["gallery"] == {"images": 6775, "ids": 96, "cameras": 4}


def cell(values: list) -> np.ndarray:
    made = np.empty((len(values), 1), object)
    for place, value in enumerate(values):
        made[place, 0] = value
    return made


def permutation_file(root: Path, change=None) -> dict[tuple[int, int], np.ndarray]:
    """A file as the official one: six cells, cameras 1, 2 and 6 with fewer identities, empty cells, numbers from 1."""
    draw = np.random.default_rng(0)
    expected, cameras = {}, []
    for camid, people in enumerate((5, 5, 9, 9, 9, 5)):
        orders = []
        for place in range(people):
            images = int(draw.integers(0, 4)) * 7
            order = (
                np.stack([draw.permutation(images) + 1 for _ in range(10)]) if images else np.empty((0, 0))
            )
            if images:
                expected[place + 1, camid] = order
            orders.append(order.astype(np.uint8))
        # MATLAB wrote some of these lists as rows, some as columns.
        cameras.append(cell(orders) if camid % 2 else cell(orders).T)
    if change:
        change(cameras)
    (root / "exp").mkdir(parents=True)
    savemat(root / "exp/rand_perm_cam.mat", {"rand_perm_cam": cell(cameras)})
    return expected


def test_sysu_permutations(tmp_path: Path):
    expected = permutation_file(tmp_path / "SYSU-MM01")
    table = sysu_mm01.permutations(tmp_path)
    assert list(table) == sorted(table, key=lambda key: (key[1], key[0]))
    assert set(table) == set(expected)
    assert all(
        (table[key] == order).all() and table[key].dtype == np.int64 for key, order in expected.items()
    )
    # The rule as published: image numbers are perm[cam - 1][0].squeeze()[pid - 1][trial][:shots].
    assert max(pid for pid, camid in table if camid == 0) <= 5


def test_sysu_permutations_refuse_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def twice(cameras):
        cameras[2][0, 0] = np.uint8([[1, 1]])

    def few(cameras):
        del cameras[5]

    for name, change, message in (
        ("a", twice, "camera 3, identity 1: got shape"),
        ("b", few, "with six cells"),
    ):
        permutation_file(tmp_path / name, change)
        with pytest.raises(ManifestError, match=message):
            sysu_mm01.permutations(tmp_path / name)
    with pytest.raises(ManifestError, match=r"expected exp/rand_perm_cam\.mat in one of"):
        sysu_mm01.permutations(tmp_path)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(ManifestError, match="needs SciPy"):
        sysu_mm01.permutations(tmp_path / "a")


def build_regdb(
    root: Path, trial: int = 1, ends: str = "\n", swapped: bool = False, slash: str = "/"
) -> Path:
    """Eight people; a trial's lists number each half from 0. With `swapped`, thermal folders are other numbers."""
    people = random.Random(trial).sample(range(8), 8)
    for half, chosen in (("train", sorted(people[:4])), ("test", sorted(people[4:]))):
        for kind, letter in (("visible", "v"), ("thermal", "t")):
            lines = []
            for label, person in enumerate(chosen):
                folder = person + 100 if swapped and letter == "t" else person
                for frame in (7, 12):
                    path = f"{kind.capitalize()}/{folder}/male_front_{letter}_{frame:05d}_{folder}.bmp"
                    plant(root, [path])
                    lines.append(f"{path.replace('/', slash)} {label}")
            (root / "idx").mkdir(exist_ok=True)
            (root / f"idx/{half}_{kind}_{trial}.txt").write_bytes((ends.join(lines) + ends).encode())
    return root


@pytest.mark.parametrize(
    ("layout", "ends", "slash"), [("RegDB", "\r\n", "/"), ("regdb", "\n", "\\"), ("", "\n", "/")]
)
def test_regdb_beside_a_second_reading(tmp_path: Path, layout: str, ends: str, slash: str):
    for trial in (1, 10):
        root = build_regdb(tmp_path / layout, trial, ends, slash=slash)
        manifest = read_dataset("regdb", tmp_path, trial=trial)

        def reading(half: str) -> list[tuple]:  # only called within its turn of the loop, hence noqa below
            found = []
            for camid, (kind, modality) in enumerate((("visible", "visible"), ("thermal", "infrared"))):
                for line in (root / f"idx/{half}_{kind}_{trial}.txt").read_text().split("\n"):  # noqa: B023
                    if line.strip():
                        path = line.split(" ")[0].replace("\\", "/")
                        found.append((path, int(path.split("/")[1]), camid, modality))
            return found

        assert rows(manifest, "train") == reading("train")
        assert rows(manifest, "query") == rows(manifest, "gallery") == reading("test")
        assert not {row[1] for row in rows(manifest, "train")} & {row[1] for row in rows(manifest, "query")}
        assert {item.code for item in label_findings(manifest)} == {"query_in_gallery"}
        for modality in ("visible", "infrared"):
            assert {row[1] for row in rows(manifest, "query") if row[3] == modality} == set(
                manifest.select("query").pid
            )


def test_regdb_takes_the_labels_where_folders_contradict_them(tmp_path: Path):
    manifest = read_dataset("regdb", build_regdb(tmp_path, swapped=True))
    assert manifest.pids() == [f"{half}-{label}" for half in ("test", "train") for label in range(4)]
    for split, half in (("train", "train"), ("query", "test")):
        for modality in ("visible", "infrared"):
            labels = [row[1] for row in rows(manifest, split) if row[3] == modality]
            assert labels == [f"{half}-{label}" for label in range(4) for _ in range(2)]


def test_regdb_trials_are_ten_and_their_lists_are_needed(tmp_path: Path):
    root = build_regdb(tmp_path / "RegDB", trial=3)
    for trial in (0, 11, "3", True):
        with pytest.raises(ValueError, match=f"regdb: trial: got {trial!r}, expected 1 to 10"):
            read_dataset("regdb", tmp_path, trial=trial)
    with pytest.raises(ManifestError, match=r"without idx/train_visible_1\.txt, idx/train_thermal_1\.txt"):
        read_dataset("regdb", tmp_path)
    (root / "Thermal").rename(root / "thermal")
    with pytest.raises(ManifestError, match="thermal is Thermal in other capitals"):
        read_dataset("regdb", tmp_path, trial=3)


def test_regdb_refuses_damaged_lists(tmp_path: Path):
    root = build_regdb(tmp_path)
    good = (root / "idx/test_visible_1.txt").read_text()
    train = (root / "idx/train_visible_1.txt").read_text()
    for text, message in (
        (good + good.splitlines()[0], r"test_visible_1\.txt:9: got 'Visible/.*' again, first on line 1"),
        (good + "Visible/1/x.bmp", r":9: got 'Visible/1/x.bmp', expected a path, a space and a label"),
        (good + "Visible/1/x.bmp -1", "expected a path, a space and a label"),
        (good + "Visible/1/gone.bmp 3", r"1 listed names, expected Visible/1/gone\.bmp"),
        (good + "x.bmp 3", r"got x\.bmp, expected lines like"),
        (good + train, "in train and test, expected one of them"),
        ("\n\n", "got an empty list"),
    ):
        (root / "idx/test_visible_1.txt").write_text(text)
        with pytest.raises(ManifestError, match=message):
            read_dataset("regdb", root)
    assert regdb.PUBLISHED["query"] == {"images": 2 * 2060, "ids": 206, "cameras": 2}


# No infrared camera 3; identity 8 has no infrared picture, identity 5 has camera 9.
LLCM_TEST = {"vis": {5: (1, 3, 9), 8: (2,)}, "nir": {5: (1, 9)}}


def build_llcm(root: Path, test_ids: str = "8,5", extra: str = "") -> Path:
    for kind, people in LLCM_TEST.items():
        plant(
            root,
            [
                f"test_{kind}/cam{camera}/readme.txt"
                for camera in range(1, 10)
                if (kind, camera) != ("nir", 3)
            ],
        )
        for pid, cameras in people.items():
            for camera in cameras:
                plant(root, [f"test_{kind}/cam{camera}/{pid:04d}/{pid:04d}_c{camera:02d}_s{n}_f{n}_{kind}.jpg"
                             for n in (185535, 99)])  # fmt: skip
    (root / "idx").mkdir()
    for kind in ("vis", "nir"):
        lines = []
        for label, pid in enumerate((1, 4, 1000)):
            for camera in (2, 9):
                path = f"{kind}/{pid:04d}/{pid:04d}_c{camera:02d}_s185535_f7010_{kind}.jpg"
                plant(root, [path])
                lines.append(f"{path} {label}")
        (root / f"idx/train_{kind}.txt").write_bytes("\r\n".join([*lines, extra]).encode())
    (root / "idx/test_id.txt").write_text(test_ids)
    return root


@pytest.mark.parametrize("layout", ["LLCM", "llcm", ""])
def test_llcm_beside_a_second_reading(tmp_path: Path, layout: str):
    root = build_llcm(tmp_path / layout)
    manifest = read_dataset("llcm", tmp_path)
    found = []
    for person in ids_of_one_line(root / "idx/test_id.txt"):
        for folder in [f"test_vis/cam{n}" for n in range(1, 10)] + [
            f"test_nir/cam{n}" for n in (1, 2, *range(4, 10))
        ]:
            if (root / folder / person).is_dir():
                for name in sorted(os.listdir(root / folder / person)):
                    after = f"{folder}/{person}/{name}".split("cam")[1]
                    kind = "infrared" if folder.startswith("test_nir") else "visible"
                    found.append((f"{folder}/{person}/{name}", int(after[2:6]), int(after[0]) - 1, kind))
    assert rows(manifest, "query") == rows(manifest, "gallery") == found
    train = []
    for kind, modality in (("vis", "visible"), ("nir", "infrared")):
        for line in (root / f"idx/train_{kind}.txt").read_text().split("\n"):
            if line:
                path = line.split(" ")[0]
                name = path.split("/")[2]
                train.append((path, int(name[:4]), int(name[6:8]) - 1, modality))
    assert rows(manifest, "train") == train
    assert llcm.PUBLISHED["train"]["images"] == 16946 + 13975
    assert llcm.PUBLISHED["query"]["images"] == llcm.PUBLISHED["gallery"]["images"] == 8680 + 7166


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_ids": "5,8,77"}, r"expected test_\*/cam\*/0077"),
        ({"test_ids": "5 8 x"}, "got x, expected identities"),
        ({"extra": "vis/0001/0001_c10_s1_f1_vis.jpg 0"}, r"0001_c10_s1_f1_vis\.jpg, expected training files"),
        ({"extra": "vis/0001/photo.jpg 0"}, "expected training files named like"),
        ({"extra": "vis/0009/0009_c01_s1_f1_vis.jpg 9"}, "listed names, expected vis/0009/"),
        ({"extra": "vis/0001"}, "expected a path, a space and a label"),
    ],
)  # fmt: skip
def test_llcm_refuses(tmp_path: Path, options: dict[str, str], message: str):
    with pytest.raises(ManifestError, match=message):
        read_dataset("llcm", build_llcm(tmp_path, **options))


def test_llcm_refuses_an_identity_in_train_and_test(tmp_path: Path):
    root = build_llcm(tmp_path, test_ids="5,4")
    plant(root, ["test_vis/cam1/0004/0004_c01_s1_f1_vis.jpg"])
    with pytest.raises(ManifestError, match="got 4, expected no identity of the training lists"):
        read_dataset("llcm", root)


def test_lists_and_identities(tmp_path: Path):
    file = tmp_path / "list.txt"
    file.write_bytes("\ufeff 0003, 5 ,\r\n7\r\n\r\n".encode())
    assert id_list(file, "x") == [3, 5, 7]
    file.write_bytes(b"./a b/c.jpg 7\r\n\r\nd\\e.jpg\t8\r\n")
    assert labelled_list(file, "x") == [("a b/c.jpg", 7), ("d/e.jpg", 8)]
    file.write_bytes(b"\xff\xfe1")
    with pytest.raises(ManifestError, match=r"x: .*got bytes that are no UTF-8"):
        id_list(file, "x")
    assert identities({"train": [(0, 5), (0, 5)], "test": [(0, 6)]}) == {("train", 0): 5, ("test", 0): 6}
    # One person under two labels, one label of two people, one person in both halves: the labels are taken.
    for halves in (
        {"train": [(0, 5), (1, 5)]},
        {"train": [(0, 5), (0, 6)]},
        {"train": [(0, 5)], "test": [(0, 5)]},
    ):
        assert set(identities(halves).values()) == {
            f"{h}-{label}" for h, pairs in halves.items() for label, _ in pairs
        }
