# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

TIMM_TABLE = "fastreid_ops.models.backbones.timm:"


def register_operators() -> torch.library.Library:
    """Schemas of torchvision's operators, which its own library could not register.

    A torchvision built for CUDA does not load its library beside a CPU torch, and then fails to import because it asks
    for meta kernels of operators that do not exist. No network needs these operators.
    """
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def mend_torchvision() -> torch.library.Library | None:
    """Make torchvision importable for timm; the result must be kept, the operators go with it."""
    if importlib.util.find_spec("torchvision") is None:
        return None
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::" not in str(error) or "does not exist" not in str(error):
            raise
    else:
        return None
    for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    return register_operators()


HAS_TIMM = importlib.util.find_spec("timm") is not None
OPERATORS = mend_torchvision() if HAS_TIMM else None


@pytest.fixture(scope="session")
def need_timm():
    """Called with the name of a model: skips the test where the model comes from timm and timm is not installed."""
    from fastreid_ops.models import MODELS

    def need(name: str) -> None:
        if MODELS[name].startswith(TIMM_TABLE) and not HAS_TIMM:
            pytest.skip("timm is not installed")

    return need


@pytest.fixture(scope="session")
def golden():
    """The module that fills networks and reads the golden files."""
    path = Path(__file__).parents[1] / "golden" / "deep_person_reid" / "golden_rule.py"
    spec = importlib.util.spec_from_file_location("golden_rule", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def vi_golden():
    """The same of the visible-infrared networks."""
    path = Path(__file__).parents[1] / "golden" / "visible_infrared" / "golden_rule.py"
    spec = importlib.util.spec_from_file_location("visible_infrared_rule", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
