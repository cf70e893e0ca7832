# SPDX-License-Identifier: Apache-2.0
"""From a run to HTML: chooses what is shown; the template decides how."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from fastreid_ops.report.charts import Chart, Series, histogram, line_chart, percent
from fastreid_ops.report.read import FIGURES, Entry, Query, Run, SetResult, number
from fastreid_ops.report.thumbnails import Thumbnails

LISTS = 5  # best and worst ranked lists of each set
MOST_QUERIES = 3000  # rows of a table of queries
MOST_BAD_FILES = 500
CMC_RANKS = 20  # what papers plot
SAMPLE_NOTE = (
    "The real crops come from one camera, divided into two pseudo-cameras, and show eleven people: they tell whether "
    "anything carries over to real pictures, not how good a model is."
)
COLUMNS = {"mAP": "mAP", "mINP": "mINP", "rank1": "Rank-1", "rank5": "Rank-5", "rank10": "Rank-10"}
STATUS = {1: "id not in the gallery", 2: "id only under the query's own camera"}


@dataclass(frozen=True)
class RankedList:
    """One query with what was found for it."""

    query: Query
    entries: list[Entry]


@dataclass(frozen=True)
class SetView:
    """One evaluation set as the page shows it."""

    result: SetResult
    charts: list[Chart]
    best: list[RankedList]
    worst: list[RankedList]
    queries: list[tuple[int, Query]]
    left_out: int
    remark: str


def _curve(records: list[dict[str, Any]], name: str, *keys: str, over: str = "step") -> Series:
    values = []
    for record in records:
        value: Any = record
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        values.append(number(value))
    xs = [number(record.get(over)) for record in records]
    known = [(x, y) for x, y in zip(xs, values, strict=True) if x is not None]
    return Series(name, [x for x, _ in known], [y for _, y in known])


def training_charts(run: Run) -> list[Chart]:
    """Losses, learning rate, gradient norm and speed over steps; figures on the evaluation sets over epochs."""
    train, charts = run.train, []
    parts = sorted({key for r in train if isinstance(r.get("losses"), dict) for key in r["losses"]})
    losses = [_curve(train, "sum", "loss"), *(_curve(train, key, "losses", key) for key in parts)]
    charts.append(line_chart("Loss", losses, x_label="step", y_label="loss", y_range=(0, 0)))
    labels = {row["set"]: row["label"] for row in run.table}
    for key in ("mAP", "rank1"):
        lines = []
        for name in dict.fromkeys(str(r.get("set")) for r in run.evaluations):
            records = [r for r in run.evaluations if str(r.get("set")) == name]
            curve = _curve(records, labels.get(name, name), key, over="epoch")
            lines.append(Series(curve.name, curve.xs, curve.ys, marks=True))
        label = COLUMNS[key]
        charts.append(
            line_chart(
                f"{label} while training",
                lines,
                x_label="epochs done",
                y_label=label,
                form=percent,
                y_range=(0, 0),
            )
        )
    rate = [_curve(train, "learning rate", "lr")]
    charts.append(line_chart("Learning rate", rate, x_label="step", y_label="learning rate", y_range=(0, 0)))
    norm = [_curve(train, "gradient norm", "grad_norm")]
    charts.append(line_chart("Gradient norm", norm, x_label="step", y_label="L2 norm", y_range=(0, 0)))
    speed = [_curve(train, "images per second", "images_per_s")]
    charts.append(line_chart("Speed", speed, x_label="step", y_label="images per second", y_range=(0, 0)))
    return [chart for chart in charts if chart is not None]


def set_charts(run: Run, result: SetResult) -> list[Chart]:
    """CMC (with the other systems of the table at the ranks known of them) and the histogram of average precisions."""
    cmc = result.cmc[:CMC_RANKS]
    lines = [Series("trained", [float(k) for k in range(1, len(cmc) + 1)], list(cmc), marks=True)]
    for row in run.table:
        if row["set"] == result.name and row["system"] != "trained":
            lines.append(
                Series(row["system"], [1.0, 5.0, 10.0], [row[f"rank{k}"] for k in (1, 5, 10)], marks=True)
            )
    aps = [query.ap for query in result.queries if query.status == 0]
    charts = [
        line_chart(
            "Cumulative match characteristic",
            lines,
            x_label="rank k",
            y_label="right among the first k",
            form=percent,
            y_range=(0, 1),
        ),
        histogram("Average precision of the queries", aps, x_label="average precision, %", y_label="queries"),
    ]
    return [chart for chart in charts if chart is not None]


def pick_lists(result: SetResult, count: int = LISTS) -> tuple[list[RankedList], list[RankedList]]:
    """Best and worst queries by average precision, each person once as far as there are enough, none in both."""
    known = [i for i, q in enumerate(result.queries) if q.status == 0 and result.ranked.get(i)]
    best_count = min(count, (len(known) + 1) // 2)

    def first(order: list[int], most: int) -> list[int]:
        seen: set[str] = set()
        fresh, again = [], []
        for i in order:
            (again if result.queries[i].pid in seen else fresh).append(i)
            seen.add(result.queries[i].pid)
        return (fresh + again)[:most]

    worst_first = sorted(known, key=lambda i: (result.queries[i].ap, i))
    best = first(sorted(known, key=lambda i: (-result.queries[i].ap, i)), best_count)
    worst = first([i for i in worst_first if i not in best], min(count, len(known) - best_count))
    return tuple([RankedList(result.queries[i], result.ranked[i]) for i in rows] for rows in (best, worst))


def _set_view(run: Run, result: SetResult) -> SetView:
    best, worst = pick_lists(result)
    order = sorted(
        range(len(result.queries)), key=lambda i: (result.queries[i].status, result.queries[i].ap, i)
    )
    return SetView(
        result=result,
        charts=set_charts(run, result),
        best=best,
        worst=worst,
        queries=[(i, result.queries[i]) for i in order[:MOST_QUERIES]],
        left_out=max(0, len(order) - MOST_QUERIES),
        remark=SAMPLE_NOTE if result.name == "sample" and "pseudo" not in result.note else "",
    )


def headline(run: Run) -> list[dict[str, Any]]:
    """The table, one group of rows per set: {"label", "note", "rows": [...]}; the best value of a column is marked."""
    notes = {result.name: result.note for result in run.results}
    groups: dict[str, dict[str, Any]] = {}
    for row in run.table:
        note = notes.get(row["set"], "")
        if row["set"] == "sample" and "pseudo" not in note:
            note = f"{note} {SAMPLE_NOTE}".strip()
        group = groups.setdefault(row["set"], {"label": row["label"], "note": note, "rows": []})
        group["rows"].append(row)
    for group in groups.values():
        for key in FIGURES:
            values = [row[key] for row in group["rows"] if row[key] is not None]
            group.setdefault("best", {})[key] = max(values) if len(values) > 1 else None
    return list(groups.values())


def facts(run: Run) -> list[tuple[str, str]]:
    """A few words about the run: (name, value)."""
    found = [("recipe", run.recipe)]
    if run.train:
        last = run.train[-1]
        epoch = last.get("epoch")
        found += [
            ("epochs", str(epoch + 1) if isinstance(epoch, int) else ""),
            ("steps", str(last["step"])),
        ]
        speeds = sorted(s for r in run.train if (s := number(r.get("images_per_s"))) is not None)
        found.append(("images per second, median", f"{speeds[len(speeds) // 2]:.0f}" if speeds else ""))
    found.append(("last record", run.last_record))
    return [(name, value) for name, value in found if value]


def _text(value: Any) -> str:
    """A configuration or environment value as one would write it."""
    if value is None:
        return "none"
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return " ".join(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = _percent
    environment.filters["words"] = _text
    environment.filters["file_name"] = lambda path: path.replace("\\", "/").rsplit("/", 1)[-1]
    return environment


def render(run: Run) -> str:
    """The whole page as text."""
    thumbnails = Thumbnails()
    difference = [
        (key, *pair) if isinstance(pair, list) and len(pair) == 2 else (key, None, pair)
        for key, pair in sorted(run.difference.items())
    ]
    page = _environment().get_template("page.html")
    return page.render(
        run=run,
        name=run.folder.resolve().name,
        facts=facts(run),
        groups=headline(run),
        columns=COLUMNS,
        training=training_charts(run),
        sets=[_set_view(run, result) for result in run.results],
        difference=difference,
        status=STATUS,
        most_bad_files=MOST_BAD_FILES,
        thumbnail=thumbnails.uri,
        missing=thumbnails.missing,
    )
