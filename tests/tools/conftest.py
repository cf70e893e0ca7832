# SPDX-License-Identifier: Apache-2.0
"""The check on a GPU as a module, its stages replaced by short commands."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def gpu_check():
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        return importlib.import_module("gpu_check")
    finally:
        sys.path.remove(str(ROOT / "tools"))


@pytest.fixture
def new_check(gpu_check, tmp_path, monkeypatch):
    """new_check(budget=60): a Check that writes to a folder of its own and asks nothing about the machine."""
    monkeypatch.setattr(gpu_check.process, "GRACE", 0.3)
    monkeypatch.setattr(gpu_check.Check, "_facts", lambda self: {"device": "Test 1"})
    monkeypatch.setattr(gpu_check, "commit", lambda given: (given or "abc", False))

    def make(budget: float = 60, commit: str | None = None, *, dry: bool = False):
        check = gpu_check.Check(dry=dry, budget=budget, out=tmp_path, given_commit=commit)
        check.scratch = tmp_path / "scratch"
        check.scratch.mkdir(exist_ok=True)
        return check

    return make


@pytest.fixture
def stage(gpu_check):
    """stage(name, "shell words", limit=9, kind="plain")."""

    def make(name: str, words: str, limit: float = 9, kind: str = "plain", needs: str | None = None):
        return gpu_check.Stage(name, f"what {name} does", ("sh", "-c", words), limit, kind, needs)

    return make
