# SPDX-License-Identifier: Apache-2.0
"""What a stage has to say, read from its log or its file of figures, also where it was ended half-way."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

KEPT_NAMES = 40  # failed tests that are named
KEPT_LINES = 60  # of the end of a log
_TEST = re.compile(
    r"^(?:\[gw\d+\] (?:\[ *\d+%\] )?)?(\S+::.+?) (PASSED|FAILED|SKIPPED|ERROR|XFAIL|XPASS)\b|"
    r"^\[gw\d+\] \[ *\d+%\] (PASSED|FAILED|SKIPPED|ERROR|XFAIL|XPASS) (\S+::.*)"
)
_STARTED = re.compile(r"^(\S+\.py::.+?) *$")
_SUMMARY = re.compile(r"ERROR SUMMARY: (\d+) error")
_RACES = re.compile(r"RACECHECK SUMMARY: (\d+) hazard")


def tail(log: Path, lines: int = KEPT_LINES) -> list[str]:
    """The last lines of a log."""
    return log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]


def whole(log: Path) -> Any:
    """The JSON that is all of a log, or None where it is something else."""
    try:
        return json.loads(log.read_text(encoding="utf-8", errors="replace"))
    except json.JSONDecodeError:
        return None


def tests(log: Path) -> dict[str, Any]:
    """Counts by outcome from the lines of ``pytest -v``, the failed ones by name; ``running`` is the test that had
    begun and not ended."""
    counts: dict[str, int] = {}
    failed: list[str] = []
    running = None
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        found = _TEST.match(line)
        if found is None:
            begun = _STARTED.match(line)
            running = begun[1] if begun else running
            continue
        name, outcome = (found[1], found[2]) if found[1] else (found[4], found[3])
        counts[outcome.lower()] = counts.get(outcome.lower(), 0) + 1
        running = None
        if outcome in ("FAILED", "ERROR"):
            failed.append(name.strip())
    result: dict[str, Any] = {"counts": counts, "failed": failed[:KEPT_NAMES]}
    if running is not None:
        result["running"] = running
    return result


def figures(file: Path) -> list[dict[str, Any]]:
    """One JSON object a line, as they were measured; a last line that was cut off is left out."""
    if not file.is_file():
        return []
    found = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return found


def profile(log: Path) -> list[dict[str, str]]:
    """One entry for each launch from the table that ncu prints: a line of names, a line of units, a line for each
    launch. Units stand behind the names."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    rows = list(csv.reader(line for line in lines if line.startswith('"')))
    if len(rows) < 3 or "Kernel Name" not in rows[0]:
        return []
    names, units = rows[0], rows[1]
    heads = [f"{name} ({unit})" if unit else name for name, unit in zip(names, units, strict=False)]
    kept = [i for i, name in enumerate(names) if name == "Kernel Name" or "__" in name]
    return [{heads[i]: row[i] for i in kept} for row in rows[2:] if len(row) == len(names)]


def sanitizer(log: Path) -> dict[str, Any]:
    """The tool's count of errors (None where it did not get to say it), those that name a kernel of ours, and the
    calls that were run under it."""
    text = log.read_text(encoding="utf-8", errors="replace")
    summary = _SUMMARY.findall(text) or _RACES.findall(text)
    reports = [block for block in re.split(r"(?m)^========= *$", text) if "fastreid" in block]
    ours = [block for block in reports if re.search(r"(?m)^========= .*(fastreid|_kernel)", block)]
    return {
        "errors": int(summary[-1]) if summary else None,
        "reports naming a kernel of ours": len(ours),
        "first of them": ours[0].splitlines()[:12] if ours else [],
        "calls": re.findall(r"(?m)^ran (.+)$", text),
        "complete": "every call ran" in text,
    }
