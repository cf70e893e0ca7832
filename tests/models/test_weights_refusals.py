# SPDX-License-Identifier: Apache-2.0
"""Files that would run something, or are no weights: one sentence, nothing run, the model as it was."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import operator
import os
import pickle
import runpy
import subprocess
import tarfile
import zipfile
from argparse import Namespace

import numpy as np
import pytest
import torch
from torch import nn

from fastreid_ops.models import load_weights, read_weights

SCALAR = np.float32(0).__reduce__()[0]


class Call:
    """Unpickles into a call."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments

    def __call__(self):
        """Only so that what it unpickles into can be called in turn."""


def saved(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def saved_before_1_6(content):
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def zipped(protocol, content):
    """A torch file whose data.pkl has another protocol than torch's."""
    source, buffer = zipfile.ZipFile(io.BytesIO(saved({"a": 1}))), io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            target.writestr(name, pickle.dumps(content, protocol) if name.endswith("data.pkl") else data)
    return buffer.getvalue()


def tarred(content):
    """torch's first format, a tar of pickles."""
    data, buffer = pickle.dumps(content, 2), io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("storages", "tensors", "pickle"):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def system(mark):
    return Call(os.system, f"touch {mark}")


def python(mark):
    return f"open({str(mark)!r}, 'w').close()"


def script(mark):
    path = mark.with_name("script.py")
    path.write_text(python(mark))
    return str(path)


def inner_file(mark):
    path = mark.with_name("inner.pt")
    path.write_bytes(saved(system(mark)))
    return str(path)


ATTACKS = {
    "os.system": (saved, system),
    "eval": (saved, lambda mark: Call(eval, python(mark))),
    "exec": (saved, lambda mark: Call(exec, python(mark))),
    "subprocess.Popen": (saved, lambda mark: Call(subprocess.check_call, ["touch", str(mark)])),
    "open": (saved, lambda mark: Call(open, str(mark), "w")),
    "under state_dict": (saved, lambda m: {"state_dict": {"weight": torch.ones(1, 2), "bias": system(m)}}),
    "beside the weights": (saved, lambda m: {"net": {"weight": torch.ones(1, 2)}, "mAP": system(m)}),
    "before torch 1.6": (saved_before_1_6, lambda m: {"state_dict": {"weight": system(m)}}),
    "plain pickle": (functools.partial(pickle.dumps, protocol=2), system),
    "tar": (tarred, system),
    "zip, protocol 0": (functools.partial(zipped, 0), system),
    "zip, protocol 4": (functools.partial(zipped, 4), lambda mark: {"state_dict": [system(mark)] * 2}),
    "importlib": (
        saved,
        lambda mark: Call(
            operator.methodcaller("system", f"touch {mark}"), Call(importlib.import_module, "os")
        ),
    ),
    "operator.attrgetter": (
        saved,
        lambda mark: Call(
            Call(operator.attrgetter("system"), Call(importlib.import_module, "os")), f"touch {mark}"
        ),
    ),
    "runpy": (saved, lambda mark: Call(runpy.run_path, script(mark))),
    "numpy scalar of objects": (
        saved,
        lambda mark: {"net": {"weight": torch.ones(1, 2)}, "mAP": Call(SCALAR, np.dtype("O"), system(mark))},
    ),
    "through torch's rebuilding": (
        saved,
        lambda mark: Call(
            torch._tensor._rebuild_from_type_v2, os.system, torch.Tensor, (f"touch {mark}",), {}
        ),
    ),
    "torch.load": (
        saved,
        lambda mark: Call(functools.partial(torch.load, weights_only=not True), inner_file(mark)),
    ),
}


def refused(path, model):
    """The message, after a look at the model."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError) as caught:
        load_weights(model, path)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    text = str(caught.value)
    assert text.startswith(f"load_weights: source: got {path}, ")
    assert "\n" not in text
    return text


@pytest.mark.parametrize("name", list(ATTACKS))
def test_malicious_files_are_refused_and_not_run(tmp_path, name):
    pack, make = ATTACKS[name]
    live, mark, path = tmp_path / "live", tmp_path / "was-run", tmp_path / "model.pth.tar"
    with contextlib.suppress(AttributeError, TypeError):  # of torch's rebuilding and of numpy, after the call
        pickle.loads(pickle.dumps(make(live)))
    assert live.exists(), "the attack itself does nothing"
    path.write_bytes(pack(make(mark)))
    text = refused(path, nn.Linear(2, 1))
    assert "which names " in text or "is no file of plain tensors" in text or "cannot be read" in text
    with pytest.raises(ValueError, match="load_weights: source: got"):
        read_weights(path)
    assert not mark.exists()


def test_the_refusal_names_what_the_file_would_make(tmp_path):
    path = tmp_path / "x.pt"
    for content, named in (
        ({"state_dict": {}, "args": Namespace(lr=1)}, "names argparse.Namespace and"),
        (
            nn.Linear(2, 1),
            "names torch.nn.modules.linear.Linear and",
        ),  # a whole model, as NAIC's scripts also save
        ({"a": Call(eval, "1")}, r"names eval and"),
        ({"net": {"weight": torch.ones(1, 2)}, "x": np.array([{}], object)}, "names numpy.dtype('O8') and"),
        ({"net": {"weight": torch.ones(1, 2)}, "x": np.array(["a"])}, "names numpy.dtype('U1') and"),
    ):
        torch.save(content, path)
        text = refused(path, nn.Linear(2, 1))
        assert f"which {named} is no file of plain tensors; nothing was run from it. If you trust it" in text


def test_numpy_names_stand_for_numbers_only(tmp_path):
    """Calls of numpy's functions that no number or array makes."""
    for content in (Call(SCALAR, torch.float32), Call(np.zeros(1).__reduce__()[0], torch.Size, (1,), b"b")):
        torch.save({"weight": torch.ones(1, 2), "x": content}, tmp_path / "x.pt")
        assert "is no file of plain tensors" in refused(tmp_path / "x.pt", nn.Linear(2, 1))


def test_what_the_process_allows_torch_load_counts_for_nothing_and_stays(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"weight": torch.ones(1, 2), "args": Namespace(lr=1)}, path)
    with torch.serialization.safe_globals([Namespace]):
        before = set(torch.serialization.get_safe_globals())
        assert "argparse.Namespace" in refused(path, nn.Linear(2, 1))
        assert set(torch.serialization.get_safe_globals()) == before
    numbers = tmp_path / "numbers.pt"
    torch.save({"net": {"weight": torch.ones(1, 2)}, "mAP": np.float64(0.5)}, numbers)
    read_weights(numbers)
    with pytest.raises(pickle.UnpicklingError, match=r"numpy.*scalar"):
        torch.load(numbers, weights_only=True)


