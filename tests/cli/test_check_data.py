# SPDX-License-Identifier: Apache-2.0
"""The verb check_data: its exit status, its words and its JSON, run as a user runs it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastreid_ops.check_data import main


def image(file: Path, seed: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 16, 3), dtype=np.uint8)).save(file)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    rows = ["path,pid,camid,split"]
    for n, row in enumerate(("1,0,train", "1,1,train", "2,0,train", "2,1,train", "3,0,query", "3,1,gallery")):
        image(tmp_path / f"{n}.png", n)
        rows.append(f"{n}.png,{row}")
    (tmp_path / "own.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "own.csv"


def test_clean_data_exits_with_0(own: Path, capsys: pytest.CaptureFixture[str]):
    assert main([str(own), "--verify"]) == 0
    text = capsys.readouterr().out
    assert "train         4 images        2 ids        2 cameras" in text
    assert text.endswith("0 problems found (every image decoded)\n")


def test_problems_exit_with_1_and_are_listed(own: Path, capsys: pytest.CaptureFixture[str]):
    (own.parent / "1.png").unlink()
    (own.parent / "5.png").write_bytes(b"")
    own.write_text(own.read_text() + "".join(f"x{n}.png,7,0,query\n" for n in range(9)))
    assert main([str(own)]) == 1
    text = capsys.readouterr().out
    assert "problem: 9 of 10 queries have no gallery image of their identity" in text
    assert "    and 4 more" in text
    assert f"    {own.parent / '1.png'}: cannot be opened: No such file or directory" in text
    assert text.endswith("2 problems found (images not decoded; --verify does)\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected a CSV file or --dataset"),
        (["."], "got the folder '.', expected --dataset"),
        (["none.csv"], "none.csv: cannot be read: No such file"),
        ([".", "--dataset", "market1502"], "did you mean 'market1501'?"),
        ([".", "--dataset", "market1501"], "holds nothing"),
        (["--dataset", "market1501"], "expected the folder that holds market1501"),
        (["--dataset", "sample", "--root", "."], "expected it with a CSV file only"),
        (["--dataset", "csv"], "expected a CSV file"),
        ([".", "--dataset", "viper", "--option", "split"], "--option: got 'split', expected NAME=VALUE"),
        (
            [".", "--dataset", "viper", "--option", "fold=3"],
            "got 'fold', expected options of viper: split, seed",
        ),
        ([".", "--dataset", "cuhk03", "--option", "labeled=no"], "labeled: got 'no', expected true or false"),
        (["x.csv", "--option", "split=3"], "--option: got 'split', expected none for a CSV file"),
    ],
)
def test_what_cannot_be_read_exits_with_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
    assert main([*arguments, "--json"]) == 2
    report = json.loads(capsys.readouterr().out)
    assert report["readable"] is False
    assert message in report["error"]


def test_malformed_manifests_show_file_and_line(own: Path, capsys: pytest.CaptureFixture[str]):
    own.write_text(own.read_text().replace("query", "test"))
    assert main([str(own)]) == 2
    assert f"{own}:6: split: got 'test', expected 'train', 'query' or 'gallery'" in capsys.readouterr().err


def test_a_root_apart_from_the_csv_file(own: Path, tmp_path: Path):
    moved = tmp_path / "lists" / "own.csv"
    moved.parent.mkdir()
    moved.write_text(own.read_text())
    assert main([str(moved)]) == 1
    assert main([str(moved), "--root", str(tmp_path)]) == 0


def test_json_holds_counts_and_findings(own: Path, capsys: pytest.CaptureFixture[str]):
    own.write_text(own.read_text().replace("3,1,gallery", "3,0,gallery"))
    assert main([str(own), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["counts"]["train"] == {"images": 4, "ids": 2, "cameras": 2}
    assert report["problems"] == 1
    assert report["published"] is None
    (finding,) = report["findings"]
    assert (finding["level"], finding["code"], finding["count"]) == ("problem", "one_camera", 1)
    assert "evaluate with protocol no_camera" in finding["text"]


def test_market1501_is_compared_with_the_published_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    names = ["bounding_box_train/0002_c1s1.jpg", "bounding_box_train/0002_c2s1.jpg", "query/0001_c1s1.jpg",
             "bounding_box_test/0001_c2s1.jpg", "bounding_box_test/-1_c2s1.jpg"]  # fmt: skip
    for n, name in enumerate(names):
        image(tmp_path / "market1501" / name, n)
    (tmp_path / "market1501" / "query" / "Thumbs.db").write_bytes(b"x")
    assert main([str(tmp_path), "--dataset", "market1501"]) == 1
    text = capsys.readouterr().out
    assert "2 images (published 12936)" in text
    assert "1 ids (published 750)" in text
    assert "note: 1 junk images (identity -1) left out (published: 3819)" in text
    assert "note: 1 entries are no images of this data set" in text


def test_published_counts_stand_beside_those_of_any_data_set_and_options_reach_its_reader(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for n, (cam, pid, angle) in enumerate(
        (cam, pid, angle) for cam, angle in (("a", 0), ("b", 90)) for pid in range(1, 5)
    ):
        image(tmp_path / "VIPeR" / f"cam_{cam}" / f"{pid:03d}_{angle}.bmp", n)
    arguments = [str(tmp_path), "--dataset", "viper", "--option", "split=3"]
    assert main([*arguments, "--option", "seed=1"]) == 1
    text = capsys.readouterr().out
    assert "4 images (published 632)        2 ids (published 316)        2 cameras (published 2)" in text
    assert "note: split 3 of 20 drawn with seed 1; publications that drew their own used other splits" in text
    assert "problem: train: 4 images (published: 632), 2 ids (published: 316); figures from it" in text
    assert text.endswith("3 problems found (images not decoded; --verify does)\n")
    assert main([*arguments, "--option", "combineall=True", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["published"] == {"train": {"images": 1264, "ids": 632, "cameras": 2}}
    assert report["counts"] == {"train": {"images": 8, "ids": 4, "cameras": 2}}
    (tmp_path / "VIPeR" / "cam_b" / "004_90.bmp").unlink()
    assert main(arguments) == 1
    assert "problem: viper: " in (text := capsys.readouterr().out)
    assert "got no image of 1 identities that the other camera has (4)" in text


def test_a_bar_on_a_terminal_and_none_elsewhere(own: Path, monkeypatch: pytest.MonkeyPatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream in (io.StringIO(), Terminal()):
        monkeypatch.setattr(sys, "stderr", stream)
        assert main([str(own)]) == 0
        assert ("checking files" in stream.getvalue()) == stream.isatty()
    assert "6/6" in stream.getvalue()


def test_the_packaged_sample_is_clean_and_described(capsys: pytest.CaptureFixture[str]):
    assert main(["--dataset", "sample", "--verify"]) == 0
    assert (
        "this is one camera with two pseudo-cameras (left and right of a lamp post) and eleven people"
        in capsys.readouterr().out
    )


def test_as_a_command_with_names_that_no_terminal_can_print(own: Path):
    strange = os.fsdecode(b"\xff\xe9.csv")
    own.rename(own.parent / strange)
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "fastreid_ops.check_data", strange]
    done = subprocess.run(
        command, cwd=own.parent, env=environment, capture_output=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    (own.parent / strange).write_text("path;pid\n")
    done = subprocess.run(
        command, cwd=own.parent, env=environment, capture_output=True, timeout=120, check=False
    )
    assert done.returncode == 2
    assert b"separated by semicolons" in done.stderr
    assert b"Traceback" not in done.stderr


def test_checking_needs_no_torch():
    code = "import sys, fastreid_ops.check_data as c; c.main(['--dataset', 'sample']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
