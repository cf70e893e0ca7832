# SPDX-License-Identifier: Apache-2.0
"""Checkpoint files alone: verification, fallback, and foreign or malicious content that is named and not run."""

import io
import os
import pickle
import subprocess
import zipfile

import numpy as np
import pytest
import torch

from fastreid_ops.engine import checkpoint
from fastreid_ops.engine.checkpoint import (
    CheckpointError,
    load_plain,
    newest,
    read,
    sidecar,
    step_name,
    write,
)

CONTENT = {"step": 7, "weights": torch.arange(300.0), "config": {"lr": 0.1, "list": [1, None, True, "x"]}}


@pytest.fixture
def written(tmp_path):
    path = tmp_path / step_name(7)
    write(path, CONTENT)
    return path


def test_round_trip(written):
    content = read(written)
    assert torch.equal(content.pop("weights"), CONTENT["weights"])
    assert content == {
        "format": "fastreid_ops.checkpoint",
        "version": 1,
        "step": 7,
        "config": CONTENT["config"],
    }


def test_the_sidecar_is_what_sha256sum_checks(written):
    done = subprocess.run(
        ["sha256sum", "-c", sidecar(written).name], cwd=written.parent, capture_output=True, text=True
    )
    assert done.stdout == f"{written.name}: OK\n"


def test_equal_content_gives_equal_files(tmp_path):
    assert write(tmp_path / "a.pt", CONTENT) == write(tmp_path / "b.pt", CONTENT)


def test_keep_last(tmp_path):
    for step in (1, 2, 10, 9):
        write(tmp_path / step_name(step), {"step": step})
    write(tmp_path / "best.pt", {"step": 1})
    (tmp_path / "step-00000003.pt.sha256").write_text("left alone by a kill")
    (tmp_path / "step-00000004.pt.tmp").write_text("half a file")
    checkpoint.keep_last(tmp_path, 3)
    kept = {p.name for p in tmp_path.iterdir()}
    names = ["best.pt", *(step_name(s) for s in (2, 9, 10))]
    assert kept == {name + end for name in names for end in ("", ".sha256")}


def test_every_flipped_bit_is_seen(written):
    data = written.read_bytes()
    for place in range(0, len(data), 61):
        changed = bytearray(data)
        changed[place] ^= 1 << (place % 8)
        written.write_bytes(changed)
        with pytest.raises(CheckpointError, match="got sha256"):
            read(written)
    written.write_bytes(data)
    read(written)


@pytest.mark.parametrize("keep", [0, 1, 100, 0.3, 0.5, 0.9, 0.99, -1])
def test_every_truncation_is_seen(written, keep):
    data = written.read_bytes()
    written.write_bytes(data[: int(keep * len(data)) if 0 < keep < 1 else keep])
    with pytest.raises(CheckpointError, match=r"got sha256 .* bytes, expected"):
        read(written)


def test_fallback_and_its_words(tmp_path):
    told = []
    assert newest(tmp_path, told.append) is None
    for step in (1, 2, 3):
        write(tmp_path / step_name(step), {"step": step})
    (tmp_path / step_name(3)).write_bytes(b"x")
    sidecar(tmp_path / step_name(2)).unlink()
    path, content = newest(tmp_path, told.append)
    assert (path.name, content["step"]) == (step_name(1), 1)
    assert "step-00000003.pt: got sha256" in told[0]
    assert "step-00000002.pt: got no sha256 beside it" in told[1]
    (tmp_path / step_name(1)).write_bytes(b"")
    with pytest.raises(CheckpointError, match="got 3 unsound checkpoints"):
        newest(tmp_path, told.append)


def test_overwriting_keeps_the_old_one_valid_until_the_rename(tmp_path, monkeypatch):
    """A crash just before the rename: old file, sidecar that lists both."""
    path = tmp_path / "best.pt"
    write(path, {"step": 1})
    real = os.replace

    def crash(source, target):
        if os.fspath(target) == os.fspath(path):
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", crash)
    for step in (2, 3):
        with pytest.raises(KeyboardInterrupt):
            write(path, {"step": step})
        assert read(path)["step"] == 1
    monkeypatch.undo()
    assert len(sidecar(path).read_text().splitlines()) > 1
    write(path, {"step": 4})
    assert read(path)["step"] == 4
    assert len(sidecar(path).read_text().splitlines()) == 1


