# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from rivals.torchvision_cpu import mend_torchvision

TIMM_TABLE = "fastreid_ops.models.backbones.timm:"


HAS_TIMM = importlib.util.find_spec("timm") is not None
if HAS_TIMM:
    mend_torchvision()


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
