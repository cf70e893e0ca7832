# SPDX-License-Identifier: Apache-2.0
"""The re-ranking functions for the contract tests: samples and malformed calls; the oracles are in
rerank_oracle.py."""

from __future__ import annotations

import math

import torch
from opspec import LAYOUTS, ErrorSample, OpSpec, Outputs, Sample
from rerank_oracle import (
    by_definition,
    densified,
    euclidean_matrices,
    features,
    from_matrices,
    gnn_by_definition,
    jaccard_by_definition,
)

from fastreid_ops.ops.rerank import gnn_rerank, jaccard, k_reciprocal, k_reciprocal_from_distances

FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


# Samples


def sample_inputs(dtype: torch.dtype, device: str, seed: int) -> list[Sample]:
    def case(name, shape, **kwargs):
        return Sample(name, tuple(t.to(device) for t in features(*shape, seed=seed, dtype=dtype)), kwargs)

    return [
        case("few", (5, 33, 7), k1=6, k2=3),
        case("default", (9, 64, 16)),
        case("no expansion", (4, 30, 5), k1=5, k2=1, lambda_value=0.0),
        case("torchreid", (6, 40, 9), k1=7, k2=4, variant="torchreid", lambda_value=0.6),
        case("fastreid", (6, 40, 9), k1=10, k2=4, variant="fastreid"),
        case("transreid", (6, 40, 9), k1=8, k2=3, variant="transreid"),
        case("naic", (6, 40, 9), k1=8, k2=3, variant="naic", metric="cosine"),
        case("cosine", (3, 50, 9), k1=11, k2=5, metric="cosine"),
        case("one of everything", (1, 1, 1)),
        case("lists longer than the sets", (2, 5, 3), k1=20, k2=9),
        case("top", (5, 40, 8), k1=6, k2=3, top=7),
        case("half empty", (8, 60, 33), k1=200, k2=250),
    ]


def matrix_inputs(dtype: torch.dtype, device: str, seed: int) -> list[Sample]:
    def case(name, shape, **kwargs):
        matrices = euclidean_matrices(*features(*shape, seed=seed), dtype)
        return Sample(name, tuple(t.to(device) for t in matrices), kwargs)

    return [
        case("few", (5, 33, 7), k1=6, k2=3),
        case("default", (70, 90, 16)),
        case("fastreid", (6, 40, 9), k1=10, k2=4, variant="fastreid"),
        case("torchreid", (6, 40, 9), k1=10, k2=4, variant="torchreid"),
        case("one of everything", (1, 1, 1)),
        case("top", (5, 40, 8), k1=6, k2=3, top=7),
    ]


def row_inputs(dtype: torch.dtype, device: str, seed: int) -> list[Sample]:
    def case(name, points, depth, **kwargs):
        return Sample(name, (features(1, points, depth, seed=seed, dtype=dtype)[1].to(device),), kwargs)

    return [
        case("few", 40, 7, k1=6, k2=3),
        case("default", 70, 12),
        case("zhong2017", 50, 9, k1=8, k2=1, variant="zhong2017"),
        case("one of everything", 1, 1),
    ]


def gnn_inputs(dtype: torch.dtype, device: str, seed: int) -> list[Sample]:
    return [
        Sample(name, tuple(t.to(device) for t in features(*shape, seed=seed, dtype=dtype)), kwargs)
        for name, shape, kwargs in (
            ("few", (5, 33, 7), {"k1": 6, "k2": 3}),
            ("default", (9, 64, 16), {}),
            ("no propagation", (4, 30, 5), {"k1": 5, "k2": 1}),
            ("one of everything", (1, 1, 1), {}),
            ("top", (5, 40, 8), {"k1": 6, "k2": 3, "top": 7}),
        )
    ]


def outputs(result) -> Outputs:
    """Indices of the head are compared by the tests that know about ties in float32."""
    return {"distances": result.distances} if hasattr(result, "distances") else {"result": result}


def similarities(found: Outputs) -> Outputs:
    """Distances near 0 are differences of numbers near 1: errors are measured on these."""
    return {name: 1 - value for name, value in found.items()}


# Malformed calls


