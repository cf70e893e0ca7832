# SPDX-License-Identifier: Apache-2.0
"""rank_metrics for the contract tests: samples, malformed calls, and an oracle written from the
definition."""

from __future__ import annotations

import math
import warnings
from fractions import Fraction

import numpy as np
import torch
from opspec import ISAS, LAYOUTS, ErrorSample, OpSpec, Outputs, Sample

from fastreid_ops import _C
from fastreid_ops.ops.ranking import RankMetrics, rank_metrics

FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
ISAS_HERE = [name for name in ISAS if int(getattr(_C.Isa, name)) <= int(_C.best_isa())]


def problem(queries, gallery, pids, cameras, *, seed=0, dtype=torch.float32, ties=False):
    """Random distances and labels; ``ties`` leaves few distinct distances, among them 0.0 and -0.0."""
    generator = torch.Generator().manual_seed(seed)
    distance = torch.rand(queries, gallery, generator=generator, dtype=torch.float64)
    if ties:
        distance = (distance * 8 - 4).round() / 4

    def labels(count, kinds):
        return torch.randint(kinds, (count,), generator=generator)

    return (
        distance.to(dtype),
        labels(queries, pids),
        labels(gallery, pids),
        labels(queries, cameras),
        labels(gallery, cameras),
    )


def by_definition(
    distance,
    query_pids,
    gallery_pids,
    query_camids=None,
    gallery_camids=None,
    *,
    camera_rule="same_pid",
    ap="step",
    max_rank=50,
    check_finite=True,
) -> Outputs:
    """One query at a time in plain Python, fractions instead of floats."""
    rows = distance.to(torch.float64).tolist()
    q_pids, g_pids = query_pids.tolist(), gallery_pids.tolist()
    q_cams = query_camids.tolist() if query_camids is not None else [0] * len(q_pids)
    g_cams = gallery_camids.tolist() if gallery_camids is not None else [0] * len(g_pids)
    hits_at = [0] * max_rank
    aps, inps, firsts, numbers, statuses = [], [], [], [], []
    for q, row in enumerate(rows):
        order = sorted(
            range(len(row)), key=lambda g: (math.isnan(row[g]), 0.0 if math.isnan(row[g]) else row[g], g)
        )
        if camera_rule == "same_pid":
            kept = [g for g in order if g_pids[g] != q_pids[q] or g_cams[g] != q_cams[q]]
        else:
            kept = order
        ranks = [rank for rank, g in enumerate(kept, start=1) if g_pids[g] == q_pids[q]]
        numbers.append(len(ranks))
        if not ranks:
            aps.append(Fraction(0))
            inps.append(Fraction(0))
            firsts.append(0)
            statuses.append(2 if q_pids[q] in g_pids else 1)
            continue
        total = Fraction(0)
        for n, rank in enumerate(ranks, start=1):
            if ap == "step":
                total += Fraction(n, rank)
            else:
                before = Fraction(n - 1, rank - 1) if rank > 1 else Fraction(1)
                total += (before + Fraction(n, rank)) / 2
        aps.append(total / len(ranks))
        inps.append(Fraction(len(ranks), ranks[-1]))
        firsts.append(ranks[0])
        statuses.append(0)
        for k in range(ranks[0] - 1, max_rank):
            hits_at[k] += 1
    valid = max(statuses.count(0), 1)

    def real(values):
        return torch.tensor([float(value) for value in values], dtype=torch.float64)

    return {
        "cmc": real(Fraction(hits, valid) for hits in hits_at),
        "mAP": real([sum(aps, Fraction(0)) / valid])[0],
        "mINP": real([sum(inps, Fraction(0)) / valid])[0],
        "ap": real(aps),
        "inp": real(inps),
        "first_rank": torch.tensor(firsts, dtype=torch.int64),
        "num_relevant": torch.tensor(numbers, dtype=torch.int64),
        "status": torch.tensor(statuses, dtype=torch.int64),
    }


def outputs(result: RankMetrics) -> Outputs:
    return result._asdict()


def equal(got: RankMetrics, want: RankMetrics) -> bool:
    """The same bits everywhere."""
    return all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(got, want, strict=True))


