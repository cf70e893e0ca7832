# SPDX-License-Identifier: Apache-2.0
"""Tracklet data sets on miniature trees with the traps of the real ones, beside torchreid's own readers."""

from __future__ import annotations

import json
import sys
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from fastreid_ops.data.checks import counts, label_findings
from fastreid_ops.data.datasets import mars, read_dataset, scan_dataset
from fastreid_ops.data.manifest import Manifest, ManifestError

TRACKLETS = ("pid", "camid", "split", "tracklet")


def plant(root: Path, names) -> Path:
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return root


def tracklets(manifest: Manifest) -> list[tuple]:
    """(split, pid, camid, files) of each tracklet, after making sure that its rows belong together."""
    rows = list(zip(manifest.tracklet, manifest.split, manifest.pid, manifest.camid, manifest.path,
                    manifest.frame, strict=True))  # fmt: skip
    found = []
    for number, (key, group) in enumerate(groupby(rows, key=lambda row: row[:4])):
        group = list(group)
        assert key[0] == number
        assert [row[5] for row in group] == list(range(len(group)))
        found.append((*key[1:], tuple(row[4] for row in group)))
    return found


def agree(manifest: Manifest, theirs, *, relabelled: tuple[str, ...]) -> None:
    """The same tracklets as torchreid's, in any order; where it relabels, identities correspond one to one. (It must be
    given some transform, which is never called.)"""
    for split in ("train", "query", "gallery"):
        items = getattr(theirs, split)
        ours = {
            frozenset(files): (pid, camid, files)
            for part, pid, camid, files in tracklets(manifest)
            if part == split
        }
        assert len(ours) == len(items)
        pairs = set()
        for files, pid, camid, _ in items:
            names = tuple(str(Path(file).relative_to(manifest.root)) for file in files)
            mine = ours[frozenset(names)]
            assert mine[1:] == (camid, tuple(sorted(names)))
            pairs.add((mine[0], int(pid)))
        first, second = ({pair[side] for pair in pairs} for side in (0, 1))
        assert len(pairs) == len(first) == len(second)
        if split not in relabelled:
            assert first == second


# MARS: pid -1 and 0, a train identity seen by two cameras, Windows line ends, small unsigned types in the tables.
TRAIN = ["0001C1T0001F001.jpg", "0001C1T0001F002.jpg", "0001C2T0001F001.jpg", "0003C6T0002F001.jpg"]
TEST = ["00-1C1T0001F001.jpg", "0000C3T0001F001.jpg", "0002C1T0001F001.jpg", "0002C1T0001F002.jpg",
        "0002C4T0001F001.jpg", "0005C5T0001F001.jpg"]  # fmt: skip
TABLES = {
    "tracks_train_info.mat": ("track_train_info", np.uint16([[1, 2, 1, 1], [3, 3, 1, 2], [4, 4, 3, 6]])),
    "tracks_test_info.mat": (
        "track_test_info",
        np.float64([[1, 1, -1, 1], [2, 2, 0, 3], [3, 4, 2, 1], [5, 5, 2, 4], [6, 6, 5, 5]]),
    ),
    "query_IDX.mat": ("query_IDX", np.uint8([[4, 3]])),
}


def build_mars(root: Path, info: str = "info", tables: dict | None = None) -> Path:
    plant(
        root,
        [f"bbox_train/{name[:4]}/{name}" for name in TRAIN]
        + [f"bbox_test/{name[:4]}/{name}" for name in TEST],
    )
    plant(root, [f"{info}/readme.txt", "bbox_train/0001/Thumbs.db"])
    (root / info / "train_name.txt").write_bytes("\r\n".join([*TRAIN, ""]).encode())
    (root / info / "test_name.txt").write_text("\n".join(TEST) + "\n\n")
    for file, (variable, table) in {**TABLES, **(tables or {})}.items():
        savemat(root / info / file, {variable: table})
    return root