class _Malformed:
    """A valid call with something changed."""

    def __init__(self, fn, **good):
        self.fn, self.good = fn, good
        self.samples: list[ErrorSample] = []

    def add(self, name, error, argument, pattern, **changes):
        def call():
            arguments = {**self.good, **changes}
            tensors = [arguments.pop(key) for key in list(self.good)]
            return self.fn(*tensors, **arguments)

        self.samples.append(ErrorSample(name, call, error, argument, pattern))

    def tensor(self, name):
        """What is wrong with any dense floating matrix that holds numbers only."""
        good = self.good[name]
        for dtype in (torch.int64, torch.bool, torch.complex64):
            self.add(f"{name} {dtype}", TypeError, name, "float32", **{name: good.to(dtype)})
        for value in (good.tolist(), good.numpy(), None, 1.0):
            self.add(f"{name} {type(value).__name__}", TypeError, name, "torch.Tensor", **{name: value})
        self.add(f"{name} sparse", TypeError, name, "sparse_coo", **{name: good.to_sparse()})
        self.add(f"{name} 1-D", ValueError, name, "shape", **{name: good[0]})
        self.add(f"{name} 3-D", ValueError, name, "shape", **{name: good[None]})
        for value, found in (
            (math.nan, "1 NaN and 0 Inf"),
            (math.inf, "0 NaN and 1 Inf"),
            (-math.inf, "1 Inf"),
        ):
            spoilt = good.clone()
            spoilt[1, 2] = value
            self.add(f"{name} {value}", ValueError, name, f"{found} in 1 .*first in row 1", **{name: spoilt})

    def integers(self, *names):
        for name in names:
            for value in (0, -3):
                self.add(f"{name} {value}", ValueError, name, "at least 1", **{name: value})
            for value in (2.0, True, "6", torch.tensor(3)):
                self.add(f"{name} {value!r}", TypeError, name, "at least 1", **{name: value})

    def common(self, gallery):
        self.integers("k1", "k2", "memory_limit")
        for name in ("k1", "k2"):
            self.add(f"{name} None", TypeError, name, "NoneType", **{name: None})
        self.add("progress 1", TypeError, "progress", "True or False", progress=1)
        self.add("memory_limit 10", ValueError, "memory_limit", r"at least \d+ bytes: ", memory_limit=10)
        if gallery:
            self.integers("top")
            self.add("top beyond", ValueError, "top", f"at most {gallery}, the size", top=gallery + 1)

    def blends(self):
        for value in (-0.1, 1.5, math.nan):
            self.add(f"lambda {value}", ValueError, "lambda_value", "between 0 and 1", lambda_value=value)
        for value in ("0.3", None, True):
            self.add(f"lambda {value!r}", TypeError, "lambda_value", "between 0 and 1", lambda_value=value)
        self.add("variant near", ValueError, "variant", "did you mean 'zhong2017'", variant="zhong2018")
        self.add("variant int", TypeError, "variant", "int", variant=3)


def _pairs(fn):
    query, gallery = features(4, 9, 5, seed=3)
    bad = _Malformed(fn, query=query, gallery=gallery)
    bad.tensor("query")
    bad.tensor("gallery")
    bad.add("no query", ValueError, "query", "nothing to rank", query=query[:0])
    bad.add("no gallery", ValueError, "gallery", "nothing to rank", gallery=gallery[:0])
    bad.add("no depth", ValueError, "query", "length of the rows", query=query[:, :0], gallery=gallery[:, :0])
    bad.add("depths differ", ValueError, "gallery", "size 5", gallery=gallery[:, :4])
    bad.add("dtypes differ", TypeError, "gallery", "float64, expected float32", gallery=gallery.double())
    bad.add("devices differ", ValueError, "gallery", "device meta", gallery=gallery.to("meta"))
    bad.common(9)
    return bad


