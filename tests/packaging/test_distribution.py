# SPDX-License-Identifier: Apache-2.0
"""sdist -> wheel -> installation, from one build: what is in them, that they work, which symbols they carry."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ISAS = ("baseline", "avx2", "avx512")
# What torch promises to keep is C functions. Everything else of it is C++ and changes from version to version.
STABLE = re.compile(r"(aoti_torch_|torch_)\w+")
UNSTABLE = re.compile(r"\b(c10|at|torch|caffe2)::")


def run(*command: str | Path, cwd: Path, **env: str) -> str:
    done = subprocess.run([*map(str, command)], cwd=cwd, env=os.environ | env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sdist(clean_copy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    for name in ("tests/test_nothing.py", "benchmarks/bench_nothing.py", "docs/nothing.md"):
        (clean_copy / name).parent.mkdir(exist_ok=True)
        (clean_copy / name).touch()
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", folder, cwd=clean_copy)
    (file,) = folder.iterdir()
    return file


@pytest.fixture(scope="module")
def unpacked(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (tree,) = folder.iterdir()
    return tree


@pytest.fixture(scope="module")
def wheel(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the unpacked sdist, so its build folder with the object files is there afterwards."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index")
    run(*pip, "--wheel-dir", folder, unpacked, cwd=unpacked, FASTREID_CUDA="0")
    (file,) = folder.iterdir()
    return file


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    pip = (sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", folder)
    run(*pip, wheel, cwd=folder)
    return folder


def source_files(tree: Path, *folders: str) -> set[str]:
    files = (file for folder in folders for file in (tree / folder).rglob("*") if file.is_file())
    return {file.relative_to(tree).as_posix() for file in files if "__pycache__" not in file.parts}


def test_sdist_holds_all_that_builds_and_tests_need(clean_copy, sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = source_files(clean_copy, "csrc", "tools", "fastreid_ops", "tests", "benchmarks", "docs")
    wanted |= {"setup.py", "pyproject.toml", "CMakeLists.txt", "README.md", "LICENSE", "NOTICE"}
    assert not wanted - names
    assert not [name for name in names if name.endswith((".so", ".o", ".pyc")) or name.startswith("build/")]


def test_wheel_holds_the_package_and_its_data(clean_copy, wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    # Recipes, report templates and the sample's tables included; a folder without __init__.py would be missed here.
    assert not source_files(clean_copy, "fastreid_ops") - names
    libraries = {name for name in names if name.endswith(".so")}
    assert {name.split(".")[0] for name in libraries} == {
        "fastreid_ops/_C",
        "fastreid_ops/numpy",
        "fastreid_ops/data/_pixels",
    }
    assert not [name for name in names if not name.startswith("fastreid_ops")]


def test_wheel_metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = archive.read(name).decode()
    assert "\nRequires-Dist: torch<2.14,>=2.11\n" in metadata
    assert "\nRequires-Python: >=3.10\n" in metadata
    assert {"test", "bench", "tensorboard", "export", "search", "zoo"} <= set(
        re.findall(r"Provides-Extra: (\S+)", metadata)
    )
    assert re.search(r"-cp3\d+-cp3\d+-linux_\w+\.whl$", wheel.name)


def test_sample_images_are_package_data(root):
    """The clean copy leaves the images behind to stay quick; that pyproject.toml takes them in is seen here."""
    sample = root / "fastreid_ops/data/sample"
    images = [file for file in sample.rglob("*") if file.suffix in (".jpg", ".png")]
    assert len(images) == 589
    patterns = re.search(r"^fastreid_ops = \[(.*)\]$", (root / "pyproject.toml").read_text(), re.MULTILINE)[1]
    assert '"data/sample/**"' in patterns


def test_installed_wheel_works_from_another_folder(installed, tmp_path):
    code = (
        "import fastreid_ops, torch\n"
        f"assert fastreid_ops.__file__.startswith({str(installed)!r}), fastreid_ops.__file__\n"
        "from fastreid_ops import _C, _library\n"
        f"assert _C.__file__.startswith({str(installed)!r}), _C.__file__\n"
        "assert _library.load().native\n"
        "d = fastreid_ops.pairwise_distance(torch.zeros(1, 2), torch.tensor([[3.0, 4.0], [0.0, 0.0]]))\n"
        "query, gallery = torch.tensor([7]), torch.tensor([7, 8])\n"
        "print(d.tolist(), float(fastreid_ops.rank_metrics(d, query, gallery, camera_rule='none').mAP))\n"
    )
    printed = run(sys.executable, "-W", "error", "-c", code, cwd=tmp_path, PYTHONPATH=str(installed))
    assert printed == "[[5.0, 0.0]] 0.5\n"
    code = "import fastreid_ops.numpy as n; print(n.__file__)"
    assert run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(installed)).startswith(str(installed))


def objects(unpacked: Path, isa: str) -> list[Path]:
    return sorted((unpacked / "build").glob(f"*/CMakeFiles/*_cpu_{isa}.dir/**/*.o"))


@pytest.mark.parametrize("isa", ISAS)
def test_one_symbol_per_instruction_set_and_none_shared(wheel, unpacked, isa):
    """A weak symbol would be merged across instruction sets: the linker may keep the AVX-512 copy for all (ODR)."""
    files = objects(unpacked, isa)
    stems = {file.name.removesuffix("_cpu.cpp.o") for file in files}
    assert stems == {file.name.removesuffix("_cpu.cpp") for file in (unpacked / "csrc").rglob("*_cpu.cpp")}
    for file in files:
        lines = run("nm", "-C", "--defined-only", "--extern-only", file, cwd=unpacked).splitlines()
        kinds_and_names = [line.split(maxsplit=2)[1:] for line in lines if line]
        stem = file.name.removesuffix("_cpu.cpp.o")
        assert [name for _, name in kinds_and_names] == [f"fastreid::{isa}::{stem}_kernels"]
        assert not {kind for kind, _ in kinds_and_names} & set("WVu")


def undefined(library: Path) -> list[str]:
    lines = run("nm", "-DC", "--undefined-only", library, cwd=library.parent).splitlines()
    return [line.split(maxsplit=1)[1].split("@")[0] for line in lines if line]


def test_only_the_stable_interface_of_torch_is_used(installed):
    (core,) = (installed / "fastreid_ops").glob("_C.*.so")
    names = undefined(core)
    assert not [name for name in names if UNSTABLE.search(name)]
    used = [name for name in names if STABLE.fullmatch(name)]
    assert "aoti_torch_library_init_impl" in used
    assert "torch_parallel_for" in used
    # From torch 2.13 on; naming it would break the promise of 2.11.
    assert not [
        name
        for name in used
        if name.startswith("torch_exception_get_what") or name == "torch_new_stable_ivalue"
    ]


@pytest.mark.parametrize("name", ["numpy", "data/_pixels"])
def test_the_doors_for_arrays_use_nothing_of_torch(installed, name):
    (door,) = (installed / "fastreid_ops").glob(f"{name}.*.so")
    assert not [name for name in undefined(door) if UNSTABLE.search(name) or STABLE.fullmatch(name)]


@pytest.mark.parametrize("name", ["_C", "numpy", "data/_pixels"])
def test_no_path_of_the_build_machine_in_a_library(installed, name):
    (library,) = (installed / "fastreid_ops").glob(f"{name}.*.so")
    dynamic = run("readelf", "-d", library, cwd=installed)
    assert "RPATH" not in dynamic
    assert "RUNPATH" not in dynamic
    assert re.findall(r"\(NEEDED\).*\[(.*torch.*)\]", dynamic) == (
        ["libtorch_cpu.so"] if name == "_C" else []
    )
