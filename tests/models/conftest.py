# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def golden():
    """The module that fills networks and reads the golden files."""
    path = Path(__file__).parents[1] / "golden" / "deep_person_reid" / "golden_rule.py"
    spec = importlib.util.spec_from_file_location("golden_rule", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
