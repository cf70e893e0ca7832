# SPDX-License-Identifier: Apache-2.0
"""The page of a run: read back with an HTML parser that knows nothing of the template."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from PIL import Image

from fastreid_ops.report import write_report

VOID = {"meta", "link", "img", "br", "hr", "input"}
SELF_CLOSED = {"line", "circle", "rect", "polyline", "path"}


class Page(HTMLParser):
    """Tags, attributes and text of a page; fails on tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.ids: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for key, value in attrs if key == "id"]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in SELF_CLOSED
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open[-1:] == [tag], f"</{tag}> closes {self._open[-3:]}"
        self._open.pop()

    def handle_data(self, data):
        if "style" not in self._open:
            self.text.append(data)

    def of(self, tag: str, **attributes: str) -> list[dict[str, str]]:
        return [
            a
            for t, a in self.tags
            if t == tag and all(a.get(k.rstrip("_")) == v for k, v in attributes.items())
        ]

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.text))


def report(folder) -> Page:
    path = write_report(folder)
    assert path == folder / "report.html"
    return Page(path.read_text(encoding="utf-8"))


def test_headline_table(run_folder):
    page = report(run_folder)
    rows = json.loads((run_folder / "results" / "table.json").read_text())["rows"]
    assert len(page.of("table", class_="headline")) == 2
    for row in rows:
        figures = " ".join(f"{100 * row[key]:.1f}" for key in ("mAP", "mINP", "rank1", "rank5", "rank10"))
        assert f"{row['system']} {figures}" in page.words
    assert "one camera, divided into two pseudo-cameras, and show eleven people" in page.words


def test_sections_and_links_agree(run_folder):
    page = report(run_folder)
    assert len(page.ids) == len(set(page.ids))
    targets = [a["href"][1:] for a in page.of("a")]
    assert set(targets) <= set(page.ids)
    assert {"results", "training", "set-1", "set-2", "configuration", "machine"} <= set(targets)
    for text in (
        "people_osnet_x0_25",
        "optim.lr 0.001 0.00035",
        "data.root none somewhere",
        "weight_decay: 0.0005",
        "2.13.0+cpu",
    ):
        assert text in page.words


