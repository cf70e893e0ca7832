# SPDX-License-Identifier: Apache-2.0
"""Attention layers from our ops against the same layers as their sources write them, as they are and under
torch.compile. The floor is the bytes that must be read and written, at this machine's copy bandwidth (bandwidth.py).

``pytest benchmarks/bench_attention.py --benchmark-only``, or run this file for a table; FASTREID_BENCH_FULL=1 for the
sizes of real networks.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from attention_layers import OURS, Case, case, ours, same
from bandwidth import copy_bandwidth, floor_seconds
from heap import keep_freed_memory
from memory import peak
from rivals.attention import RIVALS
from shapes import FULL
from timing import seconds

from fastreid_ops import _library

Shape = tuple[int, int, int, int]

REAL = ((32, 512, 24, 12), (64, 256, 96, 32), (64, 2048, 24, 8), (128, 1024, 24, 8))
ONE = (1, 2048, 16, 8)  # the latency of one image
SHAPES = (*REAL, ONE) if FULL else ((2, 64, 24, 12), ONE)
DEVICES = ("cpu", "cuda") if _library.status().cuda else ("cpu",)
DIRECTIONS = ("forward", "forward and backward")
WHOLE = ("196", "197", "203", "SE", "CBAM")
# Compiling takes longer than everything else here: one pass, and memory kept, of the sizes of networks.
COMPILED = ("pool and gate", "SE", "197", "CBAM") if FULL else ("pool and gate",)
MEASURED_MEMORY = (128, 1024, 24, 8)
FLOOR = "maps and results read and written once, parameters once for each pass, at copy bandwidth"

torch.backends.cudnn.allow_tf32 = False  # float32 means float32, for both sides

KEPT = ", memory kept"  # see heap.py; the floor is that of memory that was written before

# What keeps memory comes last: there is no way back.
CASES = [
    (device, name, shape, direction, "eager")
    for device in DEVICES
    for name in OURS
    for shape in SHAPES
    for direction in DIRECTIONS
]
CASES += [
    (device, name, shape, DIRECTIONS[1] + KEPT, rival)
    for device in DEVICES
    for name in OURS
    for shape in SHAPES
    for rival in RIVALS
    if (not FULL or (shape != ONE and name in (*WHOLE, "pool and gate", "OSNet gate")))
    and (rival == "eager" or name in COMPILED)
]


@functools.cache
def last_level_cache() -> int:
    """Bytes; 32 MiB where the system does not say."""
    sizes = [32 * 2**20]
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = file.read_text(encoding="ascii").strip()
        sizes.append(int(text[:-1]) * {"K": 2**10, "M": 2**20}[text[-1]])
    return max(sizes[1:] or sizes)


def rounds(shape: Shape) -> int:
    """Small steps take more of them to come out of the clock's noise."""
    if not FULL:
        return 5
    return 200 if math.prod(shape) <= 2**20 else 5


def targets(device: str, name: str, shape: Shape, direction: str, rival: str) -> dict[str, float]:
    """What is aimed at: ratios to a rival, the share of the floor that is reached."""
    if not FULL:
        return {}
    if shape == ONE:
        return {"target": 1.0} if rival == "eager" else {}
    if not direction.endswith(KEPT):
        return {}
    if device == "cuda":
        floor = {"floor_target": 0.85} if name == "pool and gate" else {}
        return {"target": 2.0, **floor} if rival == "eager" else {}
    if name in ("pool and gate", "SE") and math.prod(shape) * 4 > last_level_cache():
        return {"target": 3.0 if rival == "eager" else 1.3, "floor_target": 0.75}
    return {"target": 2.0} if name in WHOLE and rival == "eager" else {}


def memory(device: str, name: str, shape: Shape, direction: str, rival: str) -> dict[str, float]:
    """GiB of a step of ours and of the rival beyond the inputs, and of what it must leave behind."""
    wanted = device == "cpu" and shape == MEASURED_MEMORY and direction == DIRECTIONS[1] and rival == "eager"
    if not FULL or not wanted:
        return {}
    found = case(name, shape)
    left = sum(p.numel() for p in found.layer.parameters()) + (len(found.maps) + 1) * found.grad.numel()
    return {
        "peak": peak(f"ours: {name}", *shape),
        "rival_peak": peak(f"eager: {name}", *shape),
        "least_peak": left * found.grad.element_size() / 2**30,
    }


def calls(found: Case, name: str, direction: str, rival: str) -> tuple[Callable, Callable]:
    """Ours and the rival's."""
    torch._dynamo.reset()  # else all layers' compiled versions count against one limit
    theirs = RIVALS[rival](found.layer)
    way = found.forward if direction == DIRECTIONS[0] else found.step
    return functools.partial(way, ours(name, found.layer)), functools.partial(way, theirs)


@pytest.mark.parametrize(
    ("device", "name", "shape", "direction", "rival"),
    CASES,
    ids=lambda value: "x".join(map(str, value)) if isinstance(value, tuple) else value.replace(" ", "-"),
)
def test_layer(versus, benchmark, device, name, shape, direction, rival):
    benchmark.group = f"attention: {name}"
    found = case(name, shape, device)
    floor_bytes = found.floor_bytes(backward=direction != DIRECTIONS[0])
    if direction.endswith(KEPT):
        assert keep_freed_memory()
    versus(
        *calls(found, name, direction, rival),
        same,
        rival=rival,
        rounds=rounds(shape),
        device=device,
        layer=name,
        shape=" x ".join(map(str, shape)),
        direction=direction,
        floor=FLOOR,
        floor_seconds=floor_seconds(floor_bytes, device),
        copy_bandwidth=copy_bandwidth(device),
        **targets(device, name, shape, direction, rival),
        **memory(device, name, shape, direction, rival),
    )


def _table(device: str) -> None:
    print(f"{device}, {torch.get_num_threads()} threads, copies at {copy_bandwidth(device) / 1e9:.1f} GB/s")
    heads = ("ours, ms", "eager", "compile", "floor", "floor/ours", "x eager")
    print(" " * 50 + "".join(f"{head:>11}" for head in heads))
    for name, shape, direction in dict.fromkeys(key[1:4] for key in CASES if key[0] == device):
        if direction.endswith(KEPT):
            keep_freed_memory()
        found = case(name, shape, device)
        own, eager = calls(found, name, direction, "eager")
        same(own(), eager())
        times = [seconds(own, rounds(shape)), seconds(eager, rounds(shape)), math.nan]
        if name in COMPILED and direction.endswith(KEPT):
            own, compiled = calls(found, name, direction, "torch.compile")
            same(own(), compiled())
            times[2] = seconds(compiled, rounds(shape))
        times.append(floor_seconds(found.floor_bytes(backward=direction != DIRECTIONS[0]), device))
        numbers = "".join(f"{value * 1e3:11.3f}" for value in times)
        title = f"{name}, {direction}, {'x'.join(map(str, shape))}"
        print(f"{title:50s}{numbers}{times[3] / times[0]:11.2f}{times[1] / times[0]:11.2f}", flush=True)


if __name__ == "__main__":
    for one in DEVICES:
        _table(one)
