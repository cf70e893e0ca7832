# SPDX-License-Identifier: Apache-2.0
"""What a run folder holds, as plain values. Files that are missing give empty values, damaged ones a remark."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
FIGURES = ("mAP", "mINP", "rank1", "rank5", "rank10")


@dataclass(frozen=True)
class Query:
    """One query of a result. ``status`` 0 valid, 1 the id is not in the gallery, 2 only under the query's camera."""

    path: str
    pid: str
    camid: str
    ap: float
    inp: float
    first_rank: int
    status: int


@dataclass(frozen=True)
class Entry:
    """One gallery entry of a ranked list."""

    path: str
    pid: str
    camid: str
    distance: float
    match: bool


@dataclass(frozen=True)
class SetResult:
    """Content of one ``results/<set>.json``."""

    name: str
    label: str
    note: str
    protocol: dict[str, Any]
    counts: dict[str, Any]
    figures: dict[str, float | None]
    cmc: list[float]
    queries: list[Query]
    ranked: dict[int, list[Entry]]


@dataclass
class Run:
    """Everything the page shows."""

    folder: Path
    recipe: str = ""
    config: str = ""
    difference: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    train: list[dict[str, Any]] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    last_record: str = ""
    table: list[dict[str, Any]] = field(default_factory=list)
    results: list[SetResult] = field(default_factory=list)
    bad_files: list[list[str]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def number(value: Any) -> float | None:
    """A finite number or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def _result(content: dict[str, Any]) -> SetResult:
    """Raises KeyError, TypeError, ValueError, AttributeError for other shapes."""
    cmc = [float(value) for value in content["cmc"]]
    figures = {"mAP": number(content["mAP"]), "mINP": number(content["mINP"])}
    figures |= {f"rank{k}": cmc[k - 1] if k <= len(cmc) else None for k in (1, 5, 10)}
    queries = [
        Query(
            str(q["path"]),
            str(q["pid"]),
            str(q["camid"]),
            float(q["ap"]),
            float(q["inp"]),
            int(q["first_rank"]),
            int(q["status"]),
        )
        for q in content["queries"]
    ]
    ranked = {
        int(item["query"]): [
            Entry(str(g["path"]), str(g["pid"]), str(g["camid"]), float(g["distance"]), bool(g["match"]))
            for g in item["gallery"]
        ]
        for item in content["ranked"]
        if 0 <= int(item["query"]) < len(queries)
    }
    return SetResult(
        name=str(content["set"]),
        label=str(content.get("label") or content["set"]),
        note=str(content.get("note") or ""),
        protocol=dict(content["protocol"]),
        counts=dict(content["counts"]),
        figures=figures,
        cmc=cmc,
        queries=queries,
        ranked=ranked,
    )


def _row(content: dict[str, Any]) -> dict[str, Any]:
    figures = {key: number(content.get(key)) for key in FIGURES}
    name = str(content["set"])
    return {
        "system": str(content["system"]),
        "set": name,
        "label": str(content.get("label") or name),
        **figures,
    }


class _Reader:
    def __init__(self, folder: Path) -> None:
        self.run = Run(folder)

    def text(self, name: str) -> str:
        path = self.run.folder / name
        if not path.is_file():
            return ""
        try:
            return path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            self.run.remarks.append(f"{name}: cannot be read: {error.strerror}")
            return ""

    def json(self, name: str, make: Callable[[Any], T], missing: T) -> T:
        text = self.text(name)
        if not text:
            return missing
        try:
            return make(json.loads(text))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            self.run.remarks.append(f"{name}: not as expected ({type(error).__name__}: {error}); left out")
            return missing

    def metrics(self) -> None:
        bad = 0
        for line in self.text("metrics.jsonl").splitlines():
            try:
                record = json.loads(line)
                kind, _ = record["kind"], int(record["step"])
            except (KeyError, TypeError, ValueError):
                bad += 1
                continue
            if kind == "train":
                self.run.train.append(record)
            elif kind == "eval":
                self.run.evaluations.append(record)
        if bad:
            self.run.remarks.append(f"metrics.jsonl: {bad} lines cannot be read; left out")
        path = self.run.folder / "metrics.jsonl"
        if path.is_file():
            when = datetime.fromtimestamp(path.stat().st_mtime, timezone.utc)
            self.run.last_record = when.strftime("%Y-%m-%d %H:%M UTC")

    def results(self) -> None:
        folder = self.run.folder / "results"
        for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
            if path.name == "table.json":
                continue
            result = self.json(f"results/{path.name}", _result, None)
            # Other names are evaluations of other checkpoints of the same sets.
            if result is not None and result.name == path.stem:
                self.run.results.append(result)
        rows = self.json("results/table.json", lambda content: [_row(row) for row in content["rows"]], [])
        self.run.table = rows or [
            {"system": "trained", "set": r.name, "label": r.label, **r.figures} for r in self.run.results
        ]
        order = {row["set"]: i for i, row in reversed(list(enumerate(self.run.table)))}
        self.run.results.sort(key=lambda result: (order.get(result.name, len(order)), result.name))


def read_run(folder: Path) -> Run:
    """Read a run folder; never fails for what is in it."""
    reader = _Reader(folder)
    run = reader.run
    run.recipe = reader.text("recipe.txt").strip()
    run.config = reader.text("config.yaml")
    run.difference = reader.json("config_diff.json", dict, {})
    run.environment = reader.json("environment.json", dict, {})
    reader.metrics()
    reader.results()
    try:
        run.bad_files = [row for row in csv.reader(reader.text("bad_files.csv").splitlines()) if row]
    except csv.Error as error:
        run.remarks.append(f"bad_files.csv: cannot be read: {error}")
    return run
