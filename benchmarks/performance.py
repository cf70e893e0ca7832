# SPDX-License-Identifier: Apache-2.0
"""docs/performance.md and its picture, from a summary of summarise.py. Nothing in them is written by hand."""

from __future__ import annotations

import math
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"


def write(summary: dict) -> Path:
    """Writes docs/performance.md, and docs/performance-growth.svg where growth was measured."""
    growth = summary["growth"]
    if growth:
        (DOCS / "performance-growth.svg").write_text(_picture(growth), encoding="utf-8")
    page = DOCS / "performance.md"
    page.write_text(render(summary), encoding="utf-8")
    return page


def render(summary: dict) -> str:
    machine = summary["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items() if version)
    lines = [
        "# Performance",
        "",
        "Written by `python benchmarks/summarise.py bench.json` from runs of",
        "`FASTREID_BENCH_FULL=1 pytest benchmarks --benchmark-only --benchmark-json=bench.json`. Every result was",
        "compared with the rival's before anything was timed; both were timed in turn in the same process, and a ratio",
        "is the median of the pairs: how many times longer the rival took. Below 1 the rival is faster.",
        "",
        f"* {machine['processor']}, {machine['cores']} cores, {machine['torch_threads']} threads,"
        f" instruction set {machine.get('isa')}" + (f", {machine['gpu']}" if machine["gpu"] else ", no GPU"),
        f"* {versions}; compiler {machine.get('compiler')}",
        f"* {summary['date'][:10]}, commit {summary['commit'][:10]}{_older(summary)}",
        "",
        "Features are synthetic: unit rows, about 20 images around a direction for each identity.",
        "Memory is the peak beyond the inputs, the result included, in GiB, in a process of its own.",
    ]
    groups: dict[str, list[dict]] = {}
    for claim in summary["claims"]:
        if "layer" not in claim and "network" not in claim:
            groups.setdefault(claim["group"], []).append(claim)
    for group, claims in groups.items():
        lines += ["", f"## {group[0].upper()}{group[1:]}", "", *_table(claims)]
    layers = [claim for claim in summary["claims"] if "layer" in claim]
    for device in dict.fromkeys(claim["device"] for claim in layers):
        own = [claim for claim in layers if claim["device"] == device]
        lines += ["", f"## Attention layers on {'a GPU' if device == 'cuda' else 'a CPU'}", "", *_layers(own)]
    networks = [claim for claim in summary["claims"] if "network" in claim]
    if networks:
        lines += ["", "## Networks", "", *_networks(networks)]
    if summary["growth"]:
        lines += ["", "## Growth", "", "![growth](performance-growth.svg)", "", *_growth(summary["growth"])]
    lines += ["", "## Targets not reached", "", *_missed(summary)]
    lines += ["", "Rows without a rival are in [the summary](../benchmarks/results)."]
    return "\n".join(lines) + "\n"


def _older(summary: dict) -> str:
    """Which sections were measured at an earlier commit."""
    older: dict[str, list[str]] = {}
    for row in [*summary["claims"], *summary["growth"]]:
        if "commit" in row:
            older.setdefault(row["commit"][:10], []).append(row["group"])
    parts = [f"{len(set(groups))} of the sections below at {commit}" for commit, groups in older.items()]
    return f" ({', '.join(parts)}: see the results file)" if parts else ""


def _table(claims: list[dict]) -> list[str]:
    rows = [
        "| rival | rival, s | ours, s | ratio | target | floor, s | ours / floor | peak, GiB |",
        "|---|" + "---:|" * 7,
    ]
    for claim in sorted(claims, key=lambda claim: claim["ratio"]):
        floor = claim.get("floor_seconds")
        rows.append(
            f"| {claim['rival']} | {_number(claim['rival_seconds'])} | {_number(claim['seconds'])} "
            f"| {_number(claim['ratio'])} | {_number(claim.get('target'))} | {_number(floor)} "
            f"| {_number(claim['seconds'] / floor if floor else None)} | {_number(claim.get('peak'))} |"
        )
    floors = sorted({claim["floor"] for claim in claims if claim.get("floor")})
    return rows + ([""] + [f"Floor: {floor}." for floor in floors] if floors else [])


def _layers(claims: list[dict]) -> list[str]:
    """Layer x shape x direction, the rivals side by side; then memory where it was measured."""
    cases: dict[tuple[str, str, str], dict[str, dict]] = {}
    for claim in claims:
        key = (claim["layer"], claim["shape"], claim["direction"])
        cases.setdefault(key, {})[claim["rival"]] = claim
    rows = [
        "| layer | map | pass | ours, s | eager, s | compile, s | floor, s | floor / ours | x eager | x compile |",
        "|---|---|---|" + "---:|" * 7,
    ]
    for key, rivals in cases.items():
        first, compiled = rivals["eager"], rivals.get("torch.compile", {})
        share = first["floor_seconds"] / first["seconds"]
        numbers = (
            first["seconds"], first["rival_seconds"], compiled.get("rival_seconds"), first["floor_seconds"], share,
            first["ratio"], compiled.get("ratio"),
        )  # fmt: skip
        rows.append(f"| {' | '.join((*key, *map(_number, numbers)))} |")
    bandwidth = max(claim["copy_bandwidth"] for claim in claims)
    rows += [
        "",
        f"Floor: {claims[0]['floor']}, {bandwidth / 1e9:.1f} GB/s in this run, bytes read and written both",
    ]
    rows += [
        "counted; below it only where the maps fit into a cache. Ratios are medians of pairs. Memory kept: the C",
        "library keeps what is freed (benchmarks/heap.py), for both sides, and the work alone is timed; otherwise",
        "every large result is fresh memory, handed out page by page while it is written. Ours asks for large",
        "pages, torch does not.",
    ]
    measured = [claim for claim in claims if "peak" in claim]
    if measured:
        rows += [
            "",
            "Peak memory of forward and backward beyond the inputs, GiB; least: the result and the gradients.",
            "",
        ]
        rows += ["| layer | map | ours | eager | least |", "|---|---|---:|---:|---:|"]
    for claim in measured:
        numbers = map(_number, (claim["peak"], claim["rival_peak"], claim["least_peak"]))
        rows.append(f"| {claim['layer']} | {claim['shape']} | {' | '.join(numbers)} |")
    return rows


def _networks(claims: list[dict]) -> list[str]:
    """Network x step; the rival in float32, then ours in each way that was measured and how many times faster."""
    ways = list(dict.fromkeys(claim["way"] for claim in claims))
    cases: dict[tuple[str, str], dict[str, dict]] = {}
    for claim in claims:
        cases.setdefault((claim["network"], claim["step"]), {})[claim["way"]] = claim
    rows = [
        "| network | step | rival | s | " + " | ".join(f"ours, {way}, s | ratio" for way in ways) + " |",
        "|---|---|---|---:|" + "---:|---:|" * len(ways),
    ]
    for (network, step), measured in cases.items():
        first = next(iter(measured.values()))
        cells = [f"`{network}`", step, first["rival"], _number(first["rival_seconds"])]
        for way in ways:
            claim = measured.get(way, {})
            cells += [_number(claim.get("seconds")), _number(claim.get("ratio"))]
        rows.append(f"| {' | '.join(cells)} |")
    return [
        *rows,
        "",
        "Same weights, images and loss (cross entropy); the rival as its own scripts run it on a CPU, in float32.",
        "fast-reid: its backbone under our pooling, neck and classifier. Training with its files is all that a step of",
        "a run does: files, augmentation, forward pass, cross entropy and batch-hard triplet, backward pass, Adam.",
        *_step_memory(claims),
    ]


def _step_memory(claims: list[dict]) -> list[str]:
    """Peaks of whole training steps, each in a process of its own, beyond the weights."""
    measured = [claim for claim in claims if "rival_peak" in claim]
    if not measured:
        return []
    rows = ["", "| network | step | way | rival | rival, GiB | ours, GiB |", "|---|---|---|---|---:|---:|"]
    for claim in measured:
        cells = [f"`{claim['network']}`", claim["step"], claim["way"], claim["rival"]]
        rows.append(f"| {' | '.join([*cells, _number(claim['rival_peak']), _number(claim['peak'])])} |")
    return rows


def _case(claim: dict) -> str:
    """What a claim is about: its group, and map, pass, device, network and way where it has them."""
    names = ("group", "shape", "direction", "device", "network", "way")
    parts = [claim.get(name) for name in names]
    return ", ".join(part for part in parts if part)


def _growth(growth: list[dict]) -> list[str]:
    rows = [
        "| work | images | s | target, s | floor, s | s / floor | peak, GiB | of which result |",
        "|---|" + "---:|" * 7,
    ]
    for row in growth:
        rows.append(
            f"| {row['group']} | {row['images']:,} | {_number(row['seconds'])} | {_number(row.get('target_seconds'))} "
            f"| {_number(row['floor_seconds'])} | {_number(row['seconds'] / row['floor_seconds'])} "
            f"| {_number(row.get('peak'))} | {_number(row['result'])} |"
        )
    return rows


def _missed(summary: dict) -> list[str]:
    missed = [
        f"* {_case(claim)}: {_number(claim['ratio'])} times {claim['rival']}, aimed at {_number(claim['target'])}."
        for claim in summary["claims"]
        if claim.get("target") and claim["ratio"] < claim["target"]
    ]
    missed += [
        f"* {_case(claim)}: {_number(claim['floor_seconds'] / claim['seconds'])} of the floor, aimed at"
        f" {_number(claim['floor_target'])}."
        for claim in summary["claims"]
        if claim.get("floor_target")
        and claim["rival"] == "eager"
        and claim["floor_seconds"] / claim["seconds"] < claim["floor_target"]
    ]
    missed += [
        f"* {row['group']}, {row['images']:,} images: {_number(row['seconds'])} s, aimed at"
        f" {_number(row['target_seconds'])}."
        for row in summary["growth"]
        if row.get("target_seconds") and row["seconds"] > row["target_seconds"]
    ]
    return missed or ["None of those measured here."]


def _number(value: float | None) -> str:
    """Three digits; a dash where nothing was measured."""
    if value is None:
        return "–"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _picture(growth: list[dict]) -> str:
    """Seconds over images on logarithmic axes, the floor of each line dashed."""
    width, height, left, bottom = 640, 400, 60, 40
    xs = [row["images"] for row in growth]
    ys = [value for row in growth for value in (row["seconds"], row["floor_seconds"])]

    def scale(value: float, low: float, high: float, start: float, end: float) -> float:
        span = math.log(high / low) or 1.0
        return start + (end - start) * math.log(value / low) / span

    def point(images: float, value: float) -> str:
        x = scale(images, min(xs), max(xs), left, width - 20)
        y = scale(value, min(ys), max(ys), height - bottom, 20)
        return f"{x:.1f},{y:.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif"'
        ' font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for value in (10.0**e for e in range(-4, 4)):
        if min(ys) <= value <= max(ys):
            y = scale(value, min(ys), max(ys), height - bottom, 20)
            parts.append(f'<line x1="{left}" x2="{width - 20}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
            parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g} s</text>')
    for images in sorted(set(xs)):
        x = scale(images, min(xs), max(xs), left, width - 20)
        parts.append(f'<text x="{x:.1f}" y="{height - bottom + 18}" text-anchor="middle">{images:,}</text>')
    colours = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
    for i, group in enumerate(dict.fromkeys(row["group"] for row in growth)):
        rows = sorted((row for row in growth if row["group"] == group), key=lambda row: row["images"])
        colour = colours[i % len(colours)]
        for key, dashes in (("seconds", ""), ("floor_seconds", ' stroke-dasharray="4 4"')):
            line = " ".join(point(row["images"], row[key]) for row in rows)
            parts.append(
                f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>'
            )
            parts += [
                f'<circle cx="{p.split(",")[0]}" cy="{p.split(",")[1]}" r="3" fill="{colour}"/>'
                for p in line.split()
            ]
        parts.append(
            f'<text x="{left + 10}" y="{36 + 16 * i}" fill="{colour}">{group} (dashed: its floor)</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"
