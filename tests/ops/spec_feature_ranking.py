# SPDX-License-Identifier: Apache-2.0
"""rank_features under contract: what rank_metrics is by definition, on distances in 80-bit floats."""

from __future__ import annotations

import numpy as np
import torch
from opspec import LAYOUTS, ErrorSample, OpSpec, Outputs, Sample
from ranking_by_definition import by_definition
from spec_nearest import features, squared
from spec_ranking import clothes, outputs

from fastreid_ops import rank_features
from fastreid_ops.ops import _relevance

FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def problem(queries, gallery, pids, cameras, *, depth=24, seed=0, dtype=torch.float32, kind="plain"):
    """Features and labels. ``kind``: "plain", rows of a person around a direction of their own; "alike", all within
    the bound of a rounded product; "levels", few distinct values and so many ties; "zeros", some rows of zeros."""
    generator = torch.Generator().manual_seed(seed)

    def labels(count, kinds):
        return torch.randint(kinds, (count,), generator=generator)

    who = labels(queries, pids), labels(gallery, pids)
    cameras = labels(queries, cameras), labels(gallery, cameras)
    people = features(pids, depth, seed + 1)
    rows = [people[w] + 0.7 * features(len(w), depth, seed + 2 + i) for i, w in enumerate(who)]
    if kind == "alike":
        rows = [1 + 1e-3 * r for r in rows]
    elif kind == "levels":
        rows = [r.sign() for r in (rows[0][:, :3], rows[1][:, :3])]
    elif kind == "zeros":
        rows[0][: queries // 3] = 0
        rows[1][: gallery // 3] = 0
    return (*(r.to(dtype) for r in rows), *who, *cameras)


def sample_inputs(dtype: torch.dtype, device: str, seed: int) -> list[Sample]:
    def case(name, shape, *, kind="plain", depth=24, dressed=False, **kwargs):
        tensors = problem(*shape, seed=seed, dtype=dtype, kind=kind, depth=depth)
        if dressed:
            kwargs |= {k: v.to(device) for k, v in clothes(*shape[:2], seed=seed).items()}
        return Sample(name, tuple(t.to(device) for t in tensors), kwargs)

    return [
        case("few", (5, 23, 3, 2), max_rank=10),
        case("panels", (100, 150, 9, 3), ap="trapezoid"),
        case("alike", (7, 110, 5, 3), kind="alike"),
        case("levels", (9, 64, 4, 3), kind="levels", cmc="unique_pid"),
        case("zeros", (9, 64, 4, 3), kind="zeros", metric="cosine", camera_rule="none"),
        case("angles", (9, 64, 4, 3), metric="arccos", cmc="all_hits", max_rank=9),
        case("deep", (3, 60, 3, 2), depth=700),
        case("one of everything", (1, 1, 1, 1), depth=1, camera_rule="none"),
        case("max_rank beyond the gallery", (7, 5, 2, 2), max_rank=11),
        case("clothes changed", (8, 70, 4, 3), dressed=True, clothes_rule="cross", cmc="unique_pid"),
        case("clothes kept", (8, 70, 4, 3), dressed=True, clothes_rule="same", invalid="zero"),
        case("other cameras", (9, 200, 6, 3), camera_rule="same_camera", cmc="unique_pid", max_rank=6),
        case("junk", (9, 70, 6, 3), kind="levels", junk_pids=(3, -1), ap="trapezoid", invalid="zero"),
        case("all hits", (6, 90, 4, 3), kind="levels", cmc="all_hits", camera_rule="same_camera"),
        case("one of each", (6, 60, 9, 3), cmc="single_gallery_shot", max_rank=8),
        case("one person", (3, 300, 1, 50), kind="levels"),
    ]


def oracle(query, gallery, *labels, metric="euclidean", **kwargs) -> Outputs:
    d2 = squared(query, gallery, metric in ("cosine", "arccos")).astype(np.float64)
    return by_definition(torch.from_numpy(d2), *labels, **kwargs)


def error_samples() -> list[ErrorSample]:
    names = ("query", "gallery", "query_pids", "gallery_pids", "query_camids", "gallery_camids")
    good = dict(zip(names, problem(4, 6, 2, 2, seed=3), strict=True))
    x, y = good["query"], good["gallery"]
    samples: list[ErrorSample] = []

    def add(name, error, argument, pattern, **changes):
        def call():
            return rank_features(**{**good, **changes})

        samples.append(ErrorSample(name, call, error, argument, pattern))

    add("query list", TypeError, "query", "list", query=[[1.0]])
    add("query int", TypeError, "query", "int64", query=x.long())
    add("gallery dtype", TypeError, "gallery", "float64", gallery=y.double())
    add("gallery sparse", TypeError, "gallery", "sparse", gallery=y.to_sparse())
    add("gallery device", ValueError, "gallery", "meta", gallery=y.to("meta"))
    add("query vector", ValueError, "query", r"shape \(24\)", query=x[0])
    add("gallery depth", ValueError, "gallery", "size 24", gallery=y[:, 1:])
    add("no depth", ValueError, "query", "length of the rows", query=x[:, :0], gallery=y[:, :0])
    add("gallery empty", ValueError, "gallery", "ranks nothing", gallery=y[:0])
    for name, size in (("query_pids", 4), ("gallery_pids", 6), ("query_camids", 4), ("gallery_camids", 6)):
        add(f"{name} float", TypeError, name, "float32", **{name: good[name].float()})
        add(f"{name} short", ValueError, name, f"size {size}", **{name: good[name][1:]})
        add(f"{name} none", TypeError, name, "None", **{name: None})
    add("clothes", TypeError, "query_clothes", "None", clothes_rule="cross")
    add("metric", ValueError, "metric", "did you mean 'cosine'", metric="cosin")
    add("camera_rule", ValueError, "camera_rule", "same_camera", camera_rule="all")
    add("cmc", ValueError, "cmc", "first_hit", cmc="first")
    add("max_rank", ValueError, "max_rank", "at least 1", max_rank=0)
    add("repeats", ValueError, "repeats", "draws nothing", repeats=3)
    add("progress", TypeError, "progress", "int", progress=1)
    add("group", TypeError, "group", "ProcessGroup", group=0)
    add("check_finite", TypeError, "check_finite", "str", check_finite="no")
    for name, value in (("nan", float("nan")), ("inf", float("inf"))):
        bad_x, bad_y = x.clone(), y.clone()
        bad_x[2, 1] = bad_y[5, 0] = value
        add(f"query {name}", ValueError, "query", "first in row 2", query=bad_x)
        add(f"gallery {name}", ValueError, "gallery", "first in row 5", gallery=bad_y)
    add("too long", ValueError, "gallery", "1e153", query=x.double(), gallery=y.double() * 1e160)
    strangers = torch.tensor([7, 8, 9, 7])
    add("strangers", ValueError, "query_pids", "4 have a pid that is not", query_pids=strangers)
    return samples


def _opcheck_calls():
    op, summary = torch.ops.fastreid.rank_features.default, torch.ops.fastreid.ranking_summary.default
    calls = []
    for kwargs in ({}, {"camera_rule": "same_camera", "cmc": "unique_pid"}, {"cmc": "all_hits"}):
        query, gallery, *labels = problem(5, 23, 3, 2, seed=1)
        rules = _relevance.Rules(**kwargs)
        sides = _relevance.as_int64("rank_features", rules, _relevance.Sides(*labels))
        call = (query, gallery, False, *_relevance.native(rules, sides), *rules.codes())
        calls.append((op, call))
        calls.append((summary, (*op(*call), 0, 50)))
    return calls


SPEC = OpSpec(
    name="rank_features",
    fn=rank_features,
    dtypes=FLOATING,
    sample_inputs=sample_inputs,
    error_samples=error_samples,
    reference64=oracle,
    outputs=outputs,
    # Nothing has four dimensions. "expanded" would make all features alike: every rank is then by index.
    layouts=tuple(layout for layout in LAYOUTS if layout != "channels_last"),
    ulps=32,
    opcheck_calls=_opcheck_calls,
)
