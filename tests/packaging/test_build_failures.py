# SPDX-License-Identifier: Apache-2.0
"""Every way a build fails ends in one sentence that says what to do: setup.py really runs, in a clean copy."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import setuptools

# Packages without which setup.py cannot even start; a build without isolation may lack all others.
HIDE = """
import importlib.abc, os, sys
class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in os.environ["HIDDEN"].split(","):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
"""


@pytest.fixture
def build(clean_copy: Path, tmp_path: Path):
    """Runs ``setup.py build_ext`` with ``bin`` as the whole PATH and returns what it printed last; it must fail."""

    def run(path: str | None = None, hidden: str = "", python: str = sys.executable, **env: str) -> str:
        (tmp_path / "sitecustomize.py").write_text(HIDE)
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("FASTREID", "TORCH_CUDA", "CUDA"))}
        clean |= {"PYTHONPATH": str(tmp_path), "HIDDEN": hidden, "PATH": path or os.environ["PATH"]}
        done = subprocess.run(
            [python, "setup.py", "build_ext", "--build-lib", str(tmp_path / "lib")],
            cwd=clean_copy,
            env=clean | env,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1, done.stdout
        assert "Traceback" not in done.stderr
        assert not list((tmp_path / "lib").rglob("*.so"))
        return done.stderr.strip().splitlines()[-1]

    return run


@pytest.fixture
def tools(tmp_path: Path):
    """A PATH of one folder holding links to the named tools (or scripts, where a text is given) and nothing else."""

    def make(*links: str, **scripts: str) -> str:
        folder = tmp_path / "bin"
        folder.mkdir()
        for name in links:
            if shutil.which(name):
                (folder / name).symlink_to(shutil.which(name))
        for name, text in scripts.items():
            (folder / name).write_text(f"#!/bin/sh\n{text}\n")
            (folder / name).chmod(0o755)
        return str(folder)

    return make


def test_no_compiler(build, tools):
    sentence = build(tools("sh"), CXX="")
    assert sentence == (
        "fastreid-ops: no C++ compiler was found: install one (Debian, Ubuntu: `apt-get install g++`) or set CXX."
    )


def test_named_compiler_is_not_there(build):
    assert build(CXX="no-such-compiler -O1").startswith(
        "fastreid-ops: CXX=no-such-compiler is not there: install one"
    )


def test_no_torch(build, tmp_path):
    venv.create(tmp_path / "empty", with_pip=False, symlinks=True)
    site = Path(setuptools.__file__).parents[1]
    for name in ("setuptools", "_distutils_hack"):
        (tmp_path / name).symlink_to(site / name)
    sentence = build(python=str(tmp_path / "empty/bin/python"))
    assert sentence == (
        "fastreid-ops: no torch to build against: run `pip install 'torch>=2.11,<2.14'` first, "
        "or leave out --no-build-isolation."
    )


def test_torch_too_old(build, fake_torch):
    sentence = build(FASTREID_TORCH=str(fake_torch("2.10.0+cu128", "12.8")))
    assert sentence.startswith("fastreid-ops: torch 2.10.0+cu128 in ")
    assert sentence.endswith("is too old: run `pip install 'torch>=2.11,<2.14'` and install again.")


@pytest.mark.parametrize("missing", ["cmake", "ninja", "pybind11", "Cython"])
def test_no_build_tool(build, tools, missing):
    sentence = build(tools("c++", "g++", "sh"), hidden=missing, CXX="")
    assert sentence.startswith(f"fastreid-ops: {missing} was not found: run `pip install 'setuptools>=77' ")


def test_cuda_asked_for_without_nvcc(build, tmp_path):
    sentence = build(FASTREID_CUDA="1", CUDA_HOME=str(tmp_path))
    assert sentence == (
        "fastreid-ops: nvcc was not found: install the CUDA toolkit or point CUDA_HOME at it, "
        "or set FASTREID_CUDA=0 to build for the CPU only."
    )


def test_cuda_of_another_major_version(build, tools, fake_torch):
    nvcc = "echo 'Cuda compilation tools, release 12.8, V12.8.93'"
    torch = fake_torch("2.13.0+cu130", "13.0")
    path = tools("c++", "g++", "sh", nvcc=nvcc)
    sentence = build(path, FASTREID_CUDA="1", FASTREID_TORCH=str(torch), CUDACXX=f"{path}/nvcc", CXX="")
    assert (
        "nvcc is CUDA 12.8 but torch 2.13.0+cu130 was built with CUDA 13.0: point CUDA_HOME at a CUDA 13"
        in sentence
    )


def test_bad_architecture_list(build, tools):
    nvcc = """case $1 in --version) echo 'release 13.0, V13.0.88';; *) echo sm_90; echo sm_100;; esac"""
    path = tools("c++", "g++", "sh", nvcc=nvcc)
    env = {"FASTREID_CUDA": "1", "CUDACXX": f"{path}/nvcc", "CXX": ""}
    sentence = build(path, TORCH_CUDA_ARCH_LIST="9.0;Ampere", **env)
    assert sentence.startswith(
        "fastreid-ops: TORCH_CUDA_ARCH_LIST: got 'Ampere', expected compute capabilities"
    )
    sentence = build(path, TORCH_CUDA_ARCH_LIST="3.5", **env)
    assert "got '3.5'" in sentence
    assert "(this nvcc knows 90, 100)" in sentence


def test_compiler_that_fails(build, tools):
    path = tools("sh", **{"broken-c++": "echo 'internal compiler error: out of luck' >&2; exit 4"})
    sentence = build(path, CXX=f"{path}/broken-c++")
    assert sentence.startswith("fastreid-ops: configuring with CMake failed; the first error above says why")


def test_stale_cuda_library_goes_where_cuda_is_not_built(clean_copy, tmp_path, setup_module, monkeypatch):
    """It would be loaded beside a _C of another version. It goes before anything is compiled."""
    stale = [clean_copy / "fastreid_ops/_cuda.so", tmp_path / "lib/fastreid_ops/_cuda.so"]
    for file in stale:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"old")
    env = os.environ | {
        "FASTREID_CUDA": "0",
        "HIDDEN": "cmake",
        "PYTHONPATH": str(tmp_path),
        "PATH": "/nonexistent",
    }
    (tmp_path / "sitecustomize.py").write_text(HIDE)
    compiler = shutil.which("c++") or shutil.which("g++")
    done = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--build-lib", str(tmp_path / "lib")],
        cwd=clean_copy,
        env=env | {"CXX": compiler},
        capture_output=True,
        text=True,
    )
    assert "cmake was not found" in done.stderr
    assert [file.exists() for file in stale] == [False, False]
