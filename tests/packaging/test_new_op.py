# SPDX-License-Identifier: Apache-2.0
"""tools/new_op.py: what it writes, what it refuses, and that the op it writes builds and passes its tests."""

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAME = "row_scale"


def load_tool():
    spec = importlib.util.spec_from_file_location("fastreid_new_op", ROOT / "tools" / "new_op.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tool = load_tool()


@pytest.fixture
def checkout(tmp_path):
    """What the tool and the build read, without images and built libraries."""
    target = tmp_path / "checkout"
    ignore = shutil.ignore_patterns("__pycache__", "*.so", "crops")
    for name in ("csrc", "tools", "fastreid_ops", "tests/ops"):
        shutil.copytree(ROOT / name, target / name, ignore=ignore)
    (target / "benchmarks").mkdir()
    for name in ("CMakeLists.txt", "pyproject.toml"):
        shutil.copy2(ROOT / name, target / name)
    return target


def snapshot(root):
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else "folder"
        for path in root.rglob("*")
        if "__pycache__" not in path.parts
    }


def command(checkout, *arguments):
    return subprocess.run(
        [sys.executable, str(checkout / "tools" / "new_op.py"), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_writes_the_vertical_and_three_entries(checkout):
    before = snapshot(checkout)
    done = command(checkout, NAME)
    assert done.returncode == 0, done.stderr
    after = snapshot(checkout)
    new = {path for path in after if path not in before and after[path] != "folder"}
    assert new == {target.format(name=NAME, folder=NAME) for target in tool.FILES.values()}
    assert new <= set(done.stdout.splitlines())
    changed = {path for path in before if before[path] != after[path]}
    assert changed == {"CMakeLists.txt", "fastreid_ops/__init__.py", "tests/ops/specs.py"}
    old, new_lines = ((root / "CMakeLists.txt").read_text().splitlines() for root in (ROOT, checkout))
    assert set(new_lines) - set(old) == {f"fastreid_op({NAME} {NAME})"}
    for path in new:
        assert not re.search(r"@\w+@", (checkout / path).read_text()), f"{path} has a mark left"


def test_an_op_can_join_a_folder(checkout):
    done = command(checkout, NAME, "--folder", "distance")
    assert done.returncode == 0, done.stderr
    assert (checkout / "csrc" / "distance" / f"{NAME}_cuda.cu").is_file()
    assert f"fastreid_op(distance {NAME})" in (checkout / "CMakeLists.txt").read_text()


def test_a_second_op_follows_the_first(checkout):
    assert command(checkout, NAME).returncode == 0
    assert command(checkout, "another").returncode == 0
    specs = (checkout / "tests" / "ops" / "specs.py").read_text()
    assert f"spec_{NAME}.SPEC, spec_another.SPEC" in specs
    again = snapshot(checkout)
    assert command(checkout, NAME).returncode != 0
    assert snapshot(checkout) == again


REFUSED = {
    "": "snake_case",
    "RowScale": "snake_case",
    "row-scale": "snake_case",
    "row__scale": "snake_case",
    "_row": "snake_case",
    "row_": "snake_case",
    "2rows": "snake_case",
    "rows.h": "snake_case",
    "../rows": "snake_case",
    "zeilenlänge": "snake_case",
    "class": "C\\+\\+ and Python",
    "lambda": "C\\+\\+ and Python",
    "template": "C\\+\\+ and Python",
    "avx2": "C\\+\\+ and Python",
    "distance": "is there",
    "ranking": "is there",
    "models": "is there",
    "contract": "is there",
    "pairwise_distance": "registered already",
    "rank_metrics": "registered already",
}


@pytest.mark.parametrize("name", REFUSED, ids=lambda name: name or "empty")
def test_refuses_names_and_writes_nothing(checkout, name):
    before = snapshot(checkout)
    with pytest.raises(tool.Refused, match=REFUSED[name]):
        tool.new_op(checkout, name, "somewhere")
    assert snapshot(checkout) == before


@pytest.mark.parametrize("folder", ["common", "python", "tests", "Not_A_Folder", "../elsewhere", "a/b"])
def test_refuses_folders_and_writes_nothing(checkout, folder):
    before = snapshot(checkout)
    with pytest.raises(tool.Refused, match="--folder"):
        tool.new_op(checkout, NAME, folder)
    assert snapshot(checkout) == before


@pytest.mark.parametrize(
    ("file", "pattern"),
    [
        ("CMakeLists.txt", r"^fastreid_op\("),
        ("tests/ops/specs.py", r"^SPECS = "),
        ("fastreid_ops/__init__.py", r"^__all__ = "),
    ],
)
def test_refuses_a_list_it_does_not_know(checkout, file, pattern):
    text = (checkout / file).read_text()
    (checkout / file).write_text(re.sub(pattern, "changed", text, flags=re.MULTILINE))
    before = snapshot(checkout)
    with pytest.raises(tool.Refused, match=r"adapt tools/new_op\.py"):
        tool.new_op(checkout, NAME, NAME)
    assert snapshot(checkout) == before


@pytest.mark.parametrize("survived", [0, 1, 5, 11, 13])
def test_a_failure_while_writing_leaves_nothing(checkout, monkeypatch, survived):
    before = snapshot(checkout)
    moved = []

    def replace(source, target):
        if len(moved) == survived:
            raise OSError("disk full")
        moved.append(target)
        os.rename(source, target)

    monkeypatch.setattr(tool.os, "replace", replace)
    with pytest.raises(OSError, match="disk full"):
        tool.new_op(checkout, NAME, NAME)
    assert snapshot(checkout) == before


@pytest.mark.timeout(600)
def test_the_new_op_builds_and_passes(checkout, setup_module, torch_location):
    """The op alone: the others are taken off the lists, which a build of seconds instead of a minute is worth."""
    assert command(checkout, NAME).returncode == 0
    lists = checkout / "CMakeLists.txt"
    lists.write_text(re.sub(rf"^fastreid_op\((?!{NAME}).*\n", "", lists.read_text(), flags=re.MULTILINE))
    (checkout / "tests" / "ops" / "specs.py").write_text(
        f"import spec_{NAME}\n\nSPECS = [spec_{NAME}.SPEC]\n"
    )
    version = re.search(r'__version__ = "(.+)"', (checkout / "fastreid_ops" / "_version.py").read_text())[1]

    def run(*arguments, **environment):
        done = subprocess.run(
            arguments,
            cwd=checkout,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{arguments}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    tools, torch = setup_module.cmake_tools(), torch_location.find()
    build = str(checkout / "build")
    settings = {
        "CMAKE_MAKE_PROGRAM": tools["ninja"],
        "Python_EXECUTABLE": sys.executable,
        "pybind11_DIR": tools["pybind11"],
        "FASTREID_TORCH_ROOT": torch.root,
        "FASTREID_TORCH_VERSION": torch.version,
        "FASTREID_VERSION": version,
        "FASTREID_TESTS": "ON",
    }
    run(
        tools["cmake"],
        "-S.",
        "-B",
        build,
        "-GNinja",
        *(f"-D{key}={value}" for key, value in settings.items()),
    )
    run(tools["cmake"], "--build", build, "--target", "_C", f"test_{NAME}")
    run(str(checkout / "build" / "csrc" / "tests" / f"test_{NAME}"))
    for library in (checkout / "build").glob("_C.*so"):
        shutil.copy2(library, checkout / "fastreid_ops")
    tests = ("tests/ops/test_contract.py", f"tests/ops/test_{NAME}.py")
    report = run(
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, PYTHONPATH=str(checkout)
    )
    passed = re.search(r"(\d+) passed", report)
    assert passed, report
    assert int(passed[1]) > 40
    assert " skipped" not in report
