# SPDX-License-Identifier: Apache-2.0
"""python -m fastreid_ops.doctor: what it finds here, and what it says of broken installations."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from fastreid_ops import _C, __version__, _library, doctor


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fastreid_ops.doctor", *arguments]
    return subprocess.run(command, env=os.environ | env, capture_output=True, text=True)


def test_json_of_this_installation():
    done = run("--json")
    assert done.returncode == 0, done.stdout
    facts = json.loads(done.stdout)
    assert facts["ok"] is True
    assert facts["native"] is True
    assert facts["fastreid_ops"] == __version__
    assert facts["torch"] == {"running": torch.__version__, "built with": _C.torch_version}
    assert facts["isa"]["best"] == _C.best_isa().name
    assert facts["libraries"]["_C"] == [os.path.basename(_C.__file__)]
    assert {name for name, result in facts["checks"].items() if result["ok"]} == {
        "pairwise_distance",
        "rank_metrics",
        "nearest",
        "channel_attention",
        "rank_features",
        "k_reciprocal",
    }
    assert "pytest" in facts["extras"]["test"]


@pytest.mark.parametrize("isa", ["baseline", _C.best_isa().name])
def test_instruction_set_from_the_environment(isa):
    done = run("--json", FASTREID_ISA=isa)
    assert done.returncode == 0
    assert json.loads(done.stdout)["isa"] == {"best": _C.best_isa().name, "active": isa}


def test_unknown_instruction_set():
    done = run(FASTREID_ISA="sse9")
    assert done.returncode == 1
    assert "Problem: FASTREID_ISA: got 'sse9', expected baseline, avx2, avx512 or avx512_bf16" in done.stdout
    assert "To mend:  unset FASTREID_ISA" in done.stdout
    assert not done.stderr


def test_text_of_this_installation(capsys):
    assert doctor.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["fastreid-ops", __version__]
    assert any(line.split()[:2] == ["rank_metrics", "ok:"] for line in lines)
    assert lines[-1] in ("All is well.", "Works, with the remark above.")


def test_an_operator_that_is_wrong(monkeypatch, capsys):
    monkeypatch.setitem(doctor.CHECKS, "rank_metrics", (lambda torch: 0.25, 1e-12))
    assert doctor.main([]) == 1
    text = capsys.readouterr().out
    assert "Problem: rank_metrics is wrong: differs from reference() by 2.5e-01 (allowed 1e-12)" in text
    assert f"To mend:  {_library.rebuild_command()}" in text
    assert text.endswith("Not working.\n")


def test_a_check_finds_a_wrong_operator(monkeypatch):
    from fastreid_ops.ops import distance

    right = distance.pairwise_distance
    monkeypatch.setattr(distance, "pairwise_distance", lambda x, y: right(x, y) + torch.eye(5, 7) * 0.01)
    result = doctor._self_checks(torch)["pairwise_distance"]
    assert not result["ok"]
    monkeypatch.setattr(distance, "pairwise_distance", lambda x, y: torch.full((5, 7), float("nan")))
    assert not doctor._self_checks(torch)["pairwise_distance"]["ok"]


def test_native_library_missing(monkeypatch, capsys):
    status = _library.status()._replace(
        native=False, reason="the native library was never built", fix="pip install x"
    )
    monkeypatch.setattr(_library, "status", lambda: status)
    assert doctor.main([]) == 1
    text = capsys.readouterr().out
    assert "Problem: the native library was never built\nTo mend:  pip install x\n" in text


def test_torch_missing(tmp_path):
    (tmp_path / "torch.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n"
    )
    done = run("--json", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    (problem,) = json.loads(done.stdout)["problems"]
    assert problem["problem"] == "torch cannot be imported: No module named 'torch'"
    assert problem["fix"].endswith("-m pip install 'torch>=2.11,<2.14'")


def test_unknown_option():
    assert run("--jason").returncode == 2
