# SPDX-License-Identifier: Apache-2.0
"""What every benchmark records (machine, versions, threads, instruction set, commit's own figures aside), and the
rule that a result is checked before it is timed. Sizes that take minutes are measured with FASTREID_BENCH_FULL=1;
without it the same benchmarks run on small inputs."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import fastreid_ops
from fastreid_ops import _library

PACKAGES = ("torch", "numpy", "faiss-cpu", "scikit-learn", "torchreid", "fastreid", "pytest-benchmark")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    if file.is_file():
        for line in file.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


def machine() -> dict[str, object]:
    """What a figure means nothing without."""
    facts: dict[str, object] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "fastreid_ops": fastreid_ops.__version__,
        "native": _library.status().native,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "packages": {name: _version(name) for name in PACKAGES},
    }
    if facts["native"]:
        from fastreid_ops import _C

        facts["isa"] = _C.active_isa().name
        facts["compiler"] = _C.compiler
    return facts


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info["fastreid"] = machine()


@pytest.fixture
def checked(benchmark):
    """checked(run, check, *arguments, rounds=5): check(run(*arguments)) must not raise; only then is run
    timed."""

    def time(run: Callable, check: Callable, *arguments: object, rounds: int = 5) -> None:
        check(run(*arguments))
        benchmark.pedantic(run, args=arguments, rounds=rounds, warmup_rounds=1)

    return time


@pytest.fixture
def versus(benchmark):
    """versus(ours, theirs, check, rival="faiss", ...): times both in turn and records the median ratio of the pairs.

    ``check(ours(), theirs())`` must not raise; only then is anything timed. Further keywords say what the ratio is
    about and are kept with it: ``work`` (what is computed), ``target`` (the ratio aimed at), ``floor`` and
    ``floor_seconds`` (what no implementation on this machine could be faster than, and its measured time), ``peak``
    (GiB of memory beyond inputs and result). ``clock`` is what is timed by: wall time, or `timing.processor_seconds`
    where workers compute and other programs disturb.
    """

    def run(
        ours: Callable,
        theirs: Callable,
        check: Callable,
        *,
        rival: str,
        rounds: int = 3,
        clock: Callable[[], float] = time.perf_counter,
        **facts: object,
    ) -> None:
        check(ours(), theirs())
        pairs: list[list[float]] = []

        def rival_first() -> None:
            start = clock()
            theirs()
            pairs.append([clock() - start])

        def timed() -> None:
            start = clock()
            ours()
            pairs[-1].append(clock() - start)

        benchmark.pedantic(timed, setup=rival_first, rounds=1 if benchmark.disabled else rounds)
        theirs_median, ours_median = (statistics.median(side) for side in zip(*pairs, strict=True))
        ratios = sorted(theirs / ours for theirs, ours in pairs)
        ratio = statistics.median(ratios)
        benchmark.extra_info |= {
            "clock": clock.__name__,
            "lowest": ratios[0],
            "highest": ratios[-1],
            "rival": rival,
            "rival seconds": theirs_median,
            "seconds": ours_median,
            "times ours": ratio,
            **facts,
        }

    return run
