# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re

import pytest

from fastreid_ops.report.charts import Series, histogram, line_chart, percent, plain, thin, ticks


@pytest.mark.parametrize(
    ("low", "high", "want"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.3, 4.7, [0, 1, 2, 3, 4, 5]),
        (-3, 12, [-5, 0, 5, 10, 15]),
        (0, 3.5e-4, [0, 1e-4, 2e-4, 3e-4, 4e-4]),
        (1, 1, [0.9, 0.95, 1, 1.05, 1.1]),
    ],
)
def test_ticks_are_round_and_enclose(low, high, want):
    assert ticks(low, high) == pytest.approx(want, abs=1e-12)


def test_ticks_of_zero():
    marks = ticks(0, 0)
    assert marks[0] < 0 < marks[-1]


def test_thinning_keeps_the_mean():
    ys = [float((7 * i) % 100) for i in range(1200)]
    xs, means = thin(list(range(1200)), ys, 100)
    assert len(xs) == len(means) == 100
    assert sum(means) / 100 == pytest.approx(sum(ys) / 1200)
    assert xs[0] == pytest.approx(5.5)


@pytest.mark.parametrize(
    ("value", "want"), [(0, "0"), (0.00035, "3.5e-4"), (1.23456, "1.235"), (123456, "1.23e5")]
)
def test_plain(value, want):
    assert plain(value) == want


@pytest.mark.parametrize(
    ("value", "want"), [(0, "0 %"), (0.2, "20 %"), (0.7395, "74 %"), (0.7351, "73.5 %"), (1, "100 %")]
)
def test_percent(value, want):
    assert percent(value) == want


def test_line_goes_where_the_values_say():
    chart = line_chart("t", [Series("a", [0, 5, 10], [0.0, 0.5, 1.0])], x_label="x", y_label="y")
    points = re.search(r'points="([^"]+)"', chart.svg).group(1).split()
    (x0, y0), (x1, y1), (x2, y2) = (tuple(map(float, p.split(","))) for p in points)
    assert x0 < x1 < x2
    assert y0 > y1 > y2, "up is less"
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y1 - y0 == pytest.approx(y2 - y1, abs=0.2)
    assert chart.legend == [("s0", "a", "1")]


def test_a_gap_interrupts_the_line():
    chart = line_chart(
        "t", [Series("a", [1, 2, 3, 4, 5], [1.0, 2.0, None, 4.0, 5.0])], x_label="x", y_label="y"
    )
    assert chart.svg.count("<polyline") == 2


def test_nothing_to_draw():
    assert line_chart("t", [Series("a", [1, 2], [None, None])], x_label="x", y_label="y") is None
    assert line_chart("t", [], x_label="x", y_label="y") is None
    assert histogram("t", [], x_label="x", y_label="y") is None


def test_histogram_counts_every_value_once():
    values = [0.0, 0.05, 0.1, 0.3, 0.3, 0.999, 1.0]
    chart = histogram("t", values, x_label="x", y_label="y")
    assert re.findall(r'class="count"[^>]*>(\d+)<', chart.svg) == ["2", "1", "2", "2"]
    assert "0 to 10 %: 2, 10 to 20 %: 1, 30 to 40 %: 2, 90 to 100 %: 2" in chart.svg
    heights = [float(h) for h in re.findall(r'class="bar"[^>]*height="([\d.]+)"', chart.svg)]
    assert heights[0] == pytest.approx(2 * heights[1], rel=0.01)


def test_texts_are_escaped():
    chart = line_chart("<b>", [Series("<i>", [1], [1.0])], x_label="<x>", y_label="&")
    assert "<b>" not in chart.svg
    assert "<i>" not in chart.svg
    assert "&lt;x&gt;" in chart.svg
