# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import torch

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="session")
def golden():
    """The module that fills networks and reads the golden files of deep-person-reid."""
    path = GOLDEN / "deep_person_reid" / "golden_rule.py"
    spec = importlib.util.spec_from_file_location("golden_rule", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def recorded():
    """``recorded("folder/name")``: the arrays of a golden file as tensors, by name."""

    def read(name: str) -> dict[str, torch.Tensor]:
        with np.load(GOLDEN / f"{name}.npz") as file:
            return {key: torch.from_numpy(file[key]) for key in file.files if file[key].dtype.kind in "fi"}

    return read


@pytest.fixture(scope="session")
def hashed(golden):
    """The goldens' inputs that are not recorded: float32, scale * noise of a name."""

    def make(name: str, shape: tuple[int, ...], scale: float = 1.0) -> torch.Tensor:
        values = scale * golden.noise(name, math.prod(shape)).reshape(shape)
        return torch.from_numpy(values.astype(np.float32))

    return make


@pytest.fixture(scope="session")
def value_and_gradient(golden):
    """Runs a loss on leaf copies of tensors and compares value and gradients with what is wanted."""

    def compare(loss, leaves, value, gradients=(), *, value_tolerance=1e-5, gradient_tolerance=2e-5):
        leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
        got = loss(*leaves)
        assert got.shape == ()
        assert golden.relative(got.detach(), value) < value_tolerance
        got.backward()
        for leaf, want in zip(leaves, gradients, strict=False):
            assert golden.relative(leaf.grad, want) < gradient_tolerance

    return compare


@pytest.fixture(scope="session")
def same_in_float64(value_and_gradient):
    """A loss against another formulation of it, in float64, gradients by autograd."""

    def compare(loss, oracle, *inputs):
        leaves = [x.detach().double().clone().requires_grad_() for x in inputs]
        want = oracle(*leaves)
        gradients = torch.autograd.grad(want, leaves)
        value_and_gradient(
            loss, leaves, want.detach(), gradients, value_tolerance=1e-9, gradient_tolerance=1e-7
        )

    return compare
