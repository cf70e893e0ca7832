# SPDX-License-Identifier: Apache-2.0
"""Fill networks and inputs by a generator of each name, and read the golden files (see README.md here)."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import nn

FOLDER = Path(__file__).parent


def _generator(name: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([0, zlib.crc32(name.encode())]))


def normal(name: str, *shape: int) -> torch.Tensor:
    return torch.from_numpy(_generator(name).standard_normal(shape).astype(np.float32))


@torch.no_grad()
def fill(module: nn.Module) -> nn.Module:
    for key, tensor in module.state_dict().items():
        if key.endswith("num_batches_tracked"):
            continue
        draw, shape = _generator(key), tuple(tensor.shape)
        if key.endswith("running_var"):
            value = 0.5 + draw.random(shape)
        elif len(shape) >= 2:
            value = draw.standard_normal(shape) / math.sqrt(math.prod(shape[1:]))
        elif key.endswith("weight") and len(shape) == 1:
            value = 1 + 0.1 * draw.standard_normal(shape)
        else:
            value = 0.1 * draw.standard_normal(shape)
        tensor.copy_(torch.from_numpy(np.asarray(value)))
    return module


@torch.no_grad()
def calibrate(model: nn.Module, *inputs: object):
    """Output of one training forward without dropout, whose statistics the model keeps; then evaluation."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for norm in norms:
        norm.momentum = 1.0
    output = model.train()(*inputs)
    for norm in norms:
        norm.momentum = 0.1
    model.eval()
    return output


def read(name: str) -> dict[str, torch.Tensor]:
    with np.load(FOLDER / f"{name}.npz") as file:
        return {key: torch.from_numpy(value) for key, value in file.items()}


def facts(name: str) -> dict:
    return json.loads((FOLDER / f"{name}.json").read_text())


def keys(name: str, heading: str | None = None) -> list[tuple[str, str]]:
    """(key, shape) of a list, of the part below ``# heading``."""
    result, part = [], None
    for line in (FOLDER / f"{name}_keys.txt").read_text().splitlines():
        if line.startswith("#"):
            part = line[1:].strip()
        elif line.strip() and part == heading:
            result.append(tuple(line.split()))
    return result


def layout(module: nn.Module) -> list[tuple[str, str]]:
    """The same of a module."""
    return [
        (key, "x".join(str(size) for size in tensor.shape) or "scalar")
        for key, tensor in module.state_dict().items()
    ]
