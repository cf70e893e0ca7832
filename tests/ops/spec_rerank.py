# SPDX-License-Identifier: Apache-2.0
"""The re-ranking functions for the contract tests: samples, malformed calls, and oracles written from the papers'
definitions in NumPy, with N x N matrices."""

from __future__ import annotations

import math

import numpy as np
import torch
from opspec import LAYOUTS, ErrorSample, OpSpec, Outputs, Sample

from fastreid_ops.ops.rerank import gnn_rerank, jaccard, k_reciprocal, k_reciprocal_from_distances

FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
HALF = np.float16


def features(queries, gallery, depth, *, identities=6, noise=0.8, seed=0, dtype=torch.float32):
    """Images of a few identities around directions of their own."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(identities, depth, generator=generator)
    sets = []
    for count in (queries, gallery):
        person = torch.randint(identities, (count,), generator=generator)
        rows = centres[person] + noise * torch.randn(count, depth, generator=generator)
        sets.append((rows / depth**0.5).to(dtype))
    return sets[0], sets[1]


def squared(x, y, metric="euclidean"):
    """float64, by differences; a row of zeros is at cosine distance 1 to every row."""
    x, y = (np.asarray(rows.double(), dtype=np.float64) for rows in (x, y))
    if metric == "cosine":
        lengths = [np.sqrt((rows**2).sum(1)) for rows in (x, y)]
        zero = (lengths[0] == 0)[:, None] | (lengths[1] == 0)
        x, y = (rows / np.where(n > 0, n, 1)[:, None] for rows, n in zip((x, y), lengths, strict=True))
    found = np.stack([((row - y) ** 2).sum(1) for row in x])
    return np.where(zero, 2.0, found) if metric == "cosine" else found


def euclidean_matrices(query, gallery, dtype=torch.float32):
    pairs = ((query, gallery), (query, query), (gallery, gallery))
    return tuple(torch.from_numpy(np.sqrt(squared(x, y))).to(dtype) for x, y in pairs)


# Zhong et al.'s definition


def encoding(d, w, *, k1, k2, itself=1, weights=float, averages=float):
    """V and its local query expansion: d decides the order, w enters the weights; the two float types store them."""
    points = len(d)
    order = np.argsort(d, axis=1, kind="stable")
    entries = min(k1 + itself, points)
    half = min(int(np.around(k1 / 2)) + 1, entries)

    def mutual(i, size):
        return [j for j in order[i, :size] if i in order[j, :size]]

    v = np.zeros((points, points), dtype=weights)
    for i in range(points):
        own = mutual(i, entries)
        kept = set(own)
        for candidate in own:
            theirs = mutual(candidate, half)
            if len(set(own) & set(theirs)) > 2 / 3 * len(theirs):
                kept |= set(theirs)
        columns = sorted(kept)
        weight = np.exp(-(w[i, columns] - (w[i, columns].min() if columns else 0)))
        v[i, columns] = (weight / weight.sum()).astype(np.float32)
    if k2 == 1:
        return v
    first = order[:, : min(k2, points if itself else entries)]
    return np.stack([v[row].mean(0, dtype=np.float32 if averages is HALF else None) for row in first]).astype(
        averages
    )


def jaccard_of(v, rows, columns, clamp=False):
    if v.dtype == HALF:
        minima = np.zeros((len(rows), len(columns)), dtype=HALF)
        for t in range(len(v)):
            minima += np.minimum(v[rows, t][:, None], v[columns, t])
        return HALF(1) - minima / (HALF(2) - minima)
    minima = np.stack([np.minimum(v[i], v[columns]).sum(1, dtype=np.float64) for i in rows])
    found = 1 - minima / (2 - minima)
    return np.maximum(found, 0) if clamp else found


def final(e, queries, *, k1, k2, lambda_value, variant, raw):
    """From what enters squared or not: e (N, N) holds the squared distances."""
    rows, columns = np.arange(queries), np.arange(queries, len(e))
    largest = e.max(1, keepdims=True)
    w = e / np.where(largest > 0, largest, 1)
    options = {}
    if variant == "torchreid":
        w = w**2
    elif variant == "fastreid":
        w = e
        options = {"itself": 0}
    elif variant == "transreid":
        options = {"weights": HALF, "averages": HALF}
    elif variant == "naic":
        options = {"averages": HALF}
    v = encoding(e, w, k1=k1, k2=k2, **options)
    if variant == "naic":
        v = v.astype(np.float32)
    distance = jaccard_of(v, rows, columns, clamp=variant == "fastreid")
    blend = distance * (HALF(1 - lambda_value) if distance.dtype == HALF else 1 - lambda_value)
    return blend + w[:queries, queries:] * lambda_value * (raw if variant == "fastreid" else 1)


def by_definition(
    query,
    gallery,
    *,
    k1=20,
    k2=6,
    lambda_value=0.3,
    variant="zhong2017",
    metric="euclidean",
    top=None,
    memory_limit=None,
) -> Outputs:
    x = torch.cat([query, gallery])
    settings = {"k1": k1, "k2": k2, "lambda_value": lambda_value, "variant": variant}
    dense = final(squared(x, x, metric), len(query), raw=0.5 if metric == "cosine" else 1, **settings)
    return headed(dense, top)


def headed(dense, top) -> Outputs:
    dense = torch.from_numpy(dense.astype(np.float32)).double()
    if top is None:
        return {"result": dense}
    return {"distances": torch.sort(dense, dim=1, stable=True).values[:, :top]}


def from_matrices(
    query_gallery,
    query_query,
    gallery_gallery,
    *,
    k1=20,
    k2=6,
    lambda_value=0.3,
    variant="zhong2017",
    top=None,
) -> Outputs:
    """Column i of the whole matrix is row i here; numbers are squared as they are."""
    a, b, c = (m.float().double().numpy() for m in (query_gallery, query_query, gallery_gallery))
    whole = np.block([[b, a], [a.T, c]]).T
    if variant == "torchreid":
        variant = "zhong2017"
    settings = {"k1": k1, "k2": k2, "lambda_value": lambda_value, "variant": variant}
    return headed(final(whole**2, len(b), raw=1, **settings), top)


def jaccard_by_definition(x, *, k1=20, k2=6, variant="fastreid") -> Outputs:
    e = squared(x, x)
    largest = e.max(1, keepdims=True)
    w = e if variant == "fastreid" else e / np.where(largest > 0, largest, 1)
    v = encoding(e, w, k1=k1, k2=k2, itself=0 if variant == "fastreid" else 1)
    everything = np.arange(len(e))
    found = jaccard_of(v, everything, everything, clamp=variant == "fastreid")
    return {"dense": torch.from_numpy(found).float().double()}


def densified(result) -> Outputs:
    """With distance 1 where nothing is stored."""
    points = len(result.indptr) - 1
    dense = torch.ones(points, points)
    rows = torch.repeat_interleave(torch.arange(points), result.indptr.diff())
    dense[rows, result.indices] = result.values
    return {"dense": dense}


def gnn_by_definition(query, gallery, *, k1=26, k2=7, top=None) -> Outputs:
    x = torch.cat([query, gallery])
    d = squared(x, x, "cosine")
    points, order = len(d), np.argsort(d, axis=1, kind="stable")
    a = np.zeros_like(d)
    np.put_along_axis(a, order[:, :k1], 1.0, axis=1)
    similarity = (1 - np.take_along_axis(d, order, axis=1) / 2) ** 2
    for _ in range(2 if k2 > 1 else 0):
        a = a + a.T
        a = np.stack([similarity[i, :k2] @ a[order[i, :k2]] for i in range(points)])
    length = np.sqrt((a**2).sum(1, keepdims=True))
    a = a / np.where(length > 0, length, 1)
    return headed(1 - a[: len(query)] @ a[len(query) :].T, top)


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
