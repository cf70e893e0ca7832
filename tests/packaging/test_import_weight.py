# SPDX-License-Identifier: Apache-2.0
"""What `import fastreid_ops` brings with it: nothing. Each import is seen in an interpreter of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "numpy", "PIL", "yaml", "jsonargparse", "jinja2", "tqdm", "safetensors")


def imported(statement: str) -> set[str]:
    code = f"{statement}\nimport sys; print(' '.join(name for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("statement", ["import fastreid_ops", "import fastreid_ops; dir(fastreid_ops)"])
def test_the_package_imports_nothing(statement):
    modules = imported(statement)
    assert not modules & set(HEAVY)
    ours = {name for name in modules if name.startswith("fastreid_ops")}
    assert ours == {"fastreid_ops", "fastreid_ops._version"}


def test_the_numpy_door_needs_no_torch():
    modules = imported("import fastreid_ops.numpy")
    assert "numpy" in modules
    assert "torch" not in modules


def test_an_operator_brings_torch_and_its_own_module_only():
    modules = imported("import fastreid_ops; fastreid_ops.pairwise_distance")
    assert "fastreid_ops.ops.distance" in modules
    assert (
        not {f"fastreid_ops.{name}" for name in ("data", "engine", "models", "config", "evaluation")}
        & modules
    )


def test_public_names():
    import fastreid_ops

    for name in fastreid_ops.__all__:
        assert getattr(fastreid_ops, name) is not None
        assert name in dir(fastreid_ops)
    missing = "pairwise_distances"
    with pytest.raises(AttributeError, match=f"has no attribute '{missing}'"):
        getattr(fastreid_ops, missing)
