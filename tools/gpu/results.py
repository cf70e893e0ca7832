# SPDX-License-Identifier: Apache-2.0
"""The results file: one dictionary, written whole after every stage; floors beside figures; the table."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FORMAT = 1
DONE = ("passed", "failed")  # a stage that came to its own end


def file_name(machine: str) -> str:
    """``NVIDIA H200`` -> ``nvidia-h200.json``."""
    return re.sub(r"[^a-z0-9]+", "-", machine.lower()).strip("-") + ".json"


def write(path: Path, results: Mapping[str, Any]) -> None:
    """All or nothing: who reads it, at whatever moment, reads one that is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(results, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read(path: Path) -> dict[str, Any] | None:
    """An earlier call's, or None where there is none of this format."""
    if not path.is_file():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    return found if found.get("format") == FORMAT else None


def ceilings(figures: list[dict[str, Any]]) -> dict[str, float]:
    """``copy`` in bytes a second and ``fp32``, ``tf32``, ``bf16`` ... in operations a second."""
    return {figure["ceiling"]: figure["rate"] for figure in figures if "ceiling" in figure}


def with_floor(figure: dict[str, Any], ceiling: Mapping[str, float], *, judge: bool = True) -> dict[str, Any]:
    """The figure with what no implementation could be faster than, from its bytes and operations and the ceilings
    measured in the same run; with a sentence in its place where one is missing.

    ``bytes`` must be moved, ``operations`` be done by the unit ``unit``; the larger time is the floor, and ``of floor``
    the share of it in what was measured (1 is the ceiling itself). ``least_of_floor`` is a target for that share:
    ``judge`` says whether it is met.
    """
    times: dict[str, float] = {}
    missing = []
    if "bytes" in figure:
        if "copy" in ceiling:
            times["bytes"] = figure["bytes"] / ceiling["copy"]
        else:
            missing.append("copy")
    if "operations" in figure:
        if figure["unit"] in ceiling:
            times["operations"] = figure["operations"] / ceiling[figure["unit"]]
        else:
            missing.append(figure["unit"])
    if missing:
        return {**figure, "no floor": f"the ceiling of {' and '.join(missing)} was not measured in this run"}
    if not times or "seconds" not in figure:
        return figure
    bound = max(times, key=times.__getitem__)
    share = times[bound] / figure["seconds"]
    found = {**figure, "floor_seconds": times[bound], "floor_of": bound, "of_floor": share}
    if judge and "least_of_floor" in figure:
        found["met"] = share >= figure["least_of_floor"]
    return found


def table(results: Mapping[str, Any]) -> str:
    """For people: every stage with how it ended, every figure with its floor and its rival."""
    run, machine = results["run"], results["machine"]
    lines = [
        f"{machine.get('device') or machine.get('processor', 'unknown machine')}, commit {run['commit']}, {run['date']}"
    ]
    if run["dry_run"]:
        lines.append("DRY RUN on the CPU at tiny sizes: no figure below says anything about a GPU")
    for name, rate in results["ceilings"].items():
        unit = ("GB/s", 1e9) if name == "copy" else ("TFLOP/s", 1e12)
        lines.append(f"  ceiling {name:6s}{rate / unit[1]:12.2f} {unit[0]}")
    for name, stage in results["stages"].items():
        lines.append(f"{name:22s}{stage['status']:12s}{stage.get('seconds', 0):7.1f} s  {_words(stage)}")
    lines.append(f"{'':64s}{'ms':>12s}{'floor, ms':>12s}{'of floor':>9s}{'x rival':>9s}  target")
    for stage in results["stages"].values():
        lines += [_row(figure) for figure in stage.get("figures", []) if _has_row(figure)]
    return "\n".join(lines)


def _words(stage: Mapping[str, Any]) -> str:
    words = [stage["reason"]] if stage.get("reason") else []
    if "tests" in stage:
        words += [f"{count} {outcome}" for outcome, count in stage["tests"]["counts"].items()]
        words += [f"stopped in {stage['tests']['running']}"] if "running" in stage["tests"] else []
    if "sanitizer" in stage:
        found = stage["sanitizer"]
        errors = "no count of errors" if found["errors"] is None else f"{found['errors']} errors"
        words += [errors, f"{len(found['calls'])} calls{'' if found['complete'] else ', not all'}"]
    return "; ".join(words)


def _has_row(figure: Mapping[str, Any]) -> bool:
    """Ceilings stand on top, and clocks have no time."""
    return "error" in figure or ("seconds" in figure and "ceiling" not in figure)


def _row(figure: Mapping[str, Any]) -> str:
    name = figure["name"][:64]
    if "error" in figure:
        return f"{name:64s} {figure['error'][:70]}"
    floor = f"{figure['floor_seconds'] * 1e3:12.4f}" if "floor_seconds" in figure else f"{'-':>12s}"
    share = f"{figure['of_floor']:9.2f}" if "of_floor" in figure else f"{'-':>9s}"
    rival = figure.get("rival_seconds")
    times = f"{rival / figure['seconds']:9.2f}" if rival else f"{'-':>9s}"
    met = {True: "met: ", False: "NOT met: ", None: ""}[figure.get("met")]
    return f"{name:64s}{figure['seconds'] * 1e3:12.4f}{floor}{share}{times}  {met}{figure.get('target', '')}"
