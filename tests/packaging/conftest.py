# SPDX-License-Identifier: Apache-2.0
"""What the tests of the build share: the checkout, a clean copy of it, and setup.py as a module."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What a build reads; the rest of the checkout (tests, runs, data caches) is not copied.
SOURCES = ("csrc", "tools", "fastreid_ops")
FILES = ("setup.py", "pyproject.toml", "CMakeLists.txt", "MANIFEST.in", "README.md", "LICENSE", "NOTICE")


def _load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def setup_module() -> ModuleType:
    return _load("fastreid_setup", ROOT / "setup.py")


@pytest.fixture(scope="session")
def torch_location(setup_module: ModuleType) -> ModuleType:
    return setup_module.torch_location


@pytest.fixture
def fake_torch(tmp_path: Path):
    """Makes ``tmp_path/<name>/torch`` look like an installed torch to everything that does not import it."""

    def make(version: str, cuda: str | None = None, name: str = "site") -> Path:
        package = tmp_path / name / "torch"
        (package / "lib").mkdir(parents=True)
        (package / "__init__.py").write_text("raise ImportError('the build must not import torch')\n")
        (package / "version.py").write_text(f"__version__ = {version!r}\ncuda = {cuda!r}\n")
        return package

    return make


@pytest.fixture(scope="session")
def clean_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of everything the build reads and nothing that it writes. The images of the sample stay behind."""
    target = tmp_path_factory.mktemp("checkout")
    ignore = shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info", "crops")
    for name in SOURCES:
        shutil.copytree(ROOT / name, target / name, ignore=ignore)
    for name in FILES:
        shutil.copy2(ROOT / name, target / name)
    return target