@pytest.mark.parametrize(
    ("layout", "info"), [("mars", "info"), ("MARS", "MARS-evaluation/info"), ("", "info")]
)
def test_mars(tmp_path: Path, layout: str, info: str):
    build_mars(tmp_path / layout, info)
    assert tracklets(read_dataset("mars", tmp_path)) == [
        ("train", 1, 0, ("bbox_train/0001/0001C1T0001F001.jpg", "bbox_train/0001/0001C1T0001F002.jpg")),
        ("train", 1, 1, ("bbox_train/0001/0001C2T0001F001.jpg",)),
        ("train", 3, 5, ("bbox_train/0003/0003C6T0002F001.jpg",)),
        ("query", 2, 3, ("bbox_test/0002/0002C4T0001F001.jpg",)),
        ("query", 2, 0, ("bbox_test/0002/0002C1T0001F001.jpg", "bbox_test/0002/0002C1T0001F002.jpg")),
        ("gallery", 0, 2, ("bbox_test/0000/0000C3T0001F001.jpg",)),
        ("gallery", 5, 4, ("bbox_test/0005/0005C5T0001F001.jpg",)),
    ]


def test_mars_beside_torchreid(tmp_path: Path, torchreid):
    # torchreid slices names with the table's own numbers, so that they cannot be floats there.
    table = TABLES["tracks_test_info.mat"][1].astype(np.int32)
    build_mars(tmp_path / "mars", tables={"tracks_test_info.mat": ("track_test_info", table)})
    agree(
        read_dataset("mars", tmp_path),
        torchreid("mars", "Mars", tmp_path, kind="video", transform=len),
        relabelled=("train",),
    )


@pytest.mark.parametrize(
    ("file", "table", "message"),
    [
        ("query_IDX.mat", [[6]], "got the tracklet 6, expected numbers from 1 to 5"),
        ("query_IDX.mat", [[0]], "got the tracklet 0, expected"),
        ("query_IDX.mat", [[3, 3]], "got a tracklet twice"),
        ("tracks_train_info.mat", [[1, 5, 1, 1]], "tracklet 1 from 1 to 5 of 4 names"),
        ("tracks_train_info.mat", [[0, 1, 1, 1]], "tracklet 1 from 0 to 1"),
        ("tracks_train_info.mat", [[2, 1, 1, 1]], "tracklet 1 from 2 to 1"),
        ("tracks_train_info.mat", [[1, 1, 1, 7]], "tracklet 1 of identity 1 under camera 7"),
        ("tracks_train_info.mat", [[1, 1, -2, 1]], "tracklet 1 of identity -2"),
        ("tracks_train_info.mat", [[2, 3, 1, 1]], "several identities or cameras: 0001C1T0001F002.jpg to 0001C2"),
        ("tracks_train_info.mat", [[3, 4, 1, 2]], "several identities or cameras"),
        ("tracks_train_info.mat", [[1, 1, 1]], r"of shape \(1, 3\), expected four columns"),
        ("tracks_train_info.mat", [[1, 1.5, 1, 1]], "no whole numbers called 'track_train_info'"),
    ],
)  # fmt: skip
def test_mars_refuses_damaged_tables(tmp_path: Path, file: str, table: list, message: str):
    build_mars(tmp_path, tables={file: (TABLES[file][0], np.float64(table))})
    with pytest.raises(ManifestError, match=message):
        read_dataset("mars", tmp_path)


def test_mars_names_what_is_missing(tmp_path: Path):
    build_mars(tmp_path / "mars")
    (tmp_path / "mars/bbox_test/0005/0005C5T0001F001.jpg").rename(
        tmp_path / "mars/bbox_test/0005/0005c5T0001F001.jpg"
    )
    with pytest.raises(ManifestError, match=r"1 listed names, expected bbox_test/0005/0005C5T0001F001\.jpg"):
        read_dataset("mars", tmp_path)
    (tmp_path / "mars/info/query_IDX.mat").unlink()
    with pytest.raises(ManifestError, match=r"query_IDX\.mat: cannot be read"):
        read_dataset("mars", tmp_path)
    (tmp_path / "mars/bbox_test").rename(tmp_path / "mars/bbox_Test")
    with pytest.raises(ManifestError, match=r"without bbox_test.*bbox_test in other capitals"):
        read_dataset("mars", tmp_path)


