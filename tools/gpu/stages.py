# SPDX-License-Identifier: Apache-2.0
"""The stages of a check on a GPU, in the order of their value: what is lost when time runs out is the end of the list.

Of a dry run: the same commands on the CPU, at tiny sizes; the build is only prepared, and the small set of the
sanitizers runs without one.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

PYTEST = (
    "-m",
    "pytest",
    "-v",
    "-p",
    "no:cacheprovider",
    "-o",
    "addopts=--import-mode=importlib",
    "--tb=short",
    "-rs",
)
SANITIZERS = ("memcheck", "racecheck", "synccheck", "initcheck")
# What ncu is asked for each kernel: time, the shares of the peaks, registers, warps, spills.
METRICS = (
    "gpu__time_duration.sum",
    "sm__throughput.avg.pct_of_peak_sustained_elapsed",
    "gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed",
    "lts__throughput.avg.pct_of_peak_sustained_elapsed",
    "sm__inst_executed_pipe_tensor.avg.pct_of_peak_sustained_active",
    "dram__bytes_read.sum",
    "dram__bytes_write.sum",
    "sm__warps_active.avg.pct_of_peak_sustained_active",
    "launch__registers_per_thread",
    "launch__grid_size",
)
# Not begun with less time than this: nothing would come of it but a half-started process.
LEAST = 5.0


@dataclass(frozen=True)
class Stage:
    """``limit``: seconds at most. ``kind`` says how its output is read (reading.py): figures, tests, sanitizer,
    profile, json or plain. ``needs``: a stage after whose failure this one is not begun."""

    name: str
    what: str
    command: tuple[str, ...]
    limit: float
    kind: str = "plain"
    needs: str | None = None
    environment: dict[str, str] = field(default_factory=dict)


def kernels() -> str:
    """A pattern for ncu of the names of our kernels, from their sources."""
    sources = [file for file in (ROOT / "csrc").rglob("*.cu*") if "tests" not in file.parts]
    found = {
        name
        for file in sources
        for text in [file.read_text(encoding="utf-8")]
        for name in re.findall(r"__global__[^;{]*?\b(\w+_kernel)\(", text)
    }
    return f"^({'|'.join(sorted(found))})$"


def stages(*, dry: bool, python: str = sys.executable, architectures: str | None = None) -> list[Stage]:
    """All of them. ``architectures``: what TORCH_CUDA_ARCH_LIST is set to for the build; None leaves it alone."""
    device = "cpu" if dry else "cuda"

    def figures(part: str, what: str, limit: float) -> Stage:
        command = (python, "benchmarks/device_figures.py", part, "--device", device)
        needs = None if part == "ceilings" else "build"  # these are torch's alone
        return Stage(part, what, (*command, "--tiny") if dry else command, limit, "figures", needs)

    def tests(name: str, what: str, limit: float, *files: str, workers: int = 0) -> Stage:
        # The oracles are plain Python on the CPU: several processes where there are cores for them.
        shared = () if dry or not workers else ("-n", str(workers), "--dist", "worksteal")
        return Stage(name, what, (python, *PYTEST, *shared, *files), limit, "tests", "build")

    def sanitizer(tool: str, limit: float) -> Stage:
        command = (python, "tools/gpu/small_set.py", "--device", device, "--seconds", str(int(limit * 0.8)))
        if not dry:
            command = ("compute-sanitizer", "--tool", tool, "--error-exitcode", "9", *command)
        # Allocations one by one, so that the end of each is the end of a tensor.
        caching = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        return Stage(tool, f"small set under {tool}", command, limit, "sanitizer", "build", caching)

    profiled = (python, "benchmarks/profiled.py", "--device", device)
    # The clocks are left alone.
    ncu = ("ncu", "--clock-control", "none", "--csv", "--page", "raw", "--metrics", ",".join(METRICS))
    profiled = (*profiled, "--tiny") if dry else (*ncu, "-k", f"regex:{kernels()}", *profiled)
    build = (python, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "-e", ".")
    environment = {"FASTREID_CUDA": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    if architectures:
        environment["TORCH_CUDA_ARCH_LIST"] = architectures
    if dry:
        build = (*build[:4], "--dry-run", *build[4:])
        environment.pop("FASTREID_CUDA")
    return [
        Stage("build", "kernels and package in place", build, 240, environment=environment),
        Stage(
            "doctor", "what is loaded", (python, "-m", "fastreid_ops.doctor", "--json"), 45, "json", "build"
        ),
        figures("ceilings", "copies and matrix products", 45),
        tests("every-op", "every cell against float64", 120, "tests/gpu/test_every_op.py", workers=8),
        figures("ranking", "scenario 1: features to CMC and mAP", 45),
        figures("rerank", "scenario 2: k-reciprocal re-ranking", 60),
        figures("training", "scenario 3: training steps in bfloat16", 75),
        figures("attention", "attention ops, forward and backward", 60),
        figures("ops", "every other op against its rival", 60),
        tests("repeats", "equal bits in 100 calls", 60, "tests/gpu/test_repeats.py"),
        tests(
            "streams", "streams, devices, graphs", 45, "tests/gpu/test_streams.py", "tests/gpu/test_graphs.py"
        ),
        sanitizer("memcheck", 75),
        figures("naic", "scenario 2 at the size of NAIC", 90),
        tests("sizes", "46,340 rows, 46,341 rows, 2^31 elements", 75, "tests/gpu/test_sizes.py"),
        sanitizer("racecheck", 75),
        tests("compile", "torch.compile", 75, "tests/gpu/test_compile.py"),
        sanitizer("synccheck", 60),
        sanitizer("initcheck", 60),
        Stage("profile", "every kernel under ncu", profiled, 120, "profile", "build"),
        figures("compiled", "attention layers against torch.compile", 120),
        tests("cpu-ops", "the ops' own tests, on this machine's CPU", 240, "tests/ops", workers=8),
    ]


def named(every: list[Stage], names: str | None) -> list[Stage]:
    """Those of a comma-separated list, in the order of the list itself; all for None.

    Raises:
        ValueError: a name that no stage has.
    """
    if names is None:
        return every
    by_name = {stage.name: stage for stage in every}
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in by_name]
    if unknown or not wanted:
        got = ", ".join(unknown) or "nothing"
        raise ValueError(f"gpu_check: stages: got {got}, expected some of {', '.join(by_name)}")
    return [by_name[name] for name in dict.fromkeys(wanted)]
