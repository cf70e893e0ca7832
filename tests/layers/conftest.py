# SPDX-License-Identifier: Apache-2.0
"""Modules filled by rule, and the golden files they are compared with (tests/golden/*/README.md)."""

from __future__ import annotations

import importlib.util
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

GOLDEN = Path(__file__).parents[1] / "golden"


def _rule():
    path = GOLDEN / "deep_person_reid" / "golden_rule.py"
    spec = importlib.util.spec_from_file_location("golden_rule", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Golden:
    """The rules and the files."""

    rule = _rule()

    def read(self, folder: str, name: str) -> dict[str, np.ndarray]:
        with np.load(GOLDEN / folder / f"{name}.npz") as file:
            return dict(file)

    def tensor(self, name: str, shape: tuple[int, ...], scale: float = 1.0) -> torch.Tensor:
        values = scale * self.rule.noise(name, int(np.prod(shape)))
        return torch.from_numpy(values.reshape(shape).astype(np.float32))

    @torch.no_grad()
    def fill(self, module: nn.Module, prefix: str = "") -> nn.Module:
        """By the hash of ``prefix`` + key, gain 2."""
        for key, tensor in module.state_dict().items():
            name = prefix + key
            if key.endswith("num_batches_tracked"):
                tensor.zero_()
                continue
            value = self.rule.value(name, tuple(tensor.shape), 2.0)
            if ".spatial_attn." in name and name.endswith(".bias"):
                value = self.tensor(name, tuple(tensor.shape), 0.5) + 0.5
            elif ".spatial_attn." in name and value.dim() > 1:
                value = value.abs()
            tensor.copy_(value)
        return module

    @torch.no_grad()
    def fill_pcg(self, module: nn.Module) -> nn.Module:
        """By a generator of each key: the rule of the visible-infrared files."""
        for key, tensor in module.state_dict().items():
            draw = np.random.Generator(np.random.PCG64([0, zlib.crc32(key.encode())]))
            shape = tuple(tensor.shape)
            if key.endswith("num_batches_tracked"):
                continue
            if key.endswith("running_var"):
                value = 0.5 + draw.random(shape)
            elif len(shape) >= 2:
                value = draw.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
            elif key.endswith("weight"):
                value = 1 + 0.1 * draw.standard_normal(shape)
            else:
                value = 0.1 * draw.standard_normal(shape)
            tensor.copy_(torch.from_numpy(np.asarray(value)))
        return module

    def close(self, got: torch.Tensor, want, rtol: float = 2e-5, atol: float = 2e-6) -> None:
        """``atol`` is relative to the largest value wanted."""
        want = torch.as_tensor(np.asarray(want))
        torch.testing.assert_close(
            got.detach().to(want.dtype).reshape(want.shape),
            want,
            rtol=rtol,
            atol=atol * max(float(want.abs().max()), 1e-30),
        )


@pytest.fixture(scope="session")
def golden() -> Golden:
    return Golden()
