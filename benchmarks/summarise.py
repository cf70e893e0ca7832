# SPDX-License-Identifier: Apache-2.0
"""From a pytest-benchmark JSON to benchmarks/results/<machine>.json (medians by group, each also as a ratio to ours)
and docs/performance.md.

    FASTREID_BENCH_FULL=1 pytest benchmarks --benchmark-only --benchmark-json=bench.json
    python benchmarks/summarise.py bench.json [later.json ...]

Prints the first as a table. Of a benchmark that several files hold, the last one counts; groups that none of them holds
stay as they are in the results file. Each row keeps the commit that it was measured at where that is not the newest.
Refuses to summarise a run that was made from changed files.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import performance

RESULTS = Path(__file__).resolve().parent / "results"
OURS = "fastreid_ops"
METRICS = ("euclidean", "sqeuclidean", "cosine", "arccos")


def metric_of(name: str) -> str | None:
    """The distance a benchmark computes, read off its name; None where it names none."""
    return next((part for part in name.split("-") if part in METRICS), None)


def summary(run: dict) -> dict:
    """Groups of {benchmark: {seconds, times_ours}}. A benchmark that measured ours beside itself says the ratio;
    else it is the ratio to ours of the same metric (to our fastest where the rival has none, as a bare product),
    left out where the group holds none of ours.
    """
    groups: dict[str, list[tuple[str, float, float | None]]] = {}
    for bench in run["benchmarks"]:
        if "rival" in bench["extra_info"] or "images" in bench["extra_info"]:
            continue  # claims and growth, below
        name = re.sub(r"^test_(?:forward_and_backward|forward|rival)\[|\]$", "", bench["name"])
        group = bench["group"] or Path(bench["fullname"].split("::")[0]).stem
        groups.setdefault(group, []).append(
            (name, bench["stats"]["median"], bench["extra_info"].get("times ours"))
        )
    table = {}
    for group, rows in sorted(groups.items()):
        own = {metric_of(name): median for name, median, _ in rows if re.match(rf"{OURS}(?:-|$)", name)}
        table[group] = {}
        for name, median, ratio in sorted(rows, key=lambda row: row[1]):
            if ratio is None and own:
                ratio = median / own.get(metric_of(name), min(own.values()))
            table[group][name] = {"seconds": float(f"{median:.4g}")}
            if ratio is not None:
                table[group][name]["times_ours"] = float(f"{ratio:.3g}")
    return {
        "machine": run["machine_info"]["fastreid"],
        "date": run["datetime"],
        "commit": run["commit_info"]["id"],
        "groups": table,
        "claims": [_claim(bench) for bench in run["benchmarks"] if "rival" in bench["extra_info"]],
        "growth": [_growth(bench) for bench in run["benchmarks"] if "images" in bench["extra_info"]],
    }


def merged(runs: list[dict]) -> dict:
    """One run: the last one's facts, and every benchmark as it was measured last."""
    newest = runs[-1]["commit_info"]["id"]
    benchmarks: dict[str, dict] = {}
    for run in runs:
        for bench in run["benchmarks"]:
            commit = run["commit_info"]["id"]
            if commit != newest:
                bench["extra_info"]["commit"] = commit
            benchmarks[bench["fullname"]] = bench
    return {**runs[-1], "benchmarks": list(benchmarks.values())}


def carried(old: dict, new: dict) -> dict:
    """The new summary, and what the one before it holds about groups that the new one did not measure."""
    measured = {row["group"] for row in (*new["claims"], *new["growth"])} | set(new["groups"])
    kept = {
        kind: [{"commit": old["commit"], **row} for row in old[kind] if row["group"] not in measured]
        for kind in ("claims", "growth")
    }
    groups = {name: rows for name, rows in old["groups"].items() if name not in measured}
    return {
        **new,
        "groups": {**groups, **new["groups"]},
        "claims": kept["claims"] + new["claims"],
        "growth": kept["growth"] + new["growth"],
    }


def _claim(bench: dict) -> dict:
    """A ratio of pairs that one benchmark measured (the fixture `versus`)."""
    facts = _rounded(bench["extra_info"])
    renamed = {"rival seconds": "rival_seconds", "times ours": "ratio"}
    return {"group": bench["group"], **{renamed.get(key, key): value for key, value in facts.items()}}


def _growth(bench: dict) -> dict:
    return {"group": bench["group"], **_rounded(bench["extra_info"])}


def _rounded(facts: dict) -> dict:
    return {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in facts.items()}


def main(arguments: list[str]) -> int:
    """Write the summary of the JSON files named."""
    if not arguments:
        print(__doc__, file=sys.stderr)
        return 2
    runs = [json.loads(Path(argument).read_text(encoding="utf-8")) for argument in arguments]
    if any(run["commit_info"].get("dirty") for run in runs):
        print(
            "summarise: commit: got uncommitted changes, expected a run of what a commit holds",
            file=sys.stderr,
        )
        return 1
    result = summary(merged(runs))
    name = result["machine"]["gpu"] or f"{result['machine']['processor']} {result['machine']['cores']} cores"
    target = RESULTS / f"{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}.json"
    RESULTS.mkdir(exist_ok=True)
    if target.is_file():
        result = carried(json.loads(target.read_text(encoding="utf-8")), result)
    temporary = target.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, target)
    for group, rows in result["groups"].items():
        print(f"\n{group}")
        for name, row in rows.items():
            print(f"  {name:55s} {row['seconds'] * 1e3:12.3f} ms  {row.get('times_ours', ''):>8}")
    print(f"\n{target}\n{performance.write(result)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
