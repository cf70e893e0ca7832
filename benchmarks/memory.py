# SPDX-License-Identifier: Apache-2.0
"""Peak memory of a call beyond its inputs, in a process of its own.

    python benchmarks/memory.py nearest 23100 0 2048

prints GiB; "ours: SE" or "eager: SE" and the sizes of a map measure a step of that attention layer. `peak` starts that
and returns the number. Linux only: the peak is the kernel's high-water mark, reset (/proc/self/clear_refs) after the
inputs were made.
"""

from __future__ import annotations

import gc
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path


def _status(field: str) -> float:
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(rf"{field}:\s+(\d+) kB", text).group(1)) / 2**20  # type: ignore[union-attr] # Linux has it


def _calls() -> dict[str, Callable[..., Callable[[], object]]]:
    """name -> f(sizes), which makes the inputs and returns the call."""
    from shapes import retrieval

    import fastreid_ops

    def nearest(queries: int, gallery: int, depth: int) -> Callable[[], object]:
        x = retrieval(queries, gallery, depth).everything
        return lambda: fastreid_ops.nearest(x, x, 21)

    def rank_features(queries: int, gallery: int, depth: int) -> Callable[[], object]:
        data = retrieval(queries, gallery, depth)
        return lambda: fastreid_ops.rank_features(*data)

    def k_reciprocal(queries: int, gallery: int, depth: int) -> Callable[[], object]:
        data = retrieval(queries, gallery, depth)
        return lambda: fastreid_ops.k_reciprocal(data.query, data.gallery)

    def k_reciprocal_top(queries: int, gallery: int, depth: int) -> Callable[[], object]:
        data = retrieval(queries, gallery, depth)
        return lambda: fastreid_ops.k_reciprocal(data.query, data.gallery, top=200)

    def manifest(rows: int) -> Callable[[], object]:
        from manifests import large_manifest

        from fastreid_ops.data.manifest import Manifest

        file = large_manifest(rows)
        return lambda: Manifest.read_csv(file)

    return {
        **_attention_steps(),
        "train_step": _train_step,
        "rival_train_step": _rival_train_step,
        "manifest": manifest,
        "nearest": nearest,
        "rank_features": rank_features,
        "k_reciprocal": k_reciprocal,
        "k_reciprocal_top": k_reciprocal_top,
    }


def _train_step(trainer: int, way: int) -> Callable[[], object]:
    """A step of ours, its number in TRAINERS and in WAYS, with the memory setting of a run."""
    from bench_train_step import TRAINERS, WAYS, pair

    from fastreid_ops.engine.heap import keep_freed_memory

    keep_freed_memory()
    return pair(TRAINERS[trainer], list(WAYS)[way])[0].train


def _rival_train_step(trainer: int, way: int) -> Callable[[], object]:
    """The rival's, with the memory as it comes."""
    from bench_train_step import TRAINERS, WAYS, pair

    return pair(TRAINERS[trainer], list(WAYS)[way])[1].step


def _attention_steps() -> dict[str, Callable[..., Callable[[], object]]]:
    """Forward and backward of every layer, from our ops and from torch's; a small step first, so that code and threads
    are in memory already."""
    from attention_layers import case, ours
    from rivals.attention import LAYERS, eager

    def step(name: str, make: Callable[..., Callable]) -> Callable[..., Callable[[], object]]:
        def prepared(*shape: int) -> Callable[[], object]:
            small, large = case(name, (2, *shape[1:])), case(name, shape)
            small.step(make(small.layer))
            return lambda: large.step(make(large.layer))

        return prepared

    steps = {}
    for name in LAYERS:
        steps[f"ours: {name}"] = step(name, lambda layer, name=name: ours(name, layer))
        steps[f"eager: {name}"] = step(name, eager)
    return steps


def measured(name: str, *sizes: int) -> float:
    import torch

    import fastreid_ops

    call = _calls()[name](*sizes)
    warm = torch.zeros(60, 4)
    fastreid_ops.nearest(warm, warm, 1)  # the library and the threads are there
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _status("VmRSS")
    kept = call()
    del kept
    return _status("VmHWM") - before


def peak(name: str, *sizes: int) -> float:
    """GiB beyond the inputs, the result included."""
    command = [sys.executable, str(Path(__file__).resolve()), name, *map(str, sizes)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout)


if __name__ == "__main__":
    print(measured(sys.argv[1], *map(int, sys.argv[2:])))
