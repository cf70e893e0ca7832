# SPDX-License-Identifier: Apache-2.0
"""Who else turns a distance matrix into CMC and mAP. Each rival is there only if its package is installed.

``pip install --no-deps torchreid fastreid`` is enough: their evaluators are loaded as single files, since
their packages import much more. fast-reid's Cython file is compiled here, with its own flags; torchreid's
source archive has none.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import sysconfig
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch


class Rival(NamedTuple):
    """``run(distance, query_pids, gallery_pids, query_camids, gallery_camids)``, tensors, returns (cmc to
    rank 50, mAP), or None where it only sorts. ``queries``: as many as it can be asked for in a reasonable
    time; None for all."""

    name: str
    run: Callable[..., Any]
    queries: int | None = None


def available() -> list[Rival]:
    rivals = [
        Rival("one read: torch.max", lambda distance, *labels: _forget(distance.max())),
        Rival("torch.argsort alone", lambda distance, *labels: _sort(distance, stable=False)),
        Rival("torch.argsort(stable=True) alone", lambda distance, *labels: _sort(distance, stable=True)),
        Rival("numpy.argsort alone", lambda distance, *labels: _forget(np.argsort(distance.numpy(), axis=1))),
    ]
    for package, place, name in (
        ("torchreid", "reid/metrics/rank.py", "torchreid Python"),
        ("fastreid", "evaluation/rank.py", "fast-reid Python"),
    ):
        file = package_file(package, place)
        if file is not None:
            rivals.append(Rival(name, _evaluator(load_file(file).eval_market1501), queries=200))
    file = package_file("fastreid", "evaluation/rank_cylib/rank_cy.pyx")
    if file is not None and importlib.util.find_spec("Cython") is not None:
        rivals.append(Rival("fast-reid Cython", _evaluator(compile_file(file).evaluate_cy)))
    return rivals


def available_cuhk03() -> list[Rival]:
    """The same on the single-gallery-shot metric: ten random galleries a query, drawn from NumPy's generator."""
    rivals = []
    for package, place, name in (
        ("torchreid", "reid/metrics/rank.py", "torchreid Python"),
        ("fastreid", "evaluation/rank.py", "fast-reid Python"),
    ):
        file = package_file(package, place)
        if file is not None:
            rivals.append(Rival(name, _evaluator(load_file(file).eval_cuhk03), queries=40))
    file = package_file("fastreid", "evaluation/rank_cylib/rank_cy.pyx")
    if file is not None and importlib.util.find_spec("Cython") is not None:
        evaluate = compile_file(file).evaluate_cy
        rivals.append(Rival("fast-reid Cython", _evaluator(lambda *a: evaluate(*a, True)), queries=140))
    return rivals


def _sort(distance: torch.Tensor, *, stable: bool) -> None:
    torch.argsort(distance, dim=1, stable=stable)


def _forget(found: object) -> None:
    """A rival that only reads or sorts has no figures to check."""


def _evaluator(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(*tensors: torch.Tensor) -> tuple[np.ndarray, float]:
        found = function(*(value.numpy() for value in tensors), 50)
        # torchreid returns the mean, fast-reid's Cython the APs of the valid queries.
        return np.asarray(found[0]), float(np.mean(found[1]))

    return run


def package_file(package: str, place: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(next(iter(spec.submodule_search_locations))) / place
    return path if path.is_file() else None


def load_file(path: Path) -> ModuleType:
    """One file of a package that is itself not imported; its attempt at the Cython module fails and is caught
    there."""
    spec = importlib.util.spec_from_file_location(f"rival_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings(), mock.patch.dict(sys.modules, {"torchreid": None}):
        warnings.simplefilter("ignore")
        spec.loader.exec_module(module)
    return module


def compile_file(path: Path) -> ModuleType:
    folder = Path(tempfile.mkdtemp(prefix="rival_ranking_"))
    generated, library = folder / "rank_cy.c", folder / f"rank_cy{sysconfig.get_config_var('EXT_SUFFIX')}"
    subprocess.run(
        [sys.executable, "-m", "cython", "-3", "-o", generated, path], check=True, capture_output=True
    )
    includes = [f"-I{sysconfig.get_paths()['include']}", f"-I{np.get_include()}"]
    command = ["cc", "-O3", "-march=native", "-w", "-shared", "-fPIC", *includes, generated, "-o", library]
    subprocess.run(command, check=True, capture_output=True)
    spec = importlib.util.spec_from_file_location("rank_cy", library)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