NUMBERS = {
    "epoch": 60,
    "rank1": np.float32(0.9),
    "mAP": np.float64(0.8),
    "flag": np.bool_(True),
    "count": np.int64(3),
    "cmc": np.linspace(0, 1, 20, dtype=np.float32),
    "best": [np.arange(3), {"x": np.float16(1)}],
}


@pytest.mark.parametrize("pack", [saved, saved_before_1_6])
@pytest.mark.parametrize("core", ["_core", "core"])
def test_numpy_numbers_beside_the_weights(tmp_path, pack, core):
    """As torchreid (rank1) and the LLCM repository (cmc, mAP) save them, by numpy 1 and 2."""
    path, weight = tmp_path / "model.pth.tar-60", torch.tensor([[3.0, 4.0]])
    content = {"state_dict": {"module.weight": weight}, **NUMBERS, "optimizer": {"state": {}}}
    data = pack(content)
    if core == "core":
        data = rewritten(data)
    path.write_bytes(data)
    model = nn.Linear(2, 1)
    report = load_weights(model, path)
    assert torch.equal(model.weight, weight)
    assert set(report.beside) == {*NUMBERS, "optimizer"}
    assert report.missing == ("bias",)
    assert "not looked at: " in report.describe()


def rewritten(data):
    """The same file with numpy 1's names, one letter shorter."""
    if not zipfile.is_zipfile(io.BytesIO(data)):
        assert b"numpy._core.multiarray" in data
        return data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    source, buffer = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        for name in source.namelist():
            part = source.read(name)
            assert b"numpy._core.multiarray" in part or not name.endswith("data.pkl")
            target.writestr(name, part.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    return buffer.getvalue()


def test_python_2_text_and_keys_of_bytes(tmp_path):
    """Python 2 pickled its strings as bytes: a numpy number's bytes then are no text in any encoding but latin1."""
    path, weight = tmp_path / "py2.pth", torch.tensor([[5.0, 6.0]])
    torch.save({b"state_dict": {b"module.weight": weight}, b"epoch": 1}, path)
    model = nn.Linear(2, 1)
    assert load_weights(model, path).beside == ("epoch",)
    assert torch.equal(model.weight, weight)

    def old(text):
        return b"U" + bytes([len(text)]) + text

    data = saved_before_1_6({"weight": weight, "rank1": "RANK"})
    ours = b"X\x04\x00\x00\x00RANK"
    dtype = (
        b"cnumpy\ndtype\n"
        + old(b"f4")
        + b"K\x00K\x01\x87R(K\x03"
        + old(b"<")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    theirs = b"cnumpy.core.multiarray\nscalar\n" + dtype + old(b"\xff\xfe\x80?") + b"\x86R"
    assert data.count(ours) == 1
    data = data.replace(ours, theirs).replace(b"X\x06\x00\x00\x00weight", old(b"weight"))
    path.write_bytes(data)
    model = nn.Linear(2, 1)
    report = load_weights(model, path)
    assert torch.equal(model.weight, weight)
    assert [(s.file, s.reason) for s in report.skipped] == [("rank1", "no tensor")]
    assert "left out: rank1, no tensor" in report.describe()