def test_mars_counts_tracklets_beside_the_published_ones(tmp_path: Path):
    tree = scan_dataset("mars", build_mars(tmp_path))
    assert counts(tree.manifest())["train"] == {"images": 4, "ids": 2, "cameras": 3, "tracklets": 3}
    texts = {item.code: item.text for item in tree.findings()}
    assert "1 junk tracklets (identity -1) left out" in texts["junk"]
    differing = [item.text for item in tree.findings() if item.code == "differs_from_published"]
    assert differing[0].startswith(
        "train: 3 tracklets (published: 8298), 2 ids (published: 625), 3 cameras (published: 6)"
    )
    assert mars.PUBLISHED["gallery"] == {"tracklets": 9330, "ids": 622, "cameras": 6}


def build_ilidsvid(root: Path, people: list[str], seed: int = 0) -> tuple[Path, np.ndarray]:
    frames = [f"i-LIDS-VID/sequences/cam{cam}/{person}/cam{cam}_{person}_{frame:05d}.png"
              for person in people for cam in (1, 2) for frame in (317, 9, 100)]  # fmt: skip
    plant(root, frames)
    draw = np.random.default_rng(seed)
    table = np.stack([draw.permutation(len(people)) + 1 for _ in range(10)]).astype(np.uint16)
    (root / "train-test people splits").mkdir()
    savemat(root / "train-test people splits/train_test_splits_ilidsvid.mat", {"ls_set": table})
    return root, table


@pytest.mark.parametrize("layout", ["ilids-vid", ""])
def test_ilidsvid_takes_the_first_half_of_a_row_as_test(tmp_path: Path, layout: str):
    people = ["person001", "person002", "person007", "person319"]
    root, table = build_ilidsvid(tmp_path / layout, people)
    plant(root, ["i-LIDS-VID/sequences/cam1/.DS_Store", "i-LIDS-VID/sequences/cam1/person001/notes.txt"])
    for split in (0, 9):
        manifest = read_dataset("ilidsvid", tmp_path, split=split)
        test = sorted(int(people[place - 1][6:]) for place in table[split][:2])
        train = sorted(int(people[place - 1][6:]) for place in table[split][2:])
        order = [(part, pid, camid) for part, pid, camid, _ in tracklets(manifest)]
        assert order == [
            *[("train", pid, camid) for pid in train for camid in (0, 1)],
            *[("query", pid, 0) for pid in test],
            *[("gallery", pid, 1) for pid in test],
        ]
        assert [path[-9:-4] for path in manifest.path[:3]] == ["00009", "00100", "00317"]
    with pytest.raises(ValueError, match="ilidsvid: split: got 10, expected 0 to 9"):
        read_dataset("ilidsvid", tmp_path, split=10)
    with pytest.raises(ValueError, match="split: got True"):
        read_dataset("ilidsvid", tmp_path, split=True)


def test_ilidsvid_refuses_folders_that_shift_the_table(tmp_path: Path):
    root, _ = build_ilidsvid(tmp_path / "ilids-vid", ["person001", "person002"])
    (root / "i-LIDS-VID/sequences/cam2/person002").rename(root / "i-LIDS-VID/sequences/cam2/person003")
    with pytest.raises(ManifestError, match="got person002, person003 under one camera only"):
        read_dataset("ilidsvid", tmp_path)
    for cam in (1, 2):
        (root / f"i-LIDS-VID/sequences/cam{cam}/copy").mkdir()
    with pytest.raises(
        ManifestError, match="got 2 numbers up to 2, expected each of the 3 person folders once"
    ):
        read_dataset("ilidsvid", tmp_path)
    (root / "train-test people splits/train_test_splits_ilidsvid.mat").write_bytes(b"no MATLAB file")
    with pytest.raises(ManifestError, match="got no readable MATLAB file"):
        read_dataset("ilidsvid", tmp_path)
    (root / "train-test people splits/train_test_splits_ilidsvid.mat").unlink()
    with pytest.raises(
        ManifestError, match=r"without train-test people splits/train_test_splits_ilidsvid\.mat"
    ):
        read_dataset("ilidsvid", tmp_path)


def test_ilidsvid_refuses_a_person_without_frames(tmp_path: Path):
    root, _ = build_ilidsvid(tmp_path, ["person001", "person002"])
    for file in (root / "i-LIDS-VID/sequences/cam1/person002").iterdir():
        file.rename(file.with_suffix(".PNG"))
    with pytest.raises(ManifestError, match=r"cam1/person002: got no \*.png, expected frames"):
        read_dataset("ilidsvid", tmp_path)


