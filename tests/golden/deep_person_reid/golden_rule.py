# SPDX-License-Identifier: Apache-2.0
"""Fill networks and inputs by a hash of the entry name, and read the golden files (see README.md here)."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).parent


def noise(name: str, count: int) -> np.ndarray:
    """``count`` float64 values in [-1, 1): murmur's 32-bit finaliser over an arithmetic sequence from crc32(name)."""
    result = np.empty(count)
    for start in range(
        0, count, 1 << 18
    ):  # in pieces that stay in the cache: one layer has 134 million weights
        state = np.arange(start, min(start + (1 << 18), count), dtype=np.uint32)
        state = state * np.uint32(0x9E3779B9) + np.uint32(zlib.crc32(name.encode()))
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
            state ^= state >> np.uint32(shift)
            state *= np.uint32(factor)
        result[start : start + state.size] = state / 2.0**31 - 1.0
    return result


def value(name: str, shape: tuple[int, ...], gain: float) -> torch.Tensor:
    count = math.prod(shape)
    u = noise(name, count)
    kind = name.rsplit(".", 1)[-1]
    single = (
        ".spatial_attn." in name
    )  # HACNN's one-channel layers: alive behind their ReLU only with these signs
    if (single and kind == "bias") or kind not in ("running_mean", "running_var", "bias", "weight"):
        u = 0.5 + 0.5 * u
    elif kind in ("running_mean", "bias"):
        u = 0.1 * u
    elif kind == "running_var":
        u = 1.0 + 0.25 * u
    elif len(shape) >= 2:
        u = (np.abs(u) if single else u) * math.sqrt(3.0 * gain * shape[0] / count)
    else:
        u = 1.0 + 0.1 * u
    return torch.from_numpy(u.reshape(shape).astype(np.float32))


def fill(model: torch.nn.Module, gain: float) -> torch.nn.Module:
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("num_batches_tracked"):
                tensor.zero_()
            else:
                tensor.copy_(value(name, tuple(tensor.shape), gain))
    return model


def images(batch: int, height: int, width: int) -> torch.Tensor:
    """(batch, 3, height, width) float32, smooth waves of a different frequency per image plus noise."""
    b, c, i, j = np.ogrid[:batch, :3, :height, :width]
    x = (1 + b) * np.sin(0.07 * (1 + 0.6 * b) * (i + 1) + 0.9 * c)
    x = x + 0.5 * np.cos(0.13 * (j + 1) * (c + 1) - 1.3 * b)
    x = x + 0.25 * noise("input", x.size).reshape(x.shape)
    return torch.from_numpy(x.astype(np.float32))


def read(name: str) -> dict:
    """One ``.npz``, its texts unpacked: ``meta`` a dict, ``state_keys`` {name: shape}, ``grad_keys`` a list."""
    with np.load(FOLDER / f"{name}.npz") as file:
        content = dict(file)
    if "meta" in content:
        content["meta"] = json.loads(content["meta"].tobytes())
    if "grad_keys" in content:
        content["grad_keys"] = zlib.decompress(content["grad_keys"].tobytes()).decode().split("\n")
    if "state_keys" in content:
        lines = zlib.decompress(content["state_keys"].tobytes()).decode().split("\n")
        pairs = (line.split("\t") for line in lines)
        content["state_keys"] = {k: tuple(int(n) for n in s.split("x") if n) for k, s in pairs}
    return content


def counts() -> dict[str, dict]:
    return json.loads((FOLDER / "params.json").read_text())


def relative(got, want) -> float:
    """max |got - want| / max |want|."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    return float(np.abs(got - want).max() / max(np.abs(want).max(), 1e-30))
