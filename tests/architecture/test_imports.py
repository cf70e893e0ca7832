# SPDX-License-Identifier: Apache-2.0
"""Who may import whom: the direction of the layers, read from the source text of every module."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "fastreid_ops"

# layer -> the layers it may import besides itself; a module's layer is its first folder or its own name
MAY_IMPORT = {
    "__init__": {"_version", "ops"},
    "_version": set(),
    "_library": {"_C", "_version"},
    "_atomic": set(),
    "ops": {"_library", "_C"},
    "layers": {"ops"},
    "losses": {"ops"},
    "models": {"ops", "layers"},
    "evaluation": {"ops", "_atomic"},
    "data": {"_atomic"},
    "report": {"data", "_atomic"},
    "engine": {
        "ops",
        "models",
        "losses",
        "data",
        "evaluation",
        "report",
        "config",
        "_atomic",
        "_library",
        "_version",
    },
    "config": {"models", "data", "evaluation"},
    "train": None,  # the verbs sit on top and may import anything
    "evaluate": None,
    "export": None,
    "check_data": None,
    "doctor": None,
    "competition": None,
    "recipes": set(),
}

# Third-party packages that a layer must never import, however lazily.
FORBIDDEN = {
    "ops": {"PIL", "jsonargparse", "jinja2"},
    "layers": {"PIL", "numpy", "jsonargparse"},
    "losses": {"PIL", "numpy", "jsonargparse"},
    "models": {"PIL", "numpy", "jsonargparse", "yaml"},
    "evaluation": {"PIL", "numpy", "jsonargparse"},
    "data": {"jsonargparse", "jinja2", "torchvision"},
    "report": {"torch", "matplotlib", "jsonargparse"},
}


def _layer(module_parts):
    return module_parts[0] if module_parts else "__init__"


def _imports(file):
    """Every imported name of a file as a tuple of dotted parts, relative imports resolved."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    package = parts[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, tuple(alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            target = base + tuple((node.module or "").split(".") if node.module else ())
            for alias in node.names:
                yield node.lineno, (*target, alias.name)


def _modules():
    return sorted(path for path in PACKAGE.rglob("*.py"))


def test_every_layer_is_known():
    layers = {_layer(path.relative_to(PACKAGE).with_suffix("").parts) for path in _modules()}
    assert layers <= MAY_IMPORT.keys(), (
        f"new layers need a line in MAY_IMPORT: {sorted(layers - MAY_IMPORT.keys())}"
    )


@pytest.mark.parametrize("path", _modules(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_direction(path):
    layer = _layer(path.relative_to(PACKAGE).with_suffix("").parts)
    allowed = MAY_IMPORT[layer]
    for line, parts in _imports(path):
        if parts[0] != "fastreid_ops":
            assert parts[0] not in FORBIDDEN.get(layer, ()), (
                f"{path}:{line}: layer {layer!r} must not import {parts[0]}"
            )
        elif allowed is not None and len(parts) > 1:
            target = parts[1]
            known = target in MAY_IMPORT or target in {"_C", "numpy"}
            if known and target != layer:
                assert target in allowed, f"{path}:{line}: layer {layer!r} must not import {'.'.join(parts)}"


@pytest.mark.parametrize("path", _modules(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_timm_stays_in_its_bridge(path):
    """timm is imported in one file, inside a function; torchvision nowhere."""
    bridge = path.relative_to(PACKAGE).as_posix() == "models/backbones/timm.py"
    names = {parts[0] for _, parts in _imports(path)}
    assert "torchvision" not in names
    assert ("timm" in names) == bridge
    if bridge:
        top = [
            node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.Import)
        ]
        assert not [alias for node in top for alias in node.names if alias.name == "timm"]


def test_an_op_never_includes_another_ops_source():
    """csrc/common is the only C++ two ops share; rerank may use the contract of distance."""
    allowed = {("rerank", "distance/distance.h")}
    for file in sorted((ROOT / "csrc").rglob("*")):
        folder = file.relative_to(ROOT / "csrc").parts[0]
        if folder in {"common", "python", "tests"} or file.suffix not in {".h", ".cpp", ".cu", ".cuh"}:
            continue
        for line in file.read_text(encoding="utf-8").splitlines():
            if not line.startswith('#include "'):
                continue
            target = line.split('"')[1]
            own = target.startswith((f"{folder}/", "common/")) or "/" not in target
            assert own or (folder, target) in allowed, f"{file}: includes {target} of another op"
