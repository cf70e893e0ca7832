# SPDX-License-Identifier: Apache-2.0
"""Charts as inline SVG: axes, grid, labels, a text alternative; colours and dashes come from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 400, 230
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 10, 40
MOST_POINTS = 240  # per line; more than the pixels between them are worth
STYLES = 6  # line styles .s0 .. .s5 of the style sheet


@dataclass(frozen=True)
class Series:
    """A line. ``ys`` may hold None: the line is interrupted there. ``marks`` draws the points as well."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float | None]
    marks: bool = False


@dataclass(frozen=True)
class Chart:
    """What the page puts into a figure: title, SVG text, legend entries (style class, name, last value)."""

    title: str
    svg: Markup
    legend: list[tuple[str, str, str]]
    note: str = ""


def plain(value: float) -> str:
    """A short decimal."""
    if value == 0:
        return "0"
    if abs(value) < 1e-3 or abs(value) >= 1e5:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.4g}"


def percent(value: float) -> str:
    """A fraction in percent."""
    return f"{100 * value:.1f}".removesuffix(".0") + " %"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round values (1, 2 or 5 times a power of ten apart) that enclose [low, high]."""
    if not high > low:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def thin(xs: Sequence[float], ys: Sequence[float | None], most: int = MOST_POINTS) -> tuple[list, list]:
    """At most ``most`` points: means of neighbours."""
    if len(xs) <= most:
        return list(xs), list(ys)
    out_x, out_y = [], []
    for part in range(most):
        start, stop = part * len(xs) // most, (part + 1) * len(xs) // most
        known = [y for y in ys[start:stop] if y is not None]
        out_x.append(math.fsum(xs[start:stop]) / (stop - start))
        out_y.append(math.fsum(known) / len(known) if known else None)
    return out_x, out_y


def _pieces(xs: Sequence[float], ys: Sequence[float | None]) -> Iterator[list[tuple[float, float]]]:
    piece: list[tuple[float, float]] = []
    for x, y in zip(xs, ys, strict=True):
        if y is None:
            if piece:
                yield piece
            piece = []
        else:
            piece.append((x, y))
    if piece:
        yield piece


def _frame(
    x_ticks: Sequence[tuple[float, str]], y_ticks: Sequence[tuple[float, str]], x_label: str, y_label: str
) -> list[str]:
    """Grid, tick labels and axis titles; positions are pixels."""
    parts = []
    for y, text in y_ticks:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{escape(text)}</text>'
        )
    bottom = HEIGHT - BOTTOM
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>')
    for x, text in x_ticks:
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{escape(text)}</text>'
        )
    middle_x, middle_y = (LEFT + WIDTH - RIGHT) / 2, (TOP + bottom) / 2
    parts.append(
        f'<text class="label" x="{middle_x:.1f}" y="{HEIGHT - 5}" text-anchor="middle">{escape(x_label)}</text>'
    )
    parts.append(
        f'<text class="label" transform="translate(11 {middle_y:.1f}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_label)}</text>"
    )
    return parts


def _svg(title: str, description: str, parts: Sequence[str]) -> Markup:
    return Markup(
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}: {escape(description)}">'
        f"<title>{escape(title)}</title><desc>{escape(description)}</desc>{''.join(parts)}</svg>"
    )


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    form: Callable[[float], str] = plain,
    y_range: tuple[float, float] | None = None,
    note: str = "",
) -> Chart | None:
    """Lines over a common pair of axes; None if there is no value at all.

    Args:
        form: a value as text, for the y axis and the legend.
        y_range: range the y axis covers at least; by default that of the values.
    """
    lines = []
    for line in series:
        xs, ys = thin(line.xs, line.ys)
        if any(y is not None for y in ys):
            lines.append(Series(line.name, xs, ys, line.marks))
    if not lines:
        return None
    all_x = [x for line in lines for x, y in zip(line.xs, line.ys, strict=True) if y is not None]
    all_y = [y for line in lines for y in line.ys if y is not None]
    low, high = min(all_y), max(all_y)
    if y_range is not None:
        low, high = min(low, y_range[0]), max(high, y_range[1])
    y_marks = ticks(low, high)
    x_low, x_high = min(all_x), max(all_x)
    x_marks = [t for t in ticks(x_low, x_high, 6) if x_low <= t <= x_high and t == round(t)] or [x_low]
    if x_low == x_high:
        x_low, x_high = x_low - 1, x_high + 1

    def px(x: float) -> float:
        return LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def py(y: float) -> float:
        return HEIGHT - BOTTOM - (y - y_marks[0]) / (y_marks[-1] - y_marks[0]) * (HEIGHT - TOP - BOTTOM)

    parts = _frame(
        [(px(x), f"{x:g}") for x in x_marks], [(py(y), form(y)) for y in y_marks], x_label, y_label
    )
    legend, words = [], []
    for index, line in enumerate(lines):
        style = f"s{index % STYLES}"
        for piece in _pieces(line.xs, line.ys):
            points = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in piece)
            parts.append(f'<polyline class="line {style}" points="{points}"/>')
            shown = piece if line.marks else piece[:1] if len(piece) == 1 else []
            parts.extend(
                f'<circle class="mark {style}" cx="{px(x):.1f}" cy="{py(y):.1f}" r="3"/>' for x, y in shown
            )
        last = form(next(y for y in reversed(line.ys) if y is not None))
        legend.append((style, line.name, last))
        words.append(f"{line.name} ends at {last}")
    return Chart(title, _svg(title, f"{y_label} over {x_label}; {', '.join(words)}", parts), legend, note)


def histogram(
    title: str, values: Sequence[float], *, bins: int = 10, x_label: str, y_label: str
) -> Chart | None:
    """Counts of fractions 0..1 in ``bins`` equal bins, the last one closed; None without values."""
    if not values:
        return None
    counts = [0] * bins
    for value in values:
        counts[min(int(value * bins + 1e-9), bins - 1)] += 1
    y_marks = [t for t in ticks(0, max(counts), 4) if t == round(t)]
    top = y_marks[-1] if y_marks[-1] >= max(counts) else max(counts)
    plot_w, plot_h = (
        WIDTH - LEFT - RIGHT,
        HEIGHT - TOP - BOTTOM - 12,
    )  # 12: room for the counts above the bars
    bottom = HEIGHT - BOTTOM
    parts = _frame(
        [(LEFT + plot_w * i / bins, f"{100 * i / bins:g}") for i in range(0, bins + 1, 2)],
        [(bottom - t / top * plot_h, f"{t:g}") for t in y_marks],
        x_label,
        y_label,
    )
    for i, count in enumerate(counts):
        x, height = LEFT + plot_w * i / bins, count / top * plot_h
        if count:
            parts.append(
                f'<rect class="bar" x="{x + 1:.1f}" y="{bottom - height:.1f}" '
                f'width="{plot_w / bins - 2:.1f}" height="{height:.1f}"/>'
            )
            parts.append(
                f'<text class="count" x="{x + plot_w / bins / 2:.1f}" y="{bottom - height - 3:.1f}" '
                f'text-anchor="middle">{count}</text>'
            )
    words = ", ".join(
        f"{100 * i // bins} to {100 * (i + 1) // bins} %: {count}" for i, count in enumerate(counts) if count
    )
    return Chart(title, _svg(title, words, parts), [])