def sample_inputs(dtype: torch.dtype, device: str, seed: int) -> list[Sample]:
    def case(name, shape, *, ties=False, **kwargs):
        tensors = problem(*shape, seed=seed, dtype=dtype, ties=ties)
        return Sample(name, tuple(t.to(device) for t in tensors), kwargs)

    large = problem(3, 2051, 2, 1000, seed=seed, dtype=dtype, ties=True)
    return [
        case("few", (5, 23, 3, 2), max_rank=10),
        case("ties", (9, 64, 4, 3), ties=True),
        case("trapezoid", (6, 40, 3, 2), ties=True, ap="trapezoid", max_rank=7),
        case("no cameras", (6, 40, 3, 1), ties=True, camera_rule="none", max_rank=1),
        case("one of everything", (1, 1, 1, 1), camera_rule="none"),
        case("max_rank beyond the gallery", (7, 5, 2, 2), max_rank=11),
        Sample("an identity of a thousand images", tuple(t.to(device) for t in large), {"ap": "trapezoid"}),
    ]


def _opcheck_calls():
    distance, query_pids, gallery_pids, query_camids, gallery_camids = problem(5, 23, 3, 2, seed=1, ties=True)
    values, members = torch.sort(gallery_pids, stable=True)
    begin, end = (torch.searchsorted(values, query_pids, right=right) for right in (False, True))
    op = torch.ops.fastreid.rank_metrics.default
    calls = [
        (op, (view, members, begin, end, query_camids, gallery_camids, 0, 0, 10))
        for view in (distance, distance.double(), distance.mT.contiguous().mT, distance[:1].expand(5, 23))
    ]
    calls.append((op, (distance.bfloat16(), members, begin, end, None, None, 1, 1, 3)))
    calls.append(
        (op, (distance[:0].half(), members, begin[:0], end[:0], query_camids[:0], gallery_camids, 0, 0, 1))
    )
    return calls


class _Malformed:
    """A valid call with one thing changed."""

    def __init__(self) -> None:
        names = ("distance", "query_pids", "gallery_pids", "query_camids", "gallery_camids")
        self.good = dict(zip(names, problem(4, 6, 2, 2, seed=3), strict=True))
        self.samples: list[ErrorSample] = []

    def add(self, name, error, argument, pattern, *, reported=None, **changes):
        def call():
            return rank_metrics(**{**self.good, **changes})

        self.samples.append(ErrorSample(name, call, error, reported or argument, pattern))


def _float_errors(bad: _Malformed) -> None:
    d = bad.good["distance"]
    for dtype in (torch.int64, torch.int32, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn):
        bad.add(f"distance {dtype}", TypeError, "distance", "float32, float64", distance=d.to(dtype))
    for name, value in (
        ("list", d.tolist()),
        ("array", d.numpy()),
        ("None", None),
        ("float", 0.5),
        ("string", "distance"),
    ):
        bad.add(f"distance {name}", TypeError, "distance", "torch.Tensor", distance=value)
    with warnings.catch_warnings():  # that these kinds are in beta, or on their way out
        warnings.simplefilter("ignore")
        bad.add("distance sparse", TypeError, "distance", "layout sparse_coo", distance=d.to_sparse())
        bad.add("distance csr", TypeError, "distance", "layout sparse_csr", distance=d.to_sparse_csr())
        quantised = torch.quantize_per_tensor(d, 0.1, 0, torch.qint8)
        bad.add("distance quantised", TypeError, "distance", "qint8", distance=quantised)
        nested = torch.nested.nested_tensor([d[0], d[1]])
        bad.add("distance nested", TypeError, "distance", "nested", distance=nested)
    bad.add("distance scalar", ValueError, "distance", r"shape \(\)", distance=d[0, 0])
    bad.add("distance 1-D", ValueError, "distance", r"shape \(6\)", distance=d[0])
    bad.add("distance 3-D", ValueError, "distance", r"shape \(1, 4, 6\)", distance=d[None])
    bad.add("no gallery", ValueError, "distance", "empty gallery", distance=d[:, :0])
    for name, value, count in (
        ("NaN", math.nan, "1 NaN and 0 Inf"),
        ("Inf", math.inf, "0 NaN and 1 Inf"),
        ("-Inf", -math.inf, "0 NaN and 1 Inf"),
    ):
        for dtype in FLOATING:
            spoilt = d.to(dtype, copy=True)
            spoilt[2, 5] = value
            bad.add(
                f"{name} in {dtype}",
                ValueError,
                "distance",
                f"{count} in 1 .*first in row 2",
                distance=spoilt,
            )
    strided = d.repeat(1, 2)[:, ::2].clone().mT.contiguous().mT
    strided[1:, 0] = math.nan
    bad.add(
        "NaN behind strides",
        ValueError,
        "distance",
        "3 NaN and 0 Inf in 3 .*first in row 1",
        distance=strided,
    )