def test_ilidsvid_beside_torchreid(tmp_path: Path, torchreid):
    # torchreid takes exactly 300 people; numbers with gaps, as in the real set.
    people = [f"person{number:03d}" for number in range(1, 320) if number % 17 != 5]
    build_ilidsvid(tmp_path / "ilids-vid", people)
    manifest = read_dataset("ilidsvid", tmp_path, split=3)
    theirs = torchreid("ilidsvid", "iLIDSVID", tmp_path, kind="video", transform=len, split_id=3)
    agree(manifest, theirs, relabelled=("train", "query", "gallery"))
    assert scan_dataset("ilidsvid", tmp_path, split=3).findings() == []
    assert label_findings(manifest) == []


def build_prid(root: Path, nested: str = "prid_2011/", splits: object = None) -> Path:
    people = ["person_0001", "person_0002", "person_0009", "person_0200", "person_0300"]
    plant(root, [f"{nested}multi_shot/cam_{cam}/{person}/{frame:04d}.png"
                 for person in people for cam in "ab" for frame in (10, 2, 1)])  # fmt: skip
    if splits is None:
        splits = [{"train": people[:2], "test": people[2:4]}, {"train": people[2:4], "test": people[:2]}]
    (root / "splits_prid2011.json").write_text(json.dumps(splits))
    return root


@pytest.mark.parametrize(
    ("layout", "nested"), [("prid2011", "prid_2011/"), ("prid2011", ""), ("", "prid_2011/"), ("", "")]
)
def test_prid2011(tmp_path: Path, layout: str, nested: str):
    build_prid(tmp_path / layout, nested)
    manifest = read_dataset("prid2011", tmp_path, split=1)
    assert [(part, pid, camid) for part, pid, camid, _ in tracklets(manifest)] == [
        ("train", 9, 0), ("train", 9, 1), ("train", 200, 0), ("train", 200, 1),
        ("query", 1, 0), ("query", 2, 0), ("gallery", 1, 1), ("gallery", 2, 1),
    ]  # fmt: skip
    assert [path.rpartition("/")[2] for path in manifest.path[:3]] == ["0001.png", "0002.png", "0010.png"]


def test_prid2011_beside_torchreid(tmp_path: Path, torchreid):
    build_prid(tmp_path / "prid2011")
    manifest = read_dataset("prid2011", tmp_path, split=1)
    theirs = torchreid("prid2011", "PRID2011", tmp_path, kind="video", transform=len, split_id=1)
    agree(manifest, theirs, relabelled=("train", "query", "gallery"))


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ([{"train": ["person_0001"], "test": ["person_0001"]}], "got person_0001 in train and test"),
        ([{"train": ["person_0001"], "test": ["person_0999"]}], "expected multi_shot/cam_a/person_0999"),
        ([{"train": ["person_0001"], "test": []}], "expected a list of {train"),
        ({"train": ["person_0001"]}, "expected a list of {train"),
        ([], "split: got 0, expected 0 to -1"),
    ],
)
def test_prid2011_refuses_damaged_splits(tmp_path: Path, splits: object, message: str):
    with pytest.raises(ValueError, match=message):
        read_dataset("prid2011", build_prid(tmp_path, splits=splits))


def test_prid2011_says_where_it_looked_for_the_splits(tmp_path: Path):
    root = build_prid(tmp_path / "prid2011")
    (root / "splits_prid2011.json").write_text("[{")
    with pytest.raises(ManifestError, match="got no readable JSON"):
        read_dataset("prid2011", tmp_path)
    (root / "splits_prid2011.json").unlink()
    with pytest.raises(ManifestError, match=r"got no such file in .*prid_2011 or .*prid2011 or ") as caught:
        read_dataset("prid2011", tmp_path)
    assert "prid_2011 holds multi_shot" in str(caught.value)


