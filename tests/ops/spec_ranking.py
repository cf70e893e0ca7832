# SPDX-License-Identifier: Apache-2.0
"""rank_metrics for the contract tests: samples and malformed calls."""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
from opspec import ISAS, LAYOUTS, ErrorSample, OpSpec, Outputs, Sample
from ranking_by_definition import by_definition

from fastreid_ops import _C
from fastreid_ops.ops import _relevance
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


def clothes(queries, gallery, kinds=2, *, seed=0):
    """The two keyword arguments with random clothes."""
    generator = torch.Generator().manual_seed(seed + 1000)
    sizes = {"query_clothes": queries, "gallery_clothes": gallery}
    return {name: torch.randint(kinds, (size,), generator=generator) for name, size in sizes.items()}


def outputs(result: RankMetrics) -> Outputs:
    return result._asdict()


def equal(got: RankMetrics, want: RankMetrics) -> bool:
    """The same bits everywhere."""
    return all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(got, want, strict=True))


def sample_inputs(dtype: torch.dtype, device: str, seed: int) -> list[Sample]:
    def case(name, shape, *, ties=False, **kwargs):
        tensors = problem(*shape, seed=seed, dtype=dtype, ties=ties)
        return Sample(name, tuple(t.to(device) for t in tensors), kwargs)

    def dressed(name, shape, **kwargs):
        worn = {key: value.to(device) for key, value in clothes(*shape[:2], seed=seed).items()}
        return case(name, shape, ties=True, **worn, **kwargs)

    large = problem(3, 2051, 2, 1000, seed=seed, dtype=dtype, ties=True)
    single = []
    if device == "cpu":
        single = [
            case("one of each", (6, 60, 9, 3), ties=True, cmc="single_gallery_shot", max_rank=8),
            case(
                "one of each, other cameras",
                (6, 60, 9, 3),
                cmc="single_gallery_shot",
                camera_rule="same_camera",
            ),
        ]
    return [
        case("few", (5, 23, 3, 2), max_rank=10),
        case("ties", (9, 64, 4, 3), ties=True),
        case("trapezoid", (6, 40, 3, 2), ties=True, ap="trapezoid", max_rank=7),
        case("no cameras", (6, 40, 3, 1), ties=True, camera_rule="none", max_rank=1),
        case("one of everything", (1, 1, 1, 1), camera_rule="none"),
        case("max_rank beyond the gallery", (7, 5, 2, 2), max_rank=11),
        dressed("clothes changed", (8, 70, 4, 3), clothes_rule="cross", cmc="unique_pid"),
        dressed("clothes kept", (8, 70, 4, 3), clothes_rule="same", camera_rule="none", invalid="zero"),
        case("other cameras", (9, 200, 6, 3), camera_rule="same_camera", cmc="unique_pid", max_rank=6),
        case("junk", (9, 70, 6, 3), ties=True, junk_pids=(3, -1), ap="trapezoid", invalid="zero"),
        case("all hits", (6, 90, 4, 3), ties=True, cmc="all_hits", camera_rule="same_camera"),
        *single,
        Sample("an identity of a thousand images", tuple(t.to(device) for t in large), {"ap": "trapezoid"}),
    ]


def native_arguments(arguments, **kwargs):
    """What rank_metrics hands to the native op, from its own arguments."""
    labels = {key: kwargs.pop(key) for key in ("query_clothes", "gallery_clothes") if key in kwargs}
    rules = _relevance.Rules(**kwargs)
    sides = _relevance.as_int64("rank_metrics", rules, _relevance.Sides(*arguments[1:], **labels))
    return (arguments[0], *_relevance.native(rules, sides), *rules.codes())


