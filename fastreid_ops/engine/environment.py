# SPDX-License-Identifier: Apache-2.0
"""What a run stands on (machine, versions, threads), and the switches that make it repeatable."""

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import torch

from fastreid_ops._library import status
from fastreid_ops._version import __version__


def prepare(threads: int | None, deterministic: bool) -> int:
    """Set the thread count (null: torch's own) and deterministic algorithms; returns the number of threads in
    use.

    The order of floating-point sums depends on the number of threads, so a run keeps the one it was started
    with.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read by cuBLAS when CUDA starts
        torch.backends.cudnn.benchmark = False
        torch.utils.deterministic.fill_uninitialized_memory = (
            False  # a debugging aid that writes every new tensor twice
        )
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    return torch.get_num_threads()


def pick_device(name: str) -> torch.device:
    """`auto` is the first GPU if there is one. Errors: ValueError for a GPU that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (
        not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()
    ):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        raise ValueError(
            f"run.device: got {name}, expected cpu or one of the {count} GPUs that torch "
            f"{torch.__version__} sees"
        )
    return device


def describe(device: torch.device) -> dict[str, Any]:
    """Plain values for environment.json and the checkpoint."""
    library = status()
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": numpy.__version__,
        "fastreid_ops": __version__,
        "native": library.native,
        "isa": _isa() if library.native else None,
        "threads": torch.get_num_threads(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "os": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cuda": torch.version.cuda,
        "git_commit": _commit(),
        "argv": sys.argv,
    }


def _isa() -> str:
    """The instruction set of the CPU kernels in use; `status` has imported their module."""
    return sys.modules["fastreid_ops._C"].active_isa().name


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """The commit of the source tree this package runs from, None for an installed package or without git."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