def test_nothing_is_fetched(run_folder):
    page = report(run_folder)
    assert not page.of("script")
    for _tag, attributes in page.tags:
        for key, value in attributes.items():
            assert not key.startswith("on"), "no inline handlers"
            if key in ("src", "href", "srcset", "data", "action", "poster", "xlink:href"):
                assert value.startswith(("data:", "#")), value
    text = (run_folder / "report.html").read_text()
    assert "http://" not in text
    assert "https://" not in text
    assert "url(" not in text
    assert "@import" not in text
    policy = page.of("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
    assert policy.startswith("default-src 'none'")


def test_ranked_lists(run_folder):
    page = report(run_folder)
    # 13 and 6 valid queries: five best and five worst, three best and three worst.
    lists = len(page.of("ol", class_="row"))
    assert lists == 10 + 6
    assert len(page.of("li", class_="query")) == lists
    right, wrong = page.of("li", class_="right"), page.of("li", class_="wrong")
    assert len(right) + len(wrong) == 10 * lists
    assert len(right) == lists
    assert "".join(page.text).count("✓") == len(right) + 2, "one each, and the explanation of each set"
    pictures = page.of("img")
    assert len(pictures) == 11 * lists
    for picture in pictures:
        assert re.fullmatch(r"(query|rank \d+, (right|wrong)): id \d+, camera \d", picture["alt"])
        image = Image.open(
            io.BytesIO(base64.b64decode(picture["src"].removeprefix("data:image/jpeg;base64,")))
        )
        image.load()
        assert image.format == "JPEG"
        assert image.width <= 80
        assert image.height <= 160


def test_lists_are_the_best_and_the_worst(run_folder):
    from fastreid_ops.report.page import pick_lists
    from fastreid_ops.report.read import read_run

    people = next(r for r in read_run(run_folder).results if r.name == "people")
    best, worst = pick_lists(people)
    aps = sorted(q.ap for q in people.queries if q.status == 0)
    assert [item.query.ap for item in worst] == aps[:5]
    assert [item.query.ap for item in best] == aps[::-1][:5]
    assert not {item.query.path for item in best} & {item.query.path for item in worst}


def test_every_query_is_listed_hardest_first(run_folder):
    write_report(run_folder)
    text = (run_folder / "report.html").read_text()
    tables = re.findall(r'<table class="queries">.*?<tbody>(.*?)</tbody>', text, re.S)
    assert [table.count("<tr>") for table in tables] == [14, 6]
    aps = [
        float(x)
        for x in re.findall(
            r'<td class="n">([\d.]+)</td><td class="n">[\d.]+</td><td class="n">\d+</td>', tables[0]
        )
    ]
    assert len(aps) == 13
    assert aps == sorted(aps)
    assert "not counted: id only under the query&#39;s own camera" in tables[0]


def test_charts(run_folder):
    page = report(run_folder)
    titles = " ".join(page.text)
    for title in (
        "Loss",
        "mAP while training",
        "Rank-1 while training",
        "Learning rate",
        "Cumulative match",
        "Average precision of",
    ):
        assert title in titles
    charts = page.of("svg", role="img")
    assert len(charts) == 6 + 2 * 2
    assert all(len(chart["aria-label"]) > 20 for chart in charts)
    lines = page.of("polyline")
    assert len(lines) == 3 + 2 + 2 + 1 + 1 + 1 + 2 * 3
    for line in lines:
        for point in line["points"].split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= 400
            assert 0 <= y <= 230


HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>&amp;{{ 7 * 7 }}'


def test_hostile_names_are_text(run_folder):
    path = run_folder / "results" / "people.json"
    content = json.loads(path.read_text())
    content["label"] = content["note"] = content["protocol"]["name"] = HOSTILE
    for query in content["queries"]:
        query["pid"] = query["camid"] = HOSTILE
        query["path"] += HOSTILE
    for item in content["ranked"]:
        for entry in item["gallery"]:
            entry["pid"] = HOSTILE
            entry["path"] += HOSTILE
    path.write_text(json.dumps(content))
    table = json.loads((run_folder / "results" / "table.json").read_text())
    for row in table["rows"]:
        row["system"] += HOSTILE
        row["label"] = HOSTILE
    (run_folder / "results" / "table.json").write_text(json.dumps(table))
    (run_folder / "recipe.txt").write_text(HOSTILE)
    (run_folder / "config.yaml").write_text(HOSTILE)
    (run_folder / "config_diff.json").write_text(json.dumps({HOSTILE: [HOSTILE, HOSTILE]}))
    (run_folder / "environment.json").write_text(json.dumps({HOSTILE: HOSTILE}))
    (run_folder / "bad_files.csv").write_text(f"path,reason\n{HOSTILE},{HOSTILE}\n")
    records = [
        {"kind": "train", "epoch": 0, "step": s, "loss": 1, "losses": {HOSTILE: 1}, "lr": 1} for s in (1, 2)
    ]
    (run_folder / "metrics.jsonl").write_text("\n".join(json.dumps(r) for r in records))
    page = report(run_folder)
    assert not page.of("script")
    assert all(not key.startswith("on") for _, attributes in page.tags for key in attributes)
    assert "alert(1)" in page.words, "shown, as text"
    assert "{{ 7 * 7 }}" in page.words


def test_pictures_that_are_gone_get_a_placeholder(run_folder):
    people = json.loads((run_folder / "results" / "people.json").read_text())
    images = sorted((run_folder / "images").glob("people_*"))
    for image in images:
        image.unlink()
    images[0].write_bytes(b"not an image")
    page = report(run_folder)
    assert len(page.of("span", class_="gone")) == 11 * 10
    assert len(page.of("img")) == 11 * 6
    assert "Pictures that could not be shown" in page.words
    assert all("picture not readable" in a["aria-label"] for a in page.of("span", class_="gone"))
    assert people["queries"][0]["path"] in page.words


def test_empty_run_folder(tmp_path):
    page = report(tmp_path)
    for text in ("No results yet", "No training records yet", "No configuration", "No environment"):
        assert text in page.words


def test_run_that_is_still_training(run_folder):
    for path in (run_folder / "results").iterdir():
        path.unlink()
    page = report(run_folder)
    assert "No results yet" in page.words
    assert "mAP while training" in page.words


def test_damaged_files_are_said_not_fatal(run_folder):
    with open(run_folder / "metrics.jsonl", "a") as file:
        file.write('{"kind": "train", "ep')
    (run_folder / "environment.json").write_text("[1, 2")
    sample = json.loads((run_folder / "results" / "sample.json").read_text())
    del sample["queries"][2]["ap"]
    (run_folder / "results" / "sample.json").write_text(json.dumps(sample))
    page = report(run_folder)
    assert "metrics.jsonl: 1 lines cannot be read" in page.words
    assert "environment.json: not as expected" in page.words
    assert "results/sample.json: not as expected (KeyError: 'ap')" in page.words
    assert "Cumulative match characteristic" in page.words, "the other set is still there"


@pytest.mark.parametrize("loss", [None, 3.0])
def test_values_that_are_not_there(tmp_path, loss):
    """Null losses (NaN is stored as null), a single record, a single query, no gradient norm."""
    record = {"kind": "train", "epoch": 0, "step": 1, "loss": loss, "losses": {"id": loss}, "lr": 0.0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    (tmp_path / "results").mkdir()
    query = {
        "path": "/nowhere/1.jpg",
        "pid": 1,
        "camid": 1,
        "ap": 1.0,
        "inp": 1.0,
        "first_rank": 1,
        "status": 0,
    }
    entry = {"path": "/nowhere/2.jpg", "pid": 1, "camid": 2, "distance": 0.0, "match": True}
    content = {
        "set": "people", "label": "", "note": None, "protocol": {}, "mAP": 1.0, "mINP": 1.0, "cmc": [1.0], "counts": {},
        "queries": [query], "ranked": [{"query": 0, "gallery": [entry]}],
    }  # fmt: skip
    (tmp_path / "results" / "people.json").write_text(json.dumps(content))
    page = report(tmp_path)
    assert len(page.of("ol", class_="row")) == 1
    assert "trained 100.0 100.0 100.0 – –" in page.words


def test_an_earlier_report_is_replaced_as_a_whole(run_folder, monkeypatch):
    first = write_report(run_folder).read_bytes()
    assert write_report(run_folder).read_bytes() == first

    def fail(*_):
        raise OSError("disk full")

    (run_folder / "recipe.txt").write_text("other")
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(run_folder)
    assert (run_folder / "report.html").read_bytes() == first
    assert not list(run_folder.glob("*.tmp"))
    assert not list(run_folder.glob(".*.tmp"))


def test_no_such_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="write_report: run_folder: got"):
        write_report(tmp_path / "gone")


def test_makes_a_page_without_torch(run_folder):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from fastreid_ops.report import write_report\n"
        f"print(write_report({str(run_folder)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