# Both ways to name frames, in one tracklet even; that one begins with frame 2, one has a gap.
DUKE = {
    "train/0001/0010": [
        "0001C6F0002X30824.jpg",
        "0001C6F0001X30823.jpg",
        "0001C6F0010X30832.jpg",
        "list.txt",
    ],
    "train/0001/0011": ["0001C2F0003X2.jpg", "0001_C2_F0002_X1.jpg"],
    "train/0007/0001": ["0007_C8_F0001_X30823.jpg"],
    "query/0002/0001": ["0002_C1_F0001_X0001.jpg", "0002_C1_F0002_X0002.jpg"],
    "gallery/0002/0003": ["0002_C5_F0001_X0001.jpg"],
    "gallery/0005/0001": ["0005C3F0001X0001.jpg"],
}


def build_duke(root: Path, tree: dict | None = None) -> Path:
    return plant(root, [f"{folder}/{name}" for folder, names in (tree or DUKE).items() for name in names])


@pytest.mark.parametrize(
    "layout", ["dukemtmc-vidreid/DukeMTMC-VideoReID", "DukeMTMC-VideoReID", "dukemtmc-vidreid", ""]
)
def test_dukemtmcvidreid(tmp_path: Path, layout: str):
    plant(build_duke(tmp_path / layout), ["train/.DS_Store", "query/0002/notes.txt"])
    assert tracklets(read_dataset("dukemtmcvidreid", tmp_path)) == [
        ("train", 1, 5, tuple(f"train/0001/0010/0001C6F00{frame}X308{rest}.jpg"
                              for frame, rest in (("01", 23), ("02", 24), ("10", 32)))),
        ("train", 1, 1, ("train/0001/0011/0001_C2_F0002_X1.jpg", "train/0001/0011/0001C2F0003X2.jpg")),
        ("train", 7, 7, ("train/0007/0001/0007_C8_F0001_X30823.jpg",)),
        ("query", 2, 0, ("query/0002/0001/0002_C1_F0001_X0001.jpg", "query/0002/0001/0002_C1_F0002_X0002.jpg")),
        ("gallery", 2, 4, ("gallery/0002/0003/0002_C5_F0001_X0001.jpg",)),
        ("gallery", 5, 2, ("gallery/0005/0001/0005C3F0001X0001.jpg",)),
    ]  # fmt: skip
    assert set(scan_dataset("dukemtmcvidreid", tmp_path).passed) == {
        "train/.DS_Store", "train/0001/0010/list.txt", "query/0002/notes.txt"
    }  # fmt: skip


def test_dukemtmcvidreid_beside_torchreid(tmp_path: Path, torchreid):
    root = tmp_path / "dukemtmc-vidreid/DukeMTMC-VideoReID"
    build_duke(root, {folder: names[:2] for folder, names in DUKE.items() if folder != "train/0001/0011"})
    theirs = torchreid("dukemtmcvidreid", "DukeMTMCVidReID", tmp_path, kind="video", transform=len)
    agree(read_dataset("dukemtmcvidreid", tmp_path), theirs, relabelled=("train",))


@pytest.mark.parametrize(
    ("folder", "name", "message"),
    [
        ("query/0002/0001", "0002_C9_F0003_X0001.jpg", "expected frames named like"),
        ("query/0002/0001", "0002_c1_F0003_X0001.jpg", "expected frames named like"),
        ("query/0002/0001", "frame.jpg", "got query/0002/0001/frame.jpg"),
        ("query/0002/0001", "0002_C3_F0003_X0001.jpg", "got cameras 1, 3, expected one"),
        ("query/0002/0002", "0002_C3_F0003_X0001.JPG", r"got no \*.jpg, expected the frames"),
        ("query/mixed/0001", "0002_C1_F0001_X0001.jpg", "got query/mixed"),
    ],
)
def test_dukemtmcvidreid_refuses(tmp_path: Path, folder: str, name: str, message: str):
    plant(build_duke(tmp_path), [f"{folder}/{name}"])
    with pytest.raises(ManifestError, match=message):
        read_dataset("dukemtmcvidreid", tmp_path)


def test_overlapping_train_and_test_ids_and_repeated_files_are_findings(tmp_path: Path):
    plant(build_duke(tmp_path), ["gallery/0001/0001/0001C1F0001X1.jpg"])
    found = {item.code for item in label_findings(read_dataset("dukemtmcvidreid", tmp_path))}
    assert "ids_in_train_and_test" in found


def test_without_scipy_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    build_mars(tmp_path)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(ManifestError, match="needs SciPy"):
        read_dataset("mars", tmp_path)
