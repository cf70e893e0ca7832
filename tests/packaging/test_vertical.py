# SPDX-License-Identifier: Apache-2.0
"""One op, one vertical, one stem: every op that CMakeLists.txt names has the planned files and no others."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OPS = re.findall(
    r"^fastreid_op\((\w+) (\w+)\)", (ROOT / "CMakeLists.txt").read_text(encoding="utf-8"), re.MULTILINE
)
NOT_OPS = {"common", "python", "tests"}
# Kernels for arrays on the host alone, reached through a Cython door of their name.
HOST = re.findall(
    r"^fastreid_cpu_kernels\((\w+) (\w+)\)",
    (ROOT / "CMakeLists.txt").read_text(encoding="utf-8"),
    re.MULTILINE,
)
CONTRACT = ("Shapes", "NaN", "Ties", "Determinism", "Memory")

NATIVE = ("{}.h", "{}_cpu.cpp", "{}_cuda.cu", "{}_ops.cpp", "{}_ops_cuda.cpp")
HOST_NATIVE = ("{}.h", "{}_cpu.cpp")
SHARED = "{}_ops.h"  # where both registrations read their arguments alike
PART = "{}_cpu_*.h"  # where the CPU kernels grew too long for one file; included by them alone
CUDA_PART = "{}_cuda_*.cuh"  # the same of the CUDA kernels
ELSEWHERE = (
    "csrc/tests/test_{}.cpp",
    "fastreid_ops/ops/{}.py",
    "tests/ops/spec_{}.py",
    "tests/ops/test_{}.py",
    "benchmarks/bench_{}.py",
)
by_op = pytest.mark.parametrize(("folder", "stem"), OPS, ids=[stem for _, stem in OPS])


def source(folder, name):
    return (ROOT / "csrc" / folder / name).read_text(encoding="utf-8")


def includes(text):
    return re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', text, re.MULTILINE)


def headers_of(folder, name, part):
    """What a file includes, and what the parts of it that it includes do."""
    headers = set(includes(source(folder, name)))
    parts = {f"{folder}/{p.name}" for p in (ROOT / "csrc" / folder).glob(part)}
    for own in headers & parts:
        headers |= set(includes(source("", own)))
    return headers - parts


def test_cmake_names_ops():
    assert {stem for _, stem in OPS} >= {"distance", "ranking"}


@by_op
def test_every_file_is_there(folder, stem):
    wanted = [f"csrc/{folder}/{name.format(stem)}" for name in NATIVE] + [
        path.format(stem) for path in ELSEWHERE
    ]
    missing = [path for path in wanted if not (ROOT / path).is_file()]
    assert not missing


def test_no_folder_of_csrc_holds_anything_else():
    for folder in sorted(p for p in (ROOT / "csrc").iterdir() if p.is_dir() and p.name not in NOT_OPS):
        stems = [stem for where, stem in OPS if where == folder.name]
        allowed = {name.format(stem) for stem in stems for name in (*NATIVE, SHARED)}
        parts = {
            p.name for stem in stems for part in (PART, CUDA_PART) for p in folder.glob(part.format(stem))
        }
        host = {name.format(stem) for where, stem in HOST if where == folder.name for name in HOST_NATIVE}
        assert {p.name for p in folder.iterdir()} <= allowed | parts | host, folder.name


@pytest.mark.parametrize(("folder", "stem"), HOST, ids=[stem for _, stem in HOST])
def test_kernels_without_an_op_have_contract_door_and_tests(folder, stem):
    for name in HOST_NATIVE:
        assert set(includes(source(folder, name.format(stem)))) <= {
            "cstdint",
            "immintrin.h",
            "common/isa.h",
            f"{folder}/{stem}.h",
        }
    assert [label for label in CONTRACT if f"// {label}: " not in source(folder, f"{stem}.h")] == []
    elsewhere = ("csrc/python/{}.pyx", "csrc/tests/test_{}.cpp", "tests/data/test_{}.py")
    assert [path for path in elsewhere if not (ROOT / path.format(stem)).is_file()] == []


def test_every_module_of_ops_is_an_op():
    modules = {p.stem for p in (ROOT / "fastreid_ops" / "ops").glob("*.py") if not p.stem.startswith("_")}
    assert modules == {stem for _, stem in OPS}


def test_every_test_and_benchmark_of_an_op_has_an_op():
    stems = {stem for _, stem in OPS}
    specs = {p.stem.removeprefix("spec_") for p in (ROOT / "tests" / "ops").glob("spec_*.py")}
    # test_<stem>_<part>.py may go on where test_<stem>.py grew too long.
    tests = {p.stem.removeprefix("test_") for p in (ROOT / "tests" / "ops").glob("test_*.py")} - {"contract"}
    assert specs == stems
    assert [t for t in sorted(tests) if not any(t == s or t.startswith(f"{s}_") for s in stems)] == []


@by_op
def test_kernels_know_no_torch_and_no_other_op(folder, stem):
    own = f"{folder}/{stem}.h"
    assert set(includes(source(folder, f"{stem}.h"))) <= {
        "cstdint",
        "common/dtype.h",
        "common/isa.h",
        "common/relevance.h",
    }
    headers = headers_of(folder, f"{stem}_cpu.cpp", PART.format(stem))
    assert {h for h in headers if not h.startswith("common/")} <= {"cstdint", own, "immintrin.h"}
    headers = headers_of(folder, f"{stem}_cuda.cu", CUDA_PART.format(stem))
    assert {h for h in headers if not h.startswith("common/")} <= {"cstdint", "cmath", own}
    assert "common/launch.cuh" in headers


@by_op
def test_kernels_take_no_shortcut_past_the_emulation(folder, stem):
    parts = (ROOT / "csrc" / folder).glob(CUDA_PART.format(stem))
    text = "".join(source(folder, name) for name in (f"{stem}_cuda.cu", *(p.name for p in parts)))
    for forbidden in (
        "<<<",
        "extern __shared__",
        "__CUDA_ARCH__",
        "FASTREID_EMULATION",
        "cooperative_groups",
        "cub::",
    ):
        assert forbidden not in text
    assert not re.search(r"\basm\b", text)


@by_op
def test_contract_lines_stand_in_header_and_docstring(folder, stem):
    header = source(folder, f"{stem}.h")
    missing = [label for label in CONTRACT if f"// {label}: " not in header]
    assert not missing, "in the header"
    tree = ast.parse((ROOT / "fastreid_ops" / "ops" / f"{stem}.py").read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name != "reference"]
    public = [function for function in functions if not function.name.startswith("_")]
    described = [f for f in public if all(label in (ast.get_docstring(f) or "") for label in CONTRACT)]
    assert public, "no public function"
    assert described == public


@by_op
def test_the_package_offers_the_op(folder, stem):
    text = (ROOT / "fastreid_ops" / "__init__.py").read_text(encoding="utf-8")
    assert f'"fastreid_ops.ops.{stem}"' in text
    assert f"spec_{stem}" in (ROOT / "tests" / "ops" / "specs.py").read_text(encoding="utf-8")