def _opcheck_calls():
    distance, *labels = problem(5, 23, 3, 2, seed=1, ties=True)
    op = torch.ops.fastreid.rank_metrics.default
    views = (distance, distance.double(), distance.mT.contiguous().mT, distance[:1].expand(5, 23))
    calls = [native_arguments((view, *labels), max_rank=10) for view in views]
    calls.append(
        native_arguments((distance.bfloat16(), *labels), camera_rule="none", ap="trapezoid", max_rank=3)
    )
    none = (distance[:0].half(), labels[0][:0], labels[1], labels[2][:0], labels[3])
    calls.append(native_arguments(none, max_rank=1))
    worn = clothes(5, 23)
    calls.append(native_arguments((distance, *labels), clothes_rule="cross", cmc="unique_pid", **worn))
    calls.append(
        native_arguments((distance, *labels), camera_rule="same_camera", cmc="all_hits", junk_pids=(1,))
    )
    calls.append(native_arguments((distance, *labels), cmc="single_gallery_shot", repeats=3, seed=5))
    return [(op, call) for call in calls]


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
    names = (
        "query_pids",
        "gallery_pids",
        "query_camids",
        "gallery_camids",
        "query_clothes",
        "gallery_clothes",
    )
    worn = {**clothes(4, 6), "clothes_rule": "cross"}
    for name in names:
        labels = {**bad.good, **worn}[name]

        def add(what, *arguments, name=name, **changes):
            bad.add(what, *arguments, **({**worn, **changes} if "clothes" in name else changes))

        size = labels.shape[0]
        for dtype in (torch.float32, torch.bool, torch.complex64):
            add(f"{name} {dtype}", TypeError, name, "int64", **{name: labels.to(dtype)})
        add(f"{name} list", TypeError, name, "torch.Tensor", **{name: labels.tolist()})
        add(f"{name} array", TypeError, name, "torch.Tensor", **{name: np.zeros(size, dtype=np.int64)})
        add(f"{name} None", TypeError, name, "None", **{name: None})
        add(f"{name} column", ValueError, name, rf"shape \({size}, 1\)", **{name: labels[:, None]})
        add(f"{name} scalar", ValueError, name, r"shape \(\)", **{name: labels[0]})
        add(f"{name} short", ValueError, name, f"size {size}", **{name: labels[1:]})
        add(f"{name} long", ValueError, name, f"size {size}", **{name: labels.repeat(2)})
        add(f"{name} empty", ValueError, name, f"size {size}", **{name: labels[:0]})
        add(f"{name} on meta", ValueError, name, "device meta", **{name: labels.to("meta")})
        add(f"{name} sparse", TypeError, name, "sparse", **{name: labels.to_sparse()})
    huge = torch.full((4,), -1, dtype=torch.int64).view(torch.uint64)
    bad.add("pids beyond int64", ValueError, "query_pids", r"2\*\*63", query_pids=huge)
    one_side = {"query_clothes": worn["query_clothes"]}
    bad.add("one side of clothes", TypeError, "gallery_clothes", "None", **one_side)
    bad.add(
        "one side of cameras", TypeError, "gallery_camids", "None", gallery_camids=None, camera_rule="none"
    )


def _choice_errors(bad: _Malformed) -> None:
    bad.add(
        "camera_rule unknown", ValueError, "camera_rule", "same_pid, none or same_camera", camera_rule="all"
    )
    bad.add("camera_rule near", ValueError, "camera_rule", "did you mean 'same_pid'", camera_rule="same-pid")
    bad.add("camera_rule None", TypeError, "camera_rule", "NoneType", camera_rule=None)
    bad.add("ap unknown", ValueError, "ap", "step or trapezoid", ap="average")
    bad.add("ap near", ValueError, "ap", "did you mean 'trapezoid'", ap="trapezoidal")
    bad.add("ap int", TypeError, "ap", "int", ap=1)
    bad.add("clothes_rule unknown", ValueError, "clothes_rule", "any, cross or same", clothes_rule="all")
    bad.add("clothes_rule None", TypeError, "clothes_rule", "NoneType", clothes_rule=None)
    bad.add("cmc unknown", ValueError, "cmc", "did you mean 'all_hits'", cmc="all_hit")
    bad.add("invalid unknown", ValueError, "invalid", "skip or zero", invalid="drop")
    for value in ({-1}, -1, None, "-1", torch.tensor([-1])):
        bad.add(f"junk_pids {value!r}", TypeError, "junk_pids", "tuple or list of ints", junk_pids=value)
    for value in ((1.0,), (True,), ["0"]):
        bad.add(f"junk_pids {value!r}", TypeError, "junk_pids", "in it", junk_pids=value)
    bad.add("junk_pids huge", ValueError, "junk_pids", "fit int64", junk_pids=(2**63,))
    shot = {"cmc": "single_gallery_shot"}
    for value in (0, -1):
        bad.add(f"repeats {value}", ValueError, "repeats", "at least 1", repeats=value, **shot)
    for value in (1.0, True, "10"):
        bad.add(f"repeats {value!r}", TypeError, "repeats", "at least 1", repeats=value, **shot)
    bad.add("repeats of nothing", ValueError, "repeats", "draws nothing", repeats=10)
    for value in (-1, 2**63):
        bad.add(f"seed {value}", ValueError, "seed", "from 0 to", seed=value, **shot)
    for value in (1.0, True, None):
        bad.add(f"seed {value!r}", TypeError, "seed", "an int", seed=value, **shot)
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
    gone = {**one_camera, "camera_rule": "same_camera"}
    bad.add("all dropped", ValueError, "query_pids", "rules drop every match of 4.*'same_camera'", **gone)
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
