# SPDX-License-Identifier: Apache-2.0
"""Prints, as one JSON object, what figures mean nothing without: the device, its clocks as they are (nothing is set),
versions. A part that cannot be had is null. ``--device cpu`` looks at the processor alone."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

QUERY = (
    "name", "driver_version", "compute_cap", "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem",
    "power.draw", "power.limit", "temperature.gpu", "memory.used", "memory.total", "ecc.mode.current",
)  # fmt: skip


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def smi() -> dict[str, str] | None:
    """What nvidia-smi says of the first GPU, in its own units."""
    line = _output("nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader")
    if line is None:
        return None
    return dict(zip(QUERY, (value.strip() for value in line.splitlines()[0].split(",")), strict=False))


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )


def _torch(device: str) -> dict[str, object]:
    try:
        import torch
    except ImportError as error:
        return {"torch": None, "torch_error": str(error)}
    facts: dict[str, object] = {"torch": torch.__version__, "torch_cuda": torch.version.cuda}
    if device == "cuda" and torch.cuda.is_available():
        found = torch.cuda.get_device_properties(0)
        facts |= {
            "device": found.name,
            "multiprocessors": found.multi_processor_count,
            "memory": found.total_memory,
            "l2": getattr(found, "L2_cache_size", None),
            "capability": f"{found.major}.{found.minor}",
            "devices": torch.cuda.device_count(),
            "cudnn": torch.backends.cudnn.version(),
        }
    return facts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    device = parser.parse_args().device
    nvcc = _output("nvcc", "--version") or _output("/usr/local/cuda/bin/nvcc", "--version")
    facts: dict[str, object] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "nvcc": nvcc.splitlines()[-2] if nvcc and len(nvcc.splitlines()) > 1 else nvcc,
        "compute-sanitizer": _output("compute-sanitizer", "--version"),
        "nvidia_smi": smi() if device == "cuda" else None,
        **_torch(device),
    }
    print(json.dumps(facts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
