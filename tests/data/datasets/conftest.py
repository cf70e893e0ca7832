# SPDX-License-Identifier: Apache-2.0
"""torchreid's own data set classes, as an oracle: its folders without the code of its packages, which imports far
more than they need."""

from __future__ import annotations

import glob
import importlib
import importlib.util
import random
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PACKAGES = ("", ".reid", ".reid.utils", ".reid.data", ".reid.data.datasets", ".reid.data.datasets.image",
            ".reid.data.datasets.video")  # fmt: skip


@pytest.fixture
def torchreid(monkeypatch: pytest.MonkeyPatch) -> Callable:
    """`torchreid("viper", "VIPeR", root, seed=0, **options)`: the data set object, globs sorted, the generators
    seeded before the splits are drawn. Skips where torchreid is not installed."""
    spec = importlib.util.find_spec("torchreid")
    if spec is None:
        pytest.skip("torchreid is not installed")
    base = Path(spec.submodule_search_locations[0])
    for name in [name for name in sys.modules if name.split(".")[0] == "torchreid"]:
        monkeypatch.delitem(sys.modules, name)
    for package in PACKAGES:
        module = types.ModuleType(f"torchreid{package}")
        module.__path__ = [str(base.joinpath(*package.split(".")[1:]))]
        monkeypatch.setitem(sys.modules, module.__name__, module)
    tools = importlib.import_module("torchreid.reid.utils.tools")
    monkeypatch.setitem(sys.modules, "torchreid.reid.utils.tools", tools)
    for name in ("read_json", "write_json", "mkdir_if_missing"):
        setattr(sys.modules["torchreid.reid.utils"], name, getattr(tools, name))
    # One asks for a download we never make, the other writes pictures as Pillow does.
    monkeypatch.setitem(sys.modules, "gdown", types.ModuleType("gdown"))
    writer = types.ModuleType("imageio")
    writer.imwrite = lambda path, pixels: Image.fromarray(np.ascontiguousarray(pixels)).save(path)
    monkeypatch.setitem(sys.modules, "imageio", writer)
    unsorted = glob.glob
    monkeypatch.setattr(glob, "glob", lambda pattern: sorted(unsorted(pattern)))

    def make(module: str, cls: str, root: Path, *, seed: int = 0, kind: str = "image", **options: object):
        random_state, numpy_state = random.getstate(), np.random.get_state()
        try:
            random.seed(seed)
            np.random.seed(seed)
            found = importlib.import_module(f"torchreid.reid.data.datasets.{kind}.{module}")
            return getattr(found, cls)(root=str(root), verbose=False, **options)
        finally:
            random.setstate(random_state)
            np.random.set_state(numpy_state)

    yield make
    for name in [name for name in sys.modules if name.split(".")[0] == "torchreid"]:
        sys.modules.pop(name)
