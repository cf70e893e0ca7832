# SPDX-License-Identifier: Apache-2.0
"""Manifests: malformed files are refused with file, line and cell; good ones come back as they were
written."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastreid_ops.data.manifest import Manifest, ManifestError

H = "path,pid,camid,split\n"
ROW = "a.jpg,1,0,train\n"
# name -> (content, what the message must contain)
MALFORMED: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "got an empty file"),
    "blank lines": ("\n\n\n", "got an empty file"),
    "header only": (H, "got a header and no rows"),
    "no header": ("a.jpg,1,0,train\n", "expected column names"),
    "no header, two columns": ("a.jpg,1\nb.jpg,2\n", "expected column names"),
    "semicolons": ("path;pid;camid;split\na.jpg;1;0;train\n", "separated by semicolons, expected commas"),
    "tabs": ("path\tpid\tcamid\tsplit\n", "separated by tabs"),
    "bars": ("path|pid|camid|split\n", "separated by bars"),
    "utf-16 le": ((H + ROW).encode("utf-16"), "UTF-16"),
    "utf-16 be": (b"\xfe\xff" + (H + ROW).encode("utf-16-be"), "UTF-16"),
    "utf-32": ((H + ROW).encode("utf-32"), "UTF-16"),
    "latin-1": ((H + "é.jpg,1,0,train\n").encode("latin-1"), ":2: got byte 0xe9"),
    "nul": (H + "a\0.jpg,1,0,train\n", ":2: got a NUL byte"),
    "binary": (bytes(range(1, 256)), "no UTF-8"),
    "missing pid": ("path,camid,split\na.jpg,0,train\n", "the column pid is missing"),
    "missing two": ("path,split\na.jpg,train\n", "the column pid, camid is missing"),
    "id for pid": ("path,id,camid,split\n", "did you mean 'pid'?"),
    "person_id for pid": ("path,person_id,camid,split\n", "did you mean 'pid'?"),
    "PID for pid": ("path,PID,camid,split\n", "did you mean 'pid'?"),
    "pids for pid": ("path,pids,camid,split\n", "did you mean 'pid'?"),
    "camera for camid": ("path,pid,camera,split\n", "did you mean 'camid'?"),
    "cam for camid": ("path,pid,cam,split\n", "did you mean 'camid'?"),
    "img_path for path": ("img_path,pid,camid,split\n", "did you mean 'path'?"),
    "space before a name": ("path, pid,camid,split\n", "got the column ' pid'"),
    "set for split": ("path,pid,camid,set\n", "did you mean 'split'?"),
    "modalty": ("path,pid,camid,split,modalty\n", "did you mean 'modality'?"),
    "clothes_id": ("path,pid,camid,split,clothes_id\n", "did you mean 'clothes'?"),
    "unknown column": ("path,pid,camid,split,zzzz\n" + "a.jpg,1,0,train,x\n", "got the column 'zzzz'"),
    "unnamed column": (",path,pid,camid,split\n0,a.jpg,1,0,train\n", "got the column ''"),
    "column twice": ("path,pid,pid,camid,split\n", "'pid' 2 times"),
    "too few cells": (H + "a.jpg,1,0\n", ":2: got 3 cells, expected 4"),
    "too many cells": (H + ROW + "b.jpg,1,0,train,x\n", ":3: got 5 cells"),
    "unquoted comma in a name": (H + "a,b.jpg,1,0,train\n", ":2: got 5 cells"),
    "spaces only": (H + "   \n", ":2: got 1 cells"),
    "commas only": (H + ",,,\n", ":2: path: got nothing"),
    "open quote": (H + '"a.jpg,1,0,train\n', "not a well-formed CSV line"),
    "text after a quote": (H + '"a"b.jpg,1,0,train\n', ":2: not a well-formed CSV line"),
    "empty path": (H + ",1,0,train\n", ":2: path: got nothing"),
    "spaces around a path": (H + " a.jpg,1,0,train\n", "path: got ' a.jpg' with spaces around it"),
    "empty pid": (H + "a.jpg,,0,train\n", ":2: pid: got nothing"),
    "nan pid": (H + "a.jpg,nan,0,train\n", "reads like a missing value"),
    "None pid": (H + "a.jpg,None,0,train\n", "reads like a missing value"),
    "float pid": (H + "a.jpg,1.0,0,train\n", "not a decimal number"),
    "junk pid": (H + "a.jpg,-1,0,train\n", "leave rows of junk boxes out"),
    "space before a pid": (H + "a.jpg, 1,0,train\n", "pid: got ' 1' with spaces"),
    "huge pid": (H + "a.jpg,99999999999999999999,0,train\n", "2**63 - 1"),
    "pid of 5000 digits": (H + "a.jpg," + "9" * 5000 + ",0,train\n", "2**63 - 1"),
    "zero-padded twin": (
        H + "a.jpg,7,0,train\nb.jpg,007,0,train\n",
        ":3: pid: got '007', but line 2 writes 7",
    ),
    "empty camid": (H + "a.jpg,1,,train\n", "protocol no_camera"),
    "named camera": (H + "a.jpg,1,north,train\n", "number the cameras 0, 1, ..."),
    "float camid": (H + "a.jpg,1,0.0,train\n", "camid: got '0.0'"),
    "negative camid": (H + "a.jpg,1,-1,train\n", "camid: got -1"),
    "padded camid": (H + "a.jpg,1,01,train\n", "camid: got '01'"),
    "camid in other digits": (H + "a.jpg,1,\u0663,train\n", "camid: got '\u0663'"),
    "empty split": (H + "a.jpg,1,0,\n", "expected 'train', 'query' or 'gallery'"),
    "test split": (H + "a.jpg,1,0,test\n", "two halves of a test set"),
    "Train": (H + "a.jpg,1,0,Train\n", "split: got 'Train'"),
    "split with a space": (H + "a.jpg,1,0,train \n", "split: got 'train '"),
    "probe": (H + "a.jpg,1,0,probe\n", "split: got 'probe'"),
    "row twice": (H + ROW + ROW, ":3: path: got 'a.jpg' again in split train, first on line 2"),
    "row twice, other spelling": (H + ROW + "./a.jpg,1,0,train\n", "again in split train"),
    "two identities": (
        H + "a.jpg,1,0,query\na.jpg,2,0,gallery\n",
        ":3: pid: got 2, but line 2 gives 'a.jpg' 1",
    ),
    "two cameras": (
        H + "a.jpg,1,0,query\na.jpg,1,1,gallery\n",
        ":3: camid: got 1, but line 2 gives 'a.jpg' 0",
    ),
    "empty clothes": ("path,pid,camid,split,clothes\na.jpg,1,0,train,\n", "leave the whole column out"),
    "empty modality": ("path,pid,camid,split,modality\na.jpg,1,0,train,\n", "leave the whole column out"),
    "negative frame": ("path,pid,camid,split,frame\na.jpg,1,0,train,-3\n", "frame: got -3"),
    "frame with a unit": ("path,pid,camid,split,frame\na.jpg,1,0,train,3s\n", "frame: got '3s'"),
    "nan tracklet": ("path,pid,camid,split,tracklet\na.jpg,1,0,train,NaN\n", "reads like a missing value"),
}


def test_there_are_enough_of_them():
    assert len(MALFORMED) >= 60


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_files_are_refused_with_file_and_reason(tmp_path: Path, name: str):
    content, expected = MALFORMED[name]
    file = tmp_path / "own.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ManifestError) as caught:
        Manifest.read_csv(file)
    assert expected in str(caught.value)
    assert all(problem.startswith(str(file)) for problem in caught.value.problems)


@pytest.mark.timeout(10)
def test_what_is_no_file_is_refused(tmp_path: Path):
    with pytest.raises(ManifestError, match="No such file"):
        Manifest.read_csv(tmp_path / "none.csv")
    with pytest.raises(ManifestError, match="got a folder"):
        Manifest.read_csv(tmp_path)
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(ManifestError, match="got a device or a pipe"):
        Manifest.read_csv(tmp_path / "pipe.csv")


def test_all_problems_come_at_once_up_to_twenty(tmp_path: Path):
    file = tmp_path / "own.csv"
    file.write_text(H + "a.jpg,,x,test\n" + ROW)
    with pytest.raises(ManifestError) as caught:
        Manifest.read_csv(file)
    assert len(caught.value.problems) == 3
    file.write_text(H + ",1,0,train\n" * 1000)
    with pytest.raises(ManifestError) as caught:
        Manifest.read_csv(file)
    assert len(caught.value.problems) == 21


def test_lines_are_counted_as_an_editor_does(tmp_path: Path):
    file = tmp_path / "own.csv"
    file.write_text(H + '\n"two\nlines.jpg",1,0,train\n\nb.jpg,1,0,test\n')
    with pytest.raises(ManifestError, match=f"{file}:6: split"):
        Manifest.read_csv(file)


def test_byte_order_mark_windows_line_ends_and_column_order_do_not_matter(tmp_path: Path):
    file = tmp_path / "own.csv"
    file.write_bytes(b"\xef\xbb\xbfsplit,camid,pid,path\r\ntrain,2,Anna,a b.jpg\r\nquery,0,7,sub/b.jpg")
    manifest = Manifest.read_csv(file)
    assert manifest.columns() == {
        "path": ["a b.jpg", "sub/b.jpg"],
        "pid": ["Anna", 7],
        "camid": [2, 0],
        "split": ["train", "query"],
    }
    assert manifest.file(1) == tmp_path / "sub" / "b.jpg"
    assert Manifest.read_csv(file, "/elsewhere").file(0) == Path("/elsewhere/a b.jpg")


def test_one_file_may_be_query_and_gallery(tmp_path: Path):
    (tmp_path / "own.csv").write_text(H + "a.jpg,1,0,query\na.jpg,1,0,gallery\n")
    manifest = Manifest.read_csv(tmp_path / "own.csv")
    assert len(manifest.select("query")) == len(manifest.select("gallery")) == 1


def table(**changes) -> Manifest:
    columns = {
        "root": Path("data"),
        "path": ["a.jpg", "b.jpg", "c.jpg"],
        "pid": [10, "9", "x"],
        "camid": [0, 1, 0],
        "split": ["train", "query", "gallery"],
    }
    return Manifest(**{**columns, **changes})


def test_labels_follow_sorted_ids_numbers_first():
    manifest = table(
        path=list("abcdef"), pid=["b", 10, "9", "a", np.int64(2), "10"], camid=[0] * 6, split=["train"] * 6
    )
    assert manifest.pids() == [2, 9, 10, "a", "b"]
    assert manifest.label_map() == {2: 0, 9: 1, 10: 2, "a": 3, "b": 4}
    assert manifest.labels(manifest.label_map()) == [4, 2, 1, 3, 0, 2]
    with pytest.raises(ValueError, match="got no label for 1 identities such as 'x'"):
        table().labels({10: 0, 9: 1})


def test_select_and_take_keep_order_and_every_column():
    manifest = table(frame=[5, 6, 7], modality=["visible", "infrared", "visible"])
    assert manifest.select("query").path == ["b.jpg"]
    assert manifest.take([2, 0]).columns() == {
        "path": ["c.jpg", "a.jpg"],
        "pid": ["x", 10],
        "camid": [0, 0],
        "split": ["gallery", "train"],
        "modality": ["visible", "visible"],
        "frame": [7, 5],
    }
    assert manifest.clothes is None
    assert len(manifest.take([])) == 0
    with pytest.raises(ValueError, match="indices: got -1, expected 0 to 2"):
        manifest.take([-1])
    with pytest.raises(ValueError, match="split: got 'test'"):
        manifest.select("test")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pid": [1, 2]}, "Manifest: pid: got 2 values, expected 3 as in path"),
        ({"pid": [1, None, 2]}, r"Manifest: pid\[1\]: got None"),
        ({"pid": [1, 2, -1]}, r"Manifest: pid\[2\]: got -1"),
        ({"pid": [1, 2.0, 3]}, r"Manifest: pid\[1\]: got 2.0 \(float\)"),
        ({"pid": [True, 2, 3]}, r"Manifest: pid\[0\]: got True"),
        ({"camid": [0, "north", 1]}, r"Manifest: camid\[1\]: got 'north'"),
        ({"split": ["train", "test", "query"]}, r"Manifest: split\[1\]: got 'test'"),
        ({"path": ["a", "", "c"]}, r"Manifest: path\[1\]: got nothing"),
        ({"frame": [1, 2]}, "Manifest: frame: got 2 values"),
        ({"clothes": [1, 2, float("nan")]}, r"Manifest: clothes\[2\]"),
    ],
)
def test_columns_are_checked_when_a_manifest_is_made(changes: dict, message: str):
    with pytest.raises((ValueError, TypeError), match=message):
        table(**changes)


NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)
CLEAN = NAMES.filter(lambda name: name == name.strip() and name.strip())


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_written_manifest_comes_back(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject):
    count = data.draw(st.integers(1, 6))
    paths = data.draw(st.lists(CLEAN, min_size=count, max_size=count, unique_by=os.path.normpath))
    unique = list(dict.fromkeys(paths))
    ids = st.one_of(
        st.integers(0, 2**63 - 1), st.sampled_from(["Anna", "id-7", "x,y", 'quo"te', "日本", "0x1F"])
    )

    def column(values: st.SearchStrategy) -> list:
        return data.draw(st.lists(values, min_size=len(unique), max_size=len(unique)))

    manifest = Manifest(
        root=tmp_path_factory.getbasetemp(),
        path=unique,
        pid=column(ids),
        camid=column(st.integers(0, 9)),
        split=column(st.sampled_from(["train", "query", "gallery"])),
        modality=data.draw(st.none() | st.just(["visible"] * len(unique))),
        clothes=column(ids) if data.draw(st.booleans()) else None,
        frame=column(st.integers(0, 10**6)) if data.draw(st.booleans()) else None,
    )
    file = tmp_path_factory.getbasetemp() / "round.csv"
    manifest.write_csv(file)
    assert Manifest.read_csv(file) == manifest


def test_writing_is_atomic_and_absolute_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    manifest = table(root=tmp_path)
    file = tmp_path / "m.csv"
    manifest.write_csv(file)
    before = file.read_bytes()
    assert stat.S_IMODE(file.stat().st_mode) == 0o644

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space left"):
            manifest.take([0]).write_csv(file)
    assert file.read_bytes() == before
    assert os.listdir(tmp_path) == ["m.csv"]
    with pytest.raises(ValueError, match="no valid Unicode text"):
        table(path=["a", "b", os.fsdecode(b"\xff")]).write_csv(file)
    manifest.write_csv(file, absolute=True)
    assert Manifest.read_csv(file, "/elsewhere").file(0) == tmp_path / "a.jpg"


@pytest.mark.parametrize("value", [True, 1.0])
def test_what_equals_a_number_seen_before_is_still_refused(value: object):
    with pytest.raises(TypeError, match=rf"Manifest: camid\[1\]: got {value!r}"):
        Manifest(root=Path(), path=["a.jpg", "b.jpg"], pid=[1, 2], camid=[1, value], split=["train", "train"])


def test_a_part_of_a_manifest_is_a_manifest_of_its_own():
    whole = Manifest(
        root=Path("x"), path=["a", "b"], pid=["1", "p"], camid=[0, 1], split=["query", "train"], frame=[3, 4]
    )
    part = whole.take([1])
    part.path.append("c")
    assert (whole.path, part.pid, part.frame, part.modality, part.root) == (
        ["a", "b"],
        ["p"],
        [4],
        None,
        Path("x"),
    )
    assert whole.take([1]) == Manifest(
        root=Path("x"), path=["b"], pid=["p"], camid=[1], split=["train"], frame=[4]
    )
