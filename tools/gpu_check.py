# SPDX-License-Identifier: Apache-2.0
"""Everything that only a GPU can show, in one call of about ten minutes: ``make gpu``, or

    python tools/gpu_check.py [--budget 540] [--stages ceilings,rerank] [--out DIR] [--resume [FILE]]

builds, runs the tests on the device, the sanitizers and the benchmarks, and writes DIR/<gpu>.json (by default
benchmarks/results/) with commit, versions, clocks, the copy bandwidth and matrix rates of the same run and the floors
that follow from them beside every figure; table.txt and log.txt lie beside it. Each stage is a process group of its
own with a time limit: one that hangs or crashes is recorded, and the others go on. The file is written whole after
every stage. What was not run says so. --dry-run takes the same way on a machine without a GPU. --list names the stages.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from gpu import process, reading, results
from gpu.stages import LEAST, Stage, named, stages

ROOT = Path(__file__).resolve().parent.parent
DRY_NAME = "dry run"
LOG_BYTES = 200_000  # of each stage's log, in log.txt


def commit(given: str | None) -> tuple[str | None, bool | None]:
    """The commit and whether files were changed since; (given, None) where this is no git checkout."""
    git = ["git", "-C", str(ROOT)]
    try:
        found = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run(
            [*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return given, None
    return found.stdout.strip(), bool(changed.stdout.strip())


class Check:
    """One call. ``check.results`` is what the file holds."""

    def __init__(self, *, dry: bool, budget: float, out: Path | None, given_commit: str | None) -> None:
        self.dry, self.end = dry, time.monotonic() + budget
        self.scratch = ROOT / "build" / "gpu_check"
        self.scratch.mkdir(parents=True, exist_ok=True)
        self.machine = self._facts()
        name = DRY_NAME if dry else str(self.machine.get("device") or "no gpu")
        # A dry run's figures are no results.
        self.out = out or (self.scratch if dry else ROOT / "benchmarks" / "results")
        self.file = self.out / results.file_name(name)
        sha, dirty = commit(given_commit)
        self.results: dict[str, Any] = {
            "format": results.FORMAT,
            "run": {
                "commit": sha,
                "uncommitted_changes": dirty,
                "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
                "dry_run": dry,
                "budget_seconds": budget,
            },
            "machine": self.machine,
            "ceilings": {},
            "stages": {},
        }

    def _facts(self) -> dict[str, Any]:
        log = self.scratch / "facts.log"
        command = [sys.executable, "tools/gpu/facts.py", "--device", "cpu" if self.dry else "cuda"]
        outcome = process.run(command, 60, log, cwd=ROOT, environment=os.environ)
        if outcome.status != "passed":
            return {"error": outcome.reason, "log": reading.tail(log, 20)}
        return json.loads(reading.tail(log, 1)[0])

    @property
    def left(self) -> float:
        return self.end - time.monotonic()

    def resume(self, file: Path | None = None) -> None:
        """Take over the stages that an earlier call at the same commit on the same device brought to their end."""
        earlier = results.read(file or self.file)
        if earlier is None or earlier["machine"].get("device") != self.machine.get("device"):
            return
        runs = (earlier["run"], self.results["run"])
        if runs[0]["commit"] != runs[1]["commit"] or any(run["uncommitted_changes"] for run in runs):
            return
        for name, stage in earlier["stages"].items():
            # Floors need the ceilings of this very run, and what is loaded is what was built now.
            if stage["status"] in results.DONE and name not in ("build", "doctor", "ceilings"):
                self.results["stages"][name] = {**stage, "date": stage.get("date", earlier["run"]["date"])}

    def run(self, wanted: list[Stage], every: list[Stage]) -> None:
        kept = self.results["stages"]
        self.results["stages"] = {}
        for stage in every:
            if stage.name in kept:
                self.results["stages"][stage.name] = kept[stage.name]
            else:
                asked = stage in wanted
                why = "its turn did not come" if asked else "it was not asked for"
                self.results["stages"][stage.name] = {"what": stage.what, "status": "not run", "reason": why}
        try:
            for stage in wanted:
                if stage.name in kept:
                    continue
                self.results["stages"][stage.name] = self.one(stage)
                self.save()
        finally:
            self.save()

    def one(self, stage: Stage) -> dict[str, Any]:
        """Run a stage and read what it says."""
        record: dict[str, Any] = {"what": stage.what, "command": " ".join(stage.command)}
        if self.left < LEAST:
            return {
                **record,
                "status": "not run",
                "reason": f"{max(0.0, self.left):.0f} s of the budget were left",
            }
        before = self.results["stages"].get(stage.needs or "", {}).get("status")
        if before in ("failed", "crashed", "timed out"):
            return {**record, "status": "not run", "reason": f"{stage.needs} {before}"}
        limit = min(stage.limit, self.left)
        log, figures = self.scratch / f"{stage.name}.log", self.scratch / f"{stage.name}.jsonl"
        figures.unlink(missing_ok=True)
        print(f"== {stage.name}: {stage.what} ({limit:.0f} s at most, {self.left:.0f} s left)", flush=True)
        environment = {
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            **stage.environment,
            "FASTREID_FIGURES": str(figures),
        }
        begun = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        self.results["stages"][stage.name] = {**record, "status": "interrupted", "date": begun}
        outcome = process.run(stage.command, limit, log, cwd=ROOT, environment=environment)
        record |= {
            "status": outcome.status,
            "seconds": round(outcome.seconds, 2),
            "limit_seconds": round(limit, 1),
            "returncode": outcome.returncode,
            "date": begun,
        }
        if outcome.reason:
            record["reason"] = outcome.reason
        record |= self._read(stage, log, figures)
        if outcome.status != "passed":
            record["log"] = reading.tail(log)
        print(f"   {outcome.status}{f': {outcome.reason}' if outcome.reason else ''}", flush=True)
        return record

    def _read(self, stage: Stage, log: Path, figures: Path) -> dict[str, Any]:
        if stage.kind == "tests":
            return {"tests": reading.tests(log)}
        if stage.kind == "sanitizer":
            return {
                "sanitizer": reading.sanitizer(log),
                "tool": stage.name if not self.dry else "none: dry run",
            }
        if stage.kind == "profile":
            return {"launches": reading.profile(log)}
        if stage.kind == "json":
            return {"said": reading.whole(log)}
        if stage.kind != "figures":
            return {}
        found = reading.figures(figures)
        if stage.name == "ceilings":
            self.results["ceilings"] = results.ceilings(found)
        ceilings = self.results["ceilings"]
        return {"figures": [results.with_floor(figure, ceilings, judge=not self.dry) for figure in found]}

    def save(self) -> None:
        results.write(self.file, self.results)
        # Beside the results only where a folder was named: the repository keeps figures, not logs.
        folder = self.scratch if self.out == ROOT / "benchmarks" / "results" else self.out
        (folder / "table.txt").write_text(results.table(self.results) + "\n", encoding="utf-8")
        with (folder / "log.txt").open("wb") as file:
            for name, stage in self.results["stages"].items():
                log = self.scratch / f"{name}.log"
                if "returncode" in stage and log.is_file():
                    file.write(
                        f"\n===== {name}: {stage['status']}\n".encode() + log.read_bytes()[-LOG_BYTES:]
                    )


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--budget", type=float, default=540, help="seconds for all of it (540)")
    parser.add_argument(
        "--stages", help="names, separated by commas, in the order to run them; all by default"
    )
    parser.add_argument("--out", type=Path, help="folder for the results (benchmarks/results)")
    parser.add_argument(
        "--resume", action="store_true", help="keep what an earlier call at this commit finished"
    )
    parser.add_argument("--dry-run", action="store_true", help="the same on the CPU at tiny sizes")
    parser.add_argument("--commit", help="what to record where the tree is no git checkout")
    parser.add_argument("--list", action="store_true", help="name the stages and end")
    return parser.parse_args(given)


def _interrupted(number: int, frame: object) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


def main(given: list[str] | None = None) -> int:
    """0 where every stage that was asked for passed."""
    options = arguments(given)
    if options.list:
        print(
            "\n".join(
                f"{stage.name:12s}{stage.limit:5.0f} s  {stage.what}" for stage in stages(dry=options.dry_run)
            )
        )
        return 0
    signal.signal(signal.SIGTERM, _interrupted)
    named(stages(dry=options.dry_run), options.stages)  # a wrong name is said before anything is begun
    check = Check(dry=options.dry_run, budget=options.budget, out=options.out, given_commit=options.commit)
    if not options.dry_run and not check.machine.get("device"):
        print("gpu_check: device: got no CUDA device, expected one; --dry-run does without", file=sys.stderr)
        return 2
    every = stages(dry=options.dry_run, architectures=check.machine.get("capability"))
    wanted = named(every, options.stages)
    if options.resume:
        check.resume(None if options.resume is True else Path(options.resume))
    try:
        check.run(wanted, every)
    except KeyboardInterrupt as error:
        print(f"gpu_check: stopped by {error or 'Ctrl-C'}; what was done is in {check.file}", file=sys.stderr)
    print(f"\n{results.table(check.results)}\n\n{check.file}")
    return 0 if all(check.results["stages"][stage.name]["status"] == "passed" for stage in wanted) else 1


if __name__ == "__main__":
    sys.exit(main())
