# SPDX-License-Identifier: Apache-2.0
"""Run folders, atomic files, metrics and the log."""

import json
import os
import re

import pytest
from tqdm import tqdm

from fastreid_ops._atomic import write_atomic
from fastreid_ops.engine import run_folder
from fastreid_ops.engine.log import Log, Metrics, Progress, duration, open_board
from fastreid_ops.engine.run_folder import RunFolder, RunFolderError, create, reopen


def test_default_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_folder.time, "strftime", lambda pattern: "20260102-030405")
    folders = [create(None, "default") for _ in range(3)]
    assert [str(f.path.relative_to(tmp_path)) for f in folders] == [
        f"runs/default-20260102-030405-{n}" for n in (1, 2, 3)
    ]
    for folder in folders:
        folder.release()


def test_a_folder_is_used_once(tmp_path):
    folder = create(str(tmp_path / "run"), "x")
    with pytest.raises(RunFolderError, match="second run in this process"):
        create(str(tmp_path / "run"), "x")
    folder.write_text("config.yaml", "a: 1\n")
    folder.release()
    with pytest.raises(RunFolderError, match=r"not empty.*--resume"):
        create(str(tmp_path / "run"), "x")
    again, remark = reopen(tmp_path / "run")
    assert remark is None
    again.release()


def test_a_start_that_was_killed_at_once_leaves_an_unused_folder(tmp_path):
    for name in ("run.lock", "recipe.txt", "environment.json.tmp", "log.txt"):
        (tmp_path / name).write_text("")
    (tmp_path / "checkpoints").mkdir()
    create(str(tmp_path), "x").release()
    (tmp_path / "checkpoints" / "step-00000001.pt").write_text("")
    with pytest.raises(RunFolderError, match="not empty"):
        create(str(tmp_path), "x")


def test_write_atomic_keeps_the_old_file_on_an_error(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomic(path, b"old")
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(5, "Input/output error"))
    )
    with pytest.raises(OSError, match="Input/output"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_write_atomic_survives_short_writes(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, bytes(data)[:3]))
    write_atomic(tmp_path / "file", b"0123456789")
    assert (tmp_path / "file").read_bytes() == b"0123456789"


def test_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        RunFolder(tmp_path).write_json("a.json", {"a": float("nan")})


def test_metrics_position_and_truncation(tmp_path):
    metrics = Metrics(tmp_path / "metrics.jsonl")
    metrics.append(
        {"kind": "train", "step": 1, "loss": 0.1, "grad_norm": float("inf"), "losses": {"id": float("nan")}}
    )
    position = metrics.position()
    metrics.append({"kind": "train", "step": 2})
    assert metrics.truncate(position) == 0
    metrics.append({"kind": "train", "step": 2, "again": True})
    metrics.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[0] == {"kind": "train", "step": 1, "loss": 0.1, "grad_norm": None, "losses": {"id": None}}
    assert lines[1] == {"kind": "train", "step": 2, "again": True}
    assert (
        Metrics(tmp_path / "metrics.jsonl").truncate(10_000)
        == 10_000 - (tmp_path / "metrics.jsonl").stat().st_size
    )


def test_metrics_never_hold_half_a_line(tmp_path, monkeypatch):
    metrics = Metrics(tmp_path / "metrics.jsonl")
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:5]))
    metrics.append({"step": 1})
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""
    with pytest.raises(OSError, match="No space"):
        metrics.position()
    monkeypatch.undo()
    metrics.append({"step": 2})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n'


def test_log_goes_to_both_places(tmp_path, capsys):
    log = Log(tmp_path / "log.txt")
    log.say("one")
    log.warn("two")
    log.note("three")
    log.close()
    assert capsys.readouterr().out == "one\nwarning: two\n"
    assert (tmp_path / "log.txt").read_text() == "one\nwarning: two\nthree\n"


def _record(step):
    return {"step": step, "loss": 2.0 * step, "losses": {"id": 2.0 * step}, "lr": 1e-3, "images_per_s": 10.0}


def test_plain_progress_lines(capsys, monkeypatch):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr("fastreid_ops.engine.log.time.monotonic", lambda: next(clock))
    progress = Progress(Log(), 2, 0.0, terminal=False)
    for epoch in range(2):
        progress.epoch(epoch, 4, 0)
        for done in range(1, 5):
            progress.step(epoch, done, 4, _record(done))
    lines = capsys.readouterr().out.splitlines()
    assert sum("batch 4/4" in line for line in lines) == 2
    assert re.search(
        r"^epoch 1/2 batch \d/4 step \d: mean loss [\d.]+ id [\d.]+, lr 1.00e-03, 10 images/s, \d+:\d\d left$",
        lines[0],
    )
    assert lines[-1].endswith(" 0:00 left")


class EveryUpdate(tqdm):
    def __init__(self, **more):
        super().__init__(mininterval=0, **more)


def test_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr("fastreid_ops.engine.log.tqdm", EveryUpdate)
    progress = Progress(Log(), 1, 0.0, terminal=True)
    progress.epoch(0, 3, 1)
    for done in (2, 3):
        progress.step(0, done, 3, _record(done))
    progress.close()
    shown = capsys.readouterr()
    assert "epoch 1/1" in shown.err
    assert "run ends in" in shown.err
    assert shown.out.count("\n") == 1


def test_duration():
    assert [duration(s) for s in (0.4, 59.6, 3599, 7322)] == ["0:00", "1:00", "59:59", "2:02:02"]


def test_tensorboard_is_optional(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r"pip install 'fastreid-ops\[tensorboard\]'"):
        open_board(tmp_path, 0)
    seen = []

    class Board:
        def add_scalar(self, name, value, step):
            seen.append((name, value, step))

        def close(self):
            seen.append("closed")

    metrics = Metrics(tmp_path / "m.jsonl", Board())
    metrics.append({"kind": "train", "epoch": 0, "step": 3, "loss": 0.5, "losses": {"id": 0.25}})
    metrics.append({"kind": "eval", "epoch": 1, "step": 3, "set": "people", "mAP": 0.75})
    metrics.close()
    assert seen == [
        ("train/loss", 0.5, 3),
        ("train/losses/id", 0.25, 3),
        ("eval/people/mAP", 0.75, 3),
        "closed",
    ]