def _label_errors(bad: _Malformed) -> None:
    for name in ("query_pids", "gallery_pids", "query_camids", "gallery_camids"):
        labels = bad.good[name]
        size = labels.shape[0]
        for dtype in (torch.float32, torch.bool, torch.complex64):
            bad.add(f"{name} {dtype}", TypeError, name, "int64", **{name: labels.to(dtype)})
        bad.add(f"{name} list", TypeError, name, "torch.Tensor", **{name: labels.tolist()})
        bad.add(f"{name} array", TypeError, name, "torch.Tensor", **{name: np.zeros(size, dtype=np.int64)})
        bad.add(f"{name} None", TypeError, name, "None", **{name: None})
        bad.add(f"{name} column", ValueError, name, rf"shape \({size}, 1\)", **{name: labels[:, None]})
        bad.add(f"{name} scalar", ValueError, name, r"shape \(\)", **{name: labels[0]})
        bad.add(f"{name} short", ValueError, name, f"size {size}", **{name: labels[1:]})
        bad.add(f"{name} long", ValueError, name, f"size {size}", **{name: labels.repeat(2)})
        bad.add(f"{name} empty", ValueError, name, f"size {size}", **{name: labels[:0]})
        bad.add(f"{name} on meta", ValueError, name, "device meta", **{name: labels.to("meta")})
        bad.add(f"{name} sparse", TypeError, name, "sparse", **{name: labels.to_sparse()})
    huge = torch.full((4,), -1, dtype=torch.int64).view(torch.uint64)
    bad.add("pids beyond int64", ValueError, "query_pids", r"2\*\*63", query_pids=huge)
    bad.add(
        "one side of cameras", TypeError, "gallery_camids", "None", gallery_camids=None, camera_rule="none"
    )


def _choice_errors(bad: _Malformed) -> None:
    bad.add("camera_rule unknown", ValueError, "camera_rule", "same_pid or none", camera_rule="all")
    bad.add("camera_rule near", ValueError, "camera_rule", "did you mean 'same_pid'", camera_rule="same-pid")
    bad.add("camera_rule None", TypeError, "camera_rule", "NoneType", camera_rule=None)
    bad.add("ap unknown", ValueError, "ap", "step or trapezoid", ap="average")
    bad.add("ap near", ValueError, "ap", "did you mean 'trapezoid'", ap="trapezoidal")
    bad.add("ap int", TypeError, "ap", "int", ap=1)
    for value in (0, -1):
        bad.add(f"max_rank {value}", ValueError, "max_rank", "at least 1", max_rank=value)
    for value in (1.0, True, "10", None, torch.tensor(3)):
        bad.add(f"max_rank {value!r}", TypeError, "max_rank", "at least 1", max_rank=value)
    for value in (1, None, "yes"):
        bad.add(f"check_finite {value!r}", TypeError, "check_finite", "True or False", check_finite=value)
    strangers = torch.tensor([7, 8, 9, 7])
    bad.add(
        "strangers", ValueError, "query_pids", "4 have a pid that is not in the gallery", query_pids=strangers
    )
    one_camera = {
        "query_camids": torch.zeros(4, dtype=torch.int8),
        "gallery_camids": torch.zeros(6, dtype=torch.int16),
    }
    bad.add("one camera", ValueError, "query_pids", '4 have theirs only .*camera_rule="none"', **one_camera)


def error_samples() -> list[ErrorSample]:
    bad = _Malformed()
    _float_errors(bad)
    _label_errors(bad)
    _choice_errors(bad)
    return bad.samples


SPEC = OpSpec(
    name="rank_metrics",
    fn=rank_metrics,
    dtypes=FLOATING,
    sample_inputs=sample_inputs,
    error_samples=error_samples,
    reference64=by_definition,
    outputs=outputs,
    layouts=tuple(layout for layout in LAYOUTS if layout != "channels_last"),  # nothing has four dimensions
    ulps=32,  # a sum of a thousand terms rounds a thousand times
    opcheck_calls=_opcheck_calls,
)