def _matrices():
    matrices = euclidean_matrices(*features(4, 9, 5, seed=3))
    names = ("query_gallery", "query_query", "gallery_gallery")
    bad = _Malformed(k_reciprocal_from_distances, **dict(zip(names, matrices, strict=True)))
    for name in names:
        bad.tensor(name)
    bad.add("no gallery", ValueError, names[0], "no gallery", query_gallery=matrices[0][:, :0])
    bad.add("query_query wide", ValueError, names[1], "size 4 in dim", query_query=matrices[0])
    bad.add("query_query long", ValueError, names[1], "size 4 in dim", query_query=matrices[0].mT)
    bad.add("gallery_gallery", ValueError, names[2], "size 9 in dim", gallery_gallery=matrices[1])
    bad.add("transposed", ValueError, names[1], "size 9 in dim", query_gallery=matrices[0].mT)
    bad.add("device", ValueError, names[2], "device meta", gallery_gallery=matrices[2].to("meta"))
    bad.common(9)
    bad.blends()
    return bad.samples


def _first():
    bad = _pairs(k_reciprocal)
    bad.blends()
    bad.add("metric", ValueError, "metric", "euclidean or cosine", metric="arccos")
    return bad.samples


def _rows():
    bad = _Malformed(jaccard, x=features(1, 9, 5)[1])
    bad.tensor("x")
    bad.common(None)
    bad.add("variant", ValueError, "variant", "fastreid", variant="spcl")
    return bad.samples


def _opcheck_calls():
    ops = torch.ops.fastreid
    query, gallery = features(4, 12, 5)
    matrices = euclidean_matrices(query, gallery)
    index, distance, farthest = ops.rerank_select(*matrices, 5)
    rows = ops.rerank_encode(index, distance, farthest, None, None, *matrices, 3, 2, False)
    inverted = ops.rerank_invert(*rows, 4, 16, 16)
    x = torch.cat([query, gallery])
    sparse = (*rows, *inverted)
    return [
        (ops.rerank_select.default, (*matrices, 5)),
        (ops.rerank_encode.default, (index, distance, farthest, x, None, None, None, None, 3, 1, True)),
        (ops.rerank_encode.default, (index, distance, None, None, None, *matrices, 3, 2, False)),
        (ops.rerank_merge.default, (*rows, index[:, :2].contiguous(), None, 2.0, False)),
        (ops.rerank_invert.default, (*rows, 4, 16, 16)),
        (ops.rerank_blend.default, (torch.zeros(4, 12), matrices[0], None, *sparse, 0, 0.3, 2, False, True)),
        (ops.rerank_overlap.default, (*sparse, 0, 4, 12, 0, False, False)),
        (ops.rerank_head.default, (matrices[0], 3)),
    ]


_PLAIN = tuple(layout for layout in LAYOUTS if layout != "channels_last")  # nothing has four dimensions
SPECS = [
    OpSpec(
        name="k_reciprocal",
        fn=k_reciprocal,
        dtypes=FLOATING,
        sample_inputs=sample_inputs,
        error_samples=_first,
        reference64=by_definition,
        outputs=outputs,
        layouts=_PLAIN,
        ulps=16,  # sums of a hundred float32 terms
        # d comes from pairwise_distance, whose baseline has no fused multiply-add
        same_bits=(("baseline",), ("avx2", "avx512")),
        opcheck_calls=_opcheck_calls,
    ),
    OpSpec(
        name="k_reciprocal_from_distances",
        fn=k_reciprocal_from_distances,
        dtypes=FLOATING,
        sample_inputs=matrix_inputs,
        error_samples=_matrices,
        reference64=from_matrices,
        outputs=outputs,
        layouts=_PLAIN,
        ulps=16,  # sums of a hundred float32 terms
    ),
    OpSpec(
        name="jaccard",
        fn=jaccard,
        dtypes=FLOATING,
        sample_inputs=row_inputs,
        error_samples=_rows,
        reference64=jaccard_by_definition,
        outputs=densified,
        layouts=_PLAIN,
        ulps=16,  # sums of a hundred float32 terms
    ),
    OpSpec(
        name="gnn_rerank",
        fn=gnn_rerank,
        dtypes=FLOATING,
        sample_inputs=gnn_inputs,
        error_samples=lambda: _pairs(gnn_rerank).samples,
        reference64=lambda *sets, **settings: similarities(gnn_by_definition(*sets, **settings)),
        outputs=lambda result: similarities(outputs(result)),
        layouts=_PLAIN,
        ulps=16,
    ),
]
