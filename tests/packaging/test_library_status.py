# SPDX-License-Identifier: Apache-2.0
"""_library.py on broken installations: it says why, names both torch versions and the command, and warns once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

REPORT = """
import json, sys, warnings
from fastreid_ops import _library
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    first, second = _library.load(), _library.load()
assert first is second is _library.status()
print(json.dumps(first._asdict() | {"warnings": [f"{w.category.__name__}: {w.message}" for w in seen]}))
"""
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")


@pytest.fixture
def package(root: Path, tmp_path: Path) -> Path:
    """An installation that holds the loader and no library yet."""
    folder = tmp_path / "site/fastreid_ops"
    folder.mkdir(parents=True)
    for name in ("__init__.py", "_library.py", "_version.py"):
        shutil.copy(root / "fastreid_ops" / name, folder)
    return folder


def load(
    package: Path, torch: str = "2.13.0", cuda: str | None = None, gpu: bool = False, **env: str
) -> dict:
    """What load() says beside a torch that has this version and nothing else."""
    stub = package.parent / "torch"
    stub.mkdir(exist_ok=True)
    (stub / "__init__.py").write_text(
        f"__version__ = {torch!r}\n"
        f"class version: cuda = {cuda!r}\n"
        f"class cuda:\n    @staticmethod\n    def is_available(): return {gpu}\n"
        "class ops:\n    @staticmethod\n    def load_library(path): raise OSError(f'{path}: undefined symbol: x')\n"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", REPORT],  # -S: an editable installation would lend its own library
        env=os.environ | {"PYTHONPATH": str(package.parent)} | env,
        cwd=package.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def core(package: Path, version: str, cuda: str | None = None) -> None:
    facts = f"version = {version!r}\ntorch_version = '2.12.0'\ncuda_version = {cuda!r}\n"
    (package / "_C.py").write_text(facts)


@pytest.fixture
def version(root: Path) -> str:
    return (root / "fastreid_ops/_version.py").read_text().split('"')[1]


def test_never_built(package):
    found = load(package)
    assert (found["native"], found["cuda"]) == (False, False)
    assert found["reason"] == f"the native library was never built in {package}"
    assert found["fix"].startswith(f"{sys.executable} -m pip install ")
    assert found["warnings"] == [
        f"RuntimeWarning: fastreid_ops: {found['reason']}. All operators take the slow plain-torch path. "
        f"To mend it: {found['fix']}"
    ]


def test_built_for_another_python(package):
    (package / "_C.cpython-39-x86_64-linux-gnu.so").write_bytes(b"")
    this = f"cpython-{sys.version_info.major}{sys.version_info.minor}"
    assert load(package)["reason"] == (
        "the native library was built for another Python "
        f"(_C.cpython-39-x86_64-linux-gnu.so; this one is {this})"
    )


def test_does_not_load_names_both_torch_versions(package):
    (package / f"_C{SUFFIX}").write_bytes(b"not a library \0fastreid-ops built with torch 2.15.0+cu130\0")
    found = load(package, torch="2.10.1")
    assert "built with torch 2.15.0+cu130, does not load with torch 2.10.1 (" in found["reason"]
    assert found["built_torch"] == "2.15.0+cu130"
    assert len(found["warnings"]) == 1


def test_the_real_library_says_what_it_was_built_with():
    import torch

    from fastreid_ops import _C, _library

    assert _library.built_with(Path(_C.__file__)) == _C.torch_version
    assert torch.__version__ == _library.status().torch


def test_left_over_from_another_version(package, version):
    core(package, "0.0.1")
    found = load(package)
    assert found["reason"] == f"the native library was built from fastreid-ops 0.0.1, this is {version}"
    assert not found["native"]


def test_all_is_well_on_cpu_torch(package, version):
    core(package, version, cuda="13.0")
    (package / "_cuda.so").write_bytes(b"")
    found = load(package)
    assert (found["native"], found["cuda"], found["reason"], found["warnings"]) == (True, False, None, [])


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize(
    ("built", "file", "says"),
    [
        (None, False, "torch 2.13.0 has CUDA 13.0, but fastreid-ops was built for the CPU only"),
        ("12.8", True, "fastreid-ops was built with CUDA 12.8, torch 2.13.0 has CUDA 13.0"),
        ("13.2", True, "the CUDA kernels do not load with torch 2.13.0: "),
    ],
)
def test_cuda_kernels_missing_warns_where_there_is_a_gpu(package, version, built, file, says, gpu):
    core(package, version, built)
    if file:
        (package / "_cuda.so").write_bytes(b"")
    found = load(package, cuda="13.0", gpu=gpu)
    assert (found["native"], found["cuda"]) == (True, False)
    assert found["reason"].startswith(says)
    assert found["fix"].startswith("FASTREID_CUDA=1 ")
    assert [warning for warning in found["warnings"] if "CUDA tensors take the slow" in warning] == found[
        "warnings"
    ]
    assert len(found["warnings"]) == gpu


def test_unknown_instruction_set(package):
    with pytest.raises(
        AssertionError, match="FASTREID_ISA: got 'sse9', expected baseline, avx2, avx512 or avx512_bf16"
    ):
        load(package, FASTREID_ISA="sse9")


def test_rebuild_command_of_a_checkout_and_of_an_installation(package, version):
    assert load(package)["fix"].endswith(f" --no-binary fastreid-ops fastreid-ops=={version}")
    record = package.parent / f"fastreid_ops-{version}.dist-info"
    record.mkdir()
    (record / "METADATA").write_text(f"Metadata-Version: 2.4\nName: fastreid-ops\nVersion: {version}\n")
    (record / "direct_url.json").write_text('{"url": "file:///sources/fastreid", "dir_info": {}}')
    assert load(package)["fix"].endswith(
        " --force-reinstall --no-deps --no-cache-dir file:///sources/fastreid"
    )
    for name in ("setup.py", "CMakeLists.txt"):
        (package.parent / name).touch()
    assert load(package)["fix"] == f"{sys.executable} -m pip install -e {package.parent}"
