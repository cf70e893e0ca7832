# SPDX-License-Identifier: Apache-2.0
"""tools/torch_location.py and tools/build_backend.py: which torch the build takes, with and without isolation."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

# What pip's build isolation does to the interpreter of the target environment.
HIDE = "import sys\nsys.path[:] = [p for p in sys.path if 'site-packages' not in p]\n"


def ask(code: str, root: Path, tmp_path: Path, hidden: bool, **env: str) -> str:
    """Runs ``code`` with tools/ importable, as a build would: from another folder, the packages hidden or not."""
    folder = tmp_path / "isolation"
    folder.mkdir(exist_ok=True)
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "FASTREID_TORCH")}
    if hidden:
        (folder / "sitecustomize.py").write_text(HIDE)
        clean |= {"PYTHONPATH": str(folder), "PYTHONNOUSERSITE": "1"}
    path = f"import sys; sys.path.insert(0, {str(root / 'tools')!r})\n"
    done = subprocess.run(
        [sys.executable, "-c", path + code], env=clean | env, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


FIND = "import json, torch_location as t; f = t.find(); print(json.dumps(f and f._asdict()))"
FIND += "; assert 'torch' not in sys.modules"


@pytest.mark.parametrize("hidden", [False, True])
def test_finds_the_installed_torch_even_if_isolation_hides_it(hidden, root, tmp_path):
    if hidden:
        assert ask("import importlib.util as u; print(u.find_spec('torch'))", root, tmp_path, True) == "None"
    found = json.loads(ask(FIND, root, tmp_path, hidden))
    assert found["version"].split("+")[0] == version("torch").split("+")[0]
    assert (Path(found["root"]) / "include/torch/csrc/stable/library.h").is_file()


def test_a_torch_in_the_build_environment_wins_over_the_hidden_one(root, tmp_path, fake_torch):
    site = fake_torch("2.12.1+cu130", "13.0").parent
    (site / "sitecustomize.py").write_text(HIDE)
    found = json.loads(ask(FIND, root, tmp_path, False, PYTHONPATH=str(site)))
    assert found == {"root": str(site / "torch"), "version": "2.12.1+cu130", "cuda": "13.0"}


def test_a_folder_called_torch_where_the_build_runs_is_no_torch(root, tmp_path):
    (tmp_path / "torch").mkdir()
    found = json.loads(ask(FIND, root, tmp_path, True))
    assert Path(found["root"]) != tmp_path / "torch"


def test_named_by_environment_variable(torch_location, fake_torch, monkeypatch, tmp_path):
    package = fake_torch("2.11.0", None)
    monkeypatch.setenv("FASTREID_TORCH", str(package))
    assert torch_location.find() == torch_location.Torch(str(package), "2.11.0", None)
    monkeypatch.setenv("FASTREID_TORCH", str(tmp_path))
    with pytest.raises(
        SystemExit, match=r"FASTREID_TORCH: got .* expected the directory of an installed torch"
    ):
        torch_location.find()


@pytest.mark.parametrize(
    ("text", "release"),
    [("2.11.0", (2, 11)), ("2.13.0+cpu", (2, 13)), ("2.15.0a0+git1", (2, 15)), ("3.0", (3, 0))],
)
def test_release(torch_location, text, release):
    assert torch_location.Torch("", text, None).release == release


def requirements(root: Path, tmp_path: Path, found: str) -> list[str]:
    code = f"import torch_location; torch_location.find = lambda: {found}\n"
    code += "import json, build_backend as b\n"
    code += "print(json.dumps([b.get_requires_for_build_wheel(), b.get_requires_for_build_editable()]))"
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\nversion = "0"\n')
    wheel, editable = json.loads(ask(code, root, tmp_path, False).splitlines()[-1])
    assert wheel == editable
    return wheel


def test_torch_is_a_build_requirement_only_where_there_is_none(root, tmp_path):
    assert not [name for name in requirements(root, tmp_path, "object()") if name.startswith("torch")]
    wanted = [name for name in requirements(root, tmp_path, "None") if name.startswith("torch")]
    # The same range as at run time, or pip would build with one torch and install another.
    assert wanted == re.findall(
        r'^    "(torch[^a-z"]*)",', (root / "pyproject.toml").read_text(), re.MULTILINE
    )