class Call:
    """Unpickles into a call."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def saved(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def zipped(data):
    """A torch file whose data.pkl is `data`."""
    source, buffer = zipfile.ZipFile(io.BytesIO(saved({"a": 1}))), io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        for name in source.namelist():
            target.writestr(name, data if name.endswith("data.pkl") else source.read(name))
    return buffer.getvalue()


MALICIOUS = {
    "system": (lambda mark: saved(Call(os.system, f"touch {mark}")), "posix.system"),
    "nested": (
        lambda mark: saved({"model": {"w": torch.ones(1)}, "x": [Call(os.system, f"touch {mark}")]}),
        "posix.system",
    ),
    "eval": (lambda mark: saved(Call(eval, f"open({str(mark)!r}, 'w')")), "builtin__.eval"),
    "exec": (lambda mark: saved(Call(exec, f"open({str(mark)!r}, 'w')")), "builtin__.exec"),
    "open": (lambda mark: saved(Call(open, str(mark), "w")), "io.open"),
    "subprocess": (lambda mark: saved(Call(subprocess.Popen, ["touch", str(mark)])), "Popen"),
    "getattr": (lambda mark: saved(Call(getattr, "text", "upper")), "builtin__.getattr"),
    "import": (lambda mark: saved(Call(__import__, "antigravity")), "builtin__.__import__"),
    "remove": (lambda mark: saved(Call(os.remove, "/nowhere")), "posix.remove"),
    "protocol 0": (
        lambda mark: zipped(pickle.dumps(Call(os.system, f"touch {mark}"), protocol=0)),
        "posix.system",
    ),
    "protocol 4": (
        lambda mark: zipped(pickle.dumps({"a": "b", "c": Call(os.system, f"touch {mark}")}, 4)),
        "posix.system",
    ),
    "protocol 5": (
        lambda mark: zipped(pickle.dumps([Call(os.system, f"touch {mark}")] * 2, 5)),
        "posix.system",
    ),
    "hidden after a stop": (
        lambda mark: zipped(
            pickle.dumps({"a": 1}, protocol=2)[:-1] + pickle.dumps(Call(os.system, f"touch {mark}"), 2)[2:]
        ),
        "posix.system",
    ),
    "module": (lambda mark: saved(torch.nn.Linear(1, 1)), "torch.nn.modules.linear.Linear"),
    "numpy scalar": (lambda mark: saved({"rank1": np.float32(0.5)}), "numpy"),
}


@pytest.mark.parametrize("name", list(MALICIOUS))
def test_malicious_and_foreign_content_is_named_and_not_run(tmp_path, name):
    mark = tmp_path / "was-run"
    make, listed = MALICIOUS[name]
    data = make(mark)
    with pytest.raises(CheckpointError) as error:
        load_plain(data, "file.pt")
    assert listed in str(error.value)
    assert str(error.value).startswith("checkpoint: file.pt: got a file that names code:")
    assert not mark.exists()


@pytest.mark.parametrize(
    "data",
    {
        "empty": b"",
        "text": b"hello",
        "plain pickle": pickle.dumps({"a": 1}),
        "malicious plain pickle": pickle.dumps(Call(os.system, "touch /tmp/never")),
        "zip without a pickle": zipped(b"")[:0] or b"PK\x05\x06" + 18 * b"\0",
        "empty data.pkl": zipped(b""),
        "data.pkl without end": zipped(b"\x80\x02}"),
        "unknown opcode": zipped(b"\x80\x02\xff."),
        "too much popped": zipped(b"\x80\x020."),
        "memo that is not there": zipped(b"\x80\x02h\x07."),
        "not a dict": saved([1, 2]),
        "dict of another program": saved({"state_dict": {}}),
        "other version": saved({"format": checkpoint.FORMAT, "version": 99}),
    }.items(),
    ids=lambda item: item[0],
)
def test_files_that_are_no_checkpoint(tmp_path, data):
    import hashlib

    path = tmp_path / step_name(1)
    path.write_bytes(data[1])
    sidecar(path).write_text(f"{hashlib.sha256(data[1]).hexdigest()}  {path.name}\n")
    with pytest.raises(CheckpointError, match=f"checkpoint: {path}: got "):
        read(path)


def test_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match="No such file"):
        read(tmp_path / "nothing.pt")
