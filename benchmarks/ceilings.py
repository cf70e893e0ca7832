# SPDX-License-Identifier: Apache-2.0
"""What this device can do at most, measured in the run that needs it: copies, and matrix products of every precision,
on random data (zeros run faster). On a GPU the clocks under load too."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from bandwidth import copy_bandwidth
from device_timing import Timing, measure

SIDE = 8192  # of a product on a GPU
CLOCKS = "clocks.sm,clocks.mem,power.draw,temperature.gpu"
DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp64": torch.float64,
}


def units(device: str) -> tuple[str, ...]:
    """The precisions that this device multiplies in; a CPU has no tf32, and float16 only by way of others."""
    return ("fp32", "tf32", "bf16", "fp16", "fp64") if device != "cpu" else ("fp32", "bf16", "fp64")


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether float32 products on a GPU may round their factors to 10 bits."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def product_rate(unit: str, device: str, side: int = SIDE, rounds: int = 10) -> tuple[float, Timing]:
    """Operations a second of a square product, 2 side^3 of them, from the median time."""
    generator = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(side, side, generator=generator, device=device).to(DTYPES[unit]) for _ in range(2))
    out = torch.empty_like(a)
    with tf32(unit == "tf32"):
        found = measure(lambda: torch.mm(a, b, out=out), device, rounds=rounds, warm=3)
    return 2 * side**3 / found.seconds, found


def clocks_under_load() -> dict[str, str] | None:
    """What nvidia-smi reads while products are queued; None where it is not there. Nothing is set."""
    a = torch.randn(SIDE, SIDE, device="cuda", dtype=torch.bfloat16)
    out = torch.empty_like(a)
    for _ in range(600):  # about a second
        torch.mm(a, a, out=out)
    command = ["nvidia-smi", f"--query-gpu={CLOCKS}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    finally:
        torch.cuda.synchronize()
    first = done.stdout.splitlines()[0]
    return dict(zip(CLOCKS.split(","), (value.strip() for value in first.split(",")), strict=False))


def report(bench) -> None:
    """One figure for each ceiling."""
    size = bench.pick(None, 2**24)
    bench.record("copies", ceiling="copy", rate=copy_bandwidth(bench.device, size))
    for unit in units(bench.device):
        side = bench.pick(SIDE // 2 if unit == "fp64" else SIDE, 256)
        rate, timing = product_rate(unit, bench.device, side)
        bench.record(f"{unit} product, {side:,} squared", ceiling=unit, rate=rate, **timing.facts())
    if bench.device == "cuda":
        bench.record("clocks while multiplying", ceiling_clocks=clocks_under_load())
