# SPDX-License-Identifier: Apache-2.0
"""Miniature trees with the names of the published image data sets, and what is compared about them. The files are
empty: readers never open them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastreid_ops.data.manifest import Manifest


def touch(root: Path, names: Iterable[str]) -> None:
    """Empty files, made in an order that is not the sorted one."""
    for name in reversed(list(names)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


class Case(NamedTuple):
    """A data set: where torchreid looks for it, where its own archive puts it, its files, a name without labels.

    `options` go to our reader, `theirs` to torchreid's class.
    """

    module: str
    cls: str
    layouts: tuple[str, ...]
    files: list[str]
    unreadable: str
    options: dict
    theirs: dict


def boxes() -> list[str]:
    return [
        *(f"bounding_box_train/{pid:04d}_c{cam}_f0044{pid:03d}.jpg" for pid in (1, 5, 7) for cam in (2, 8)),
        *(f"query/{pid:04d}_c{cam}_f0044158.jpg" for pid in (2, 30) for cam in (1, 2)),
        *(
            f"bounding_box_test/{pid:04d}_c{cam}_f0044159.jpg"
            for pid in (2, 9, 30, 4000)
            for cam in (2, 3, 5)
        ),
    ]


def market() -> list[str]:
    return [
        *(f"bounding_box_train/{pid:04d}_c{cam}s1_000451_03.jpg" for pid in (2, 7, 1500) for cam in (1, 6)),
        *(f"query/{pid:04d}_c{cam}s1_001051_00.jpg" for pid in (1, 4) for cam in (1, 2)),
        *(
            f"bounding_box_test/{pid}_c{cam}s1_000401_03.jpg"
            for pid in ("-1", "0000", "0001", "0004")
            for cam in (1, 3)
        ),
    ]


def grid() -> list[str]:
    pairs = range(1, 251)
    return [
        *(f"probe/{pid:04d}_{pid % 8 + 1}_25004_107_32_106_221.jpeg" for pid in pairs),
        *(f"gallery/{pid:04d}_{(pid + 3) % 8 + 1}_25023_116_134_128_330.jpeg" for pid in pairs),
        *(f"gallery/0000_{n % 8 + 1}_{25000 + n}_1_2_3_4.jpeg" for n in range(9)),
    ]


def grid_partitions(file: Path) -> None:
    """trainIdxAll: ten cells, each a structure whose third field is a row of 125 identities."""
    from scipy.io import savemat

    cells = np.empty((1, 10), dtype=object)
    for n in range(10):
        chosen = np.random.RandomState(n).permutation(np.arange(1, 251))[:125]
        cells[0, n] = {"numTrain": 125.0, "numTest": 125.0, "idxTrain": chosen[None, :].astype(float)}
    savemat(file, {"trainIdxAll": cells, "features": np.zeros((2, 3))})


def cuhk02() -> list[str]:
    return [
        f"P{pair}/cam{cam}/{pid:03d}_{cam}_{n:04d}.png"
        for pair, people in enumerate((5, 4, 3, 2, 6), 1)
        for cam in (1, 2)
        for pid in range(1, people + 1)
        for n in (1, 2)
    ]


def msmt17(train: str = "train", test: str = "test") -> dict[str, str]:
    """{list file: its text}; the files are those it names."""
    name = "{0:04d}/{0:04d}_{1:03d}_{2:02d}_0303morning_0015_0.jpg {0}"
    of = {
        "list_train.txt": [name.format(pid, n, n + 1) for pid in range(4) for n in (0, 1, 14)],
        "list_val.txt": [name.format(pid, 20, 9) for pid in range(4)],
        "list_query.txt": [name.format(pid, 0, 3) for pid in range(6)],
        "list_gallery.txt": [name.format(pid, n, n + 3) for pid in range(6) for n in (1, 2)],
    }
    return {file: "\n".join(lines) + "\n" for file, lines in of.items()}


def build_msmt17(root: Path, train: str = "train", test: str = "test", end: str = "\n") -> None:
    for file, text in msmt17().items():
        side = train if file in ("list_train.txt", "list_val.txt") else test
        touch(root, [f"{side}/{line.split()[0]}" for line in text.splitlines()])
        (root / file).write_bytes(text.replace("\n", end).encode())


def university() -> list[str]:
    return [
        *(f"train/{view}/{pid:04d}/image-{n:02d}.jpeg" for view in ("drone", "google", "satellite", "street")
          for pid in (3, 8) for n in (1, 2)),
        "train/satellite/0011/0011.JPG",
        *(f"test/query_drone/{pid:04d}/image-{n:02d}.jpeg" for pid in (1, 2) for n in (1, 2, 3)),
        *(f"test/gallery_satellite/{pid:04d}/{pid:04d}.jpg" for pid in (1, 2, 4)),
    ]  # fmt: skip


CASES = {
    "market1501": Case(
        "market1501", "Market1501",
        ("market1501/Market-1501-v15.09.15", "market1501", "Market-1501-v15.09.15", ""), market(),
        "query/0001_c.jpg", {}, {}),
    "dukemtmcreid": Case(
        "dukemtmcreid", "DukeMTMCreID", ("dukemtmc-reid/DukeMTMC-reID", "DukeMTMC-reID", "dukemtmc-reid", ""),
        boxes(), "query/0001_c.jpg", {}, {}),
    "viper": Case(
        "viper", "VIPeR", ("viper/VIPeR", "VIPeR", "viper", ""),
        [f"cam_{cam}/{pid:03d}_{angle}.bmp" for cam, angle in (("a", 0), ("b", 90)) for pid in (0, 1, 2, 7, 40, 873)],
        "cam_a/front.bmp", {"seed": 5, "split": 3}, {"split_id": 3}),
    "cuhk01": Case(
        "cuhk01", "CUHK01", ("cuhk01", "CUHK01", ""),
        [f"campus/{pid:04d}{n:03d}.png" for pid in range(1, 8) for n in (1, 2, 3, 4)],
        "campus/0001005.png", {"seed": 5, "split": 3}, {"split_id": 3}),
    "cuhk02": Case(
        "cuhk02", "CUHK02", ("cuhk02/Dataset", "CUHK02/Dataset", "Dataset", ""), cuhk02(), "P3/cam1/face.png", {}, {}),
    "grid": Case(
        "grid", "GRID", ("grid/underground_reid", "underground_reid", ""), grid(), "probe/0001.jpeg", {"split": 4},
        {"split_id": 4}),
    "ilids": Case(
        "ilids", "iLIDS", ("ilids/i-LIDS_Pedestrian", "i-LIDS_Pedestrian", ""),
        [f"Persons/{pid:04d}{n:03d}.jpg" for pid in range(1, 120) for n in range(1, 5)], "Persons/001002.jpg",
        {"seed": 5, "split": 3}, {"split_id": 3}),
    "prid": Case(
        "prid", "PRID", ("prid2011/prid_2011", "prid_2011", ""),
        [f"single_shot/cam_{cam}/person_{pid:04d}.png" for cam, last in (("a", 385), ("b", 749))
         for pid in range(1, last + 1)],
        "single_shot/cam_a/person_1.png", {"seed": 5, "split": 3}, {"split_id": 3}),
    "sensereid": Case(
        "sensereid", "SenseReID", ("sensereid/SenseReID", "SenseReID", ""),
        ["test_probe/00001_0.jpg", "test_probe/00007_1.jpg", "test_gallery/00001_1.jpg", "test_gallery/00007_0.jpg",
         "test_gallery/01717_0.jpg"], "test_probe/00001.jpg", {}, {}),
    "university1652": Case(
        "university1652", "University1652",
        ("university1652/University-Release", "University-Release", "university1652", ""), university(),
        "test/query_drone/tower/1.jpg", {}, {}),
    "cuhksysu": Case(
        "cuhksysu", "CUHKSYSU", ("cuhksysu", "CUHK-SYSU", ""),
        [f"cropped_images/p{pid}_s{scene}_{n}.jpg" for pid, scene, n in
         ((11422, 16929, 1), (11422, 16930, 2), (1, 2, 3), (10, 5, 1))], "cropped_images/s16929_p1.jpg", {}, {}),
}  # fmt: skip


def build(case: Case, folder: Path) -> Path:
    """Write the tree of a case into a folder."""
    touch(folder, case.files)
    if case.module == "grid":
        grid_partitions(folder / "features_and_partitions.mat")
    return folder


def rows(manifest: Manifest) -> list[tuple]:
    return list(zip(manifest.path, manifest.pid, manifest.camid, manifest.split, strict=True))


def one_to_one(pairs: Iterable[tuple]) -> bool:
    pairs = set(pairs)
    return len(pairs) == len({one for one, _ in pairs}) == len({other for _, other in pairs})


def same(
    manifest: Manifest, theirs, *, cameras: str = "equal", splits: tuple = ("train", "query", "gallery")
):
    """The same images in each split, identities one to one in train and in the test set, cameras equal."""
    tested = []
    for split in splits:
        there = {
            Path(path).relative_to(manifest.root.resolve()).as_posix(): (pid, camid)
            for path, pid, camid, _ in getattr(theirs, split)
        }
        part = manifest.select(split)
        assert sorted(part.path) == sorted(there)
        labels = [(pid, there[path][0]) for path, pid in zip(part.path, part.pid, strict=True)]
        if split == "train":
            assert one_to_one(labels)
        tested += labels if split != "train" else []
        for path, camid in zip(part.path, part.camid, strict=True):
            assert cameras != "equal" or there[path][1] == camid, path
        assert one_to_one((camid, there[path][1]) for path, camid in zip(part.path, part.camid, strict=True))
    assert one_to_one(tested)
