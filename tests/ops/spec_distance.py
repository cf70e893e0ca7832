# SPDX-License-Identifier: Apache-2.0
"""pairwise_distance under contract."""

import numpy as np
import torch
from opspec import ErrorSample, OpSpec, Sample

from fastreid_ops.ops.distance import METRICS, pairwise_distance, reference

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
INF, NAN = float("inf"), float("nan")


def _pairs(dtype, device, seed):
    """name -> (x, y): edges of the tiles (1, 6, 14, 16, 32 rows; chunks of 128), and data that breaks a
    plain product."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    x, y = normal(33, 130), normal(19, 130)
    twins = y.clone()
    twins[:7] = x[:7]
    zeros = x.clone()
    zeros[3] = 0
    heavy = normal(9, 40).mul(1.5).exp() * normal(9, 40).sign()
    near = normal(1, 64).repeat(8, 1) + 0.01 * normal(8, 64)
    pairs = {
        "plain": (x, y),
        "single": (normal(1, 1), normal(1, 1)),
        "wide": (normal(3, 300), normal(65, 300)),
        "tall": (normal(71, 5), normal(2, 5)),
        "deep": (normal(9, 3000) + 0.7, normal(40, 3000) + 0.7),
        "twins": (x, twins),
        "shifted": (x[:, :40] + 100, y[:, :40] + 100),
        "zeros": (zeros, zeros[:5]),
        "opposite": (x[:6], -x[:6]),
        "heavy": (heavy, heavy.flip(1)),
        "near": (near, near + 0.003),
        "small": (x * 1e-3, y * 1e-3),
        "batch": (normal(2, 3, 4, 5), normal(2, 3, 7, 5)),
        "broadcast": (normal(2, 1, 4, 6), normal(3, 5, 6)),
        "no_query": (normal(0, 4), normal(3, 4)),
        "no_gallery": (normal(3, 4), normal(0, 4)),
    }
    return {name: tuple(t.to(device, dtype) for t in pair) for name, pair in pairs.items()}


def sample_inputs(dtype, device, seed):
    return [
        Sample(f"{metric}/{name}", pair, {"metric": metric})
        for name, pair in _pairs(dtype, device, seed).items()
        for metric in METRICS
    ]


def oracle(x, y, *, metric):
    """Differences and sums in 80-bit floats with NumPy, rounded once; angles by Kahan's formula
    2 atan2(|u-v|, |u+v|)."""
    a, b = (t.double().numpy().astype(np.longdouble) for t in (x, y))
    zero = None
    if metric in ("cosine", "arccos"):
        norms = [np.sqrt((t * t).sum(-1, keepdims=True)) for t in (a, b)]
        a, b = (t / np.where(n == 0, 1, n) for t, n in zip((a, b), norms, strict=True))
        zero = (norms[0] == 0) | (np.swapaxes(norms[1], -1, -2) == 0)
    minus = ((a[..., :, None, :] - b[..., None, :, :]) ** 2).sum(-1)
    if metric == "euclidean":
        result = np.sqrt(minus)
    elif metric == "sqeuclidean":
        result = minus
    elif metric == "cosine":
        result = np.where(zero, 1, minus / 2)
    else:
        plus = ((a[..., :, None, :] + b[..., None, :, :]) ** 2).sum(-1)
        result = np.where(zero, np.longdouble(np.pi) / 2, 2 * np.arctan2(np.sqrt(minus), np.sqrt(plus)))
    return {"result": torch.from_numpy(result.astype(np.float64))}


def naive(x, y, *, metric):
    """What people write. For the norms the accurate way, differences (`reference`), not the product of
    `product`; for the angles a normalised product, in the dtype of the inputs."""
    return (
        product(x, y, metric=metric)
        if metric in ("cosine", "arccos")
        else {"result": reference(x, y, metric=metric)}
    )


def product(x, y, *, metric):
    """What re-identification code writes (torchreid, fast-reid, NAIC): one matrix product, in the dtype of
    its inputs."""
    if metric in ("cosine", "arccos"):
        u, v = (torch.nn.functional.normalize(t, dim=-1, eps=1e-7) for t in (x, y))
        cosine = u @ v.mT
        return {"result": 1 - cosine if metric == "cosine" else cosine.clamp(-1, 1).acos()}
    square = x.square().sum(-1).unsqueeze(-1) + y.square().sum(-1).unsqueeze(-2) - 2 * (x @ y.mT)
    return {"result": square if metric == "sqeuclidean" else square.clamp_min(1e-12).sqrt()}


def _hostile(name):
    """Arguments that are no dense floating matrices, by name -> (make(tensor), error)."""
    x = torch.randn(4, 3)
    with_type = {
        "list": x.tolist(),
        "numpy": x.numpy(),
        "none": None,
        "number": 1.0,
        "string": "features",
        "tuple": (x, x),
        "int64": x.long(),
        "int32": x.int(),
        "uint8": x.byte(),
        "bool": x > 0,
        "complex": x.to(torch.complex64),
        "complex128": x.to(torch.complex128),
        "float8": x.to(torch.float8_e4m3fn),
        "sparse_coo": x.to_sparse(),
        "sparse_csr": x.to_sparse_csr(),
        "sparse_csc": x.to_sparse_csc(),
        "sparse_bsr": torch.randn(4, 4).to_sparse_bsr((2, 2)),
        "quantised": torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
        "nested": torch.nested.nested_tensor([x, x[:2]]),
        "jagged": torch.nested.nested_tensor([x, x[:2]], layout=torch.jagged),
        "mkldnn": x.to_mkldnn(),
    }
    return with_type[name] if name else list(with_type)


def error_samples():
    x, y = torch.randn(4, 3), torch.randn(5, 3)
    samples = []

    def add(name, error, argument, pattern, *args, **kwargs):
        samples.append(
            ErrorSample(name, lambda: pairwise_distance(*args, **kwargs), error, argument, pattern)
        )

    def spoiled(t, *entries, value=NAN):
        t = t.clone()
        for entry in entries:
            t[entry] = value
        return t

    for name in _hostile(""):
        add(f"x_{name}", TypeError, "x", "", _hostile(name), y)
        add(f"y_{name}", TypeError, "y", "", x, _hostile(name))
    for dims, t in {0: torch.tensor(1.0), 1: torch.randn(3)}.items():
        add(f"x_{dims}d", ValueError, "x", r"shape \(.*2 dimensions or more", t, y)
        add(f"y_{dims}d", ValueError, "y", r"shape \(.*2 dimensions or more", x, t)
    add("x_depth_zero", ValueError, "x", "at least 1", torch.randn(4, 0), torch.randn(5, 0))
    add("x_all_empty", ValueError, "x", "at least 1", torch.randn(0, 0), torch.randn(0, 0))
    for depth in (0, 1, 2, 4):
        add(f"y_depth_{depth}", ValueError, "y", r"size 3 in dimension -1", x, torch.randn(5, depth))
    add("y_transposed", ValueError, "y", r"size 3", x, y.T)
    add("y_batch_depth", ValueError, "y", r"size 3", x.expand(2, 4, 3), torch.randn(2, 5, 4))
    batches = {
        "2_3": ((2,), (3,)),
        "2_0": ((2,), (0,)),
        "nested": ((2, 3), (2, 1)),
        "long": ((4, 2, 1), (3, 2, 1)),
    }
    for name, (a, b) in batches.items():
        a, b = torch.randn(*a, 2, 3), torch.randn(*b, 2, 3)
        if name == "nested":
            b = torch.randn(4, 1, 2, 3)
        add(f"y_batch_{name}", ValueError, "y", "leading dimensions", a, b)
    dtypes = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
    for a in dtypes:
        for b in dtypes:
            if a != b:
                names = [str(d).removeprefix("torch.") for d in (a, b)]
                pattern = f"got {names[1]}, expected {names[0]}, the dtype of x"
                add(f"dtypes_{'_'.join(names)}", TypeError, "y", pattern, x.to(a), y.to(b))
    add("x_meta", ValueError, "y", "device cpu, expected meta", x.to("meta"), y)
    add("y_meta", ValueError, "y", "device meta, expected cpu", x, y.to("meta"))
    near = {
        "Euclidean": "euclidean",
        "euclid": "euclidean",
        "sqeuclid": "sqeuclidean",
        "cos": "cosine",
        "acos": "arccos",
        "arccoss": "arccos",
        "cosine ": "cosine",
    }
    for metric, meant in near.items():
        hint = f"did you mean '{meant}'" if metric not in ("cos",) else "one of"
        add(f"metric_{metric}", ValueError, "metric", hint, x, y, metric=metric)
    for metric in ("", "l2", "manhattan", "dot", "0"):
        add(f"metric_{metric}", ValueError, "metric", "one of euclidean", x, y, metric=metric)
    for metric in (None, 0, 2.0, True, b"cosine", ["cosine"], torch.tensor(0), max):
        add(
            f"metric_{type(metric).__name__}_{metric}"[:40],
            TypeError,
            "metric",
            "one of",
            x,
            y,
            metric=metric,
        )
    for value in (None, 1, 0, "yes", torch.tensor(True), 0.0):
        add(f"check_finite_{value}", TypeError, "check_finite", "True or False", x, y, check_finite=value)
    for dtype in dtypes:
        a, b = x.to(dtype), y.to(dtype)
        short = str(dtype).removeprefix("torch.")
        for label, value in {"nan": NAN, "inf": INF, "minus_inf": -INF}.items():
            add(
                f"x_{label}_{short}",
                ValueError,
                "x",
                r"in 1 row\(s\), first in row 2",
                spoiled(a, (2, 1), value=value),
                b,
            )
            add(
                f"y_{label}_{short}",
                ValueError,
                "y",
                r"in 1 row\(s\), first in row 0",
                a,
                spoiled(b, (0, 0), value=value),
            )
    add("x_two_nan", ValueError, "x", r"2 NaN and 0 Inf in 2 row", spoiled(x, (1, 0), (3, 2)), y)
    add(
        "x_row_inf",
        ValueError,
        "x",
        r"0 NaN and 3 Inf in 1 row\(s\), first in row 1",
        spoiled(x, 1, value=INF),
        y,
    )
    add("x_all_nan", ValueError, "x", r"12 NaN and 0 Inf in 4 row", torch.full((4, 3), NAN), y)
    add("x_batch_nan", ValueError, "x", r"first in row \(1, 2\)", spoiled(x.repeat(2, 1, 1), (1, 2, 0)), y)
    add("y_view_nan", ValueError, "y", r"first in row 4", x, spoiled(y, (4, 2)).T.contiguous().T)
    add("x_expanded_nan", ValueError, "x", r"4 NaN", torch.tensor([1.0, NAN, 0.0]).expand(4, 3), y)
    add("x_grad_nan", ValueError, "x", r"1 NaN", spoiled(x, (0, 0)).requires_grad_(), y)
    add("x_beats_y", ValueError, "x", r"1 NaN", spoiled(x, (0, 0)), spoiled(y, (0, 0)))
    add("overflowed_half", ValueError, "x", r"12 Inf", (x.abs() * 1e9 + 1e6).half(), y.half())
    return samples


def opcheck_calls():
    forward, backward = (
        torch.ops.fastreid.pairwise_distance.default,
        torch.ops.fastreid.pairwise_distance_backward.default,
    )
    calls = []
    for metric in range(4):
        for name, (x, y) in _pairs(torch.float64, "cpu", 5).items():
            if name in ("single", "tall", "batch", "no_query", "no_gallery"):
                leaves = [t.clone().requires_grad_() for t in (x, y)]
                calls.append((forward, (*leaves, metric)))
                distance = pairwise_distance(x, y, metric=METRICS[metric])
                calls.append((backward, (torch.ones_like(distance), distance, x, y, metric)))
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            wide = torch.randn(6, 40).to(dtype)
            calls.append((forward, (wide[:, ::2], wide.T[:20].T[:3], metric)))
    return calls


SPEC = OpSpec(
    name="pairwise_distance",
    fn=pairwise_distance,
    dtypes=DTYPES,
    sample_inputs=sample_inputs,
    error_samples=error_samples,
    reference64=oracle,
    naive=naive,
    ulps=2.0,  # where the naive error is 0 by luck: one rounding of a sum, one of its parts
    same_bits=(("avx2", "avx512", "avx512_bf16"), ("baseline",)),
    opcheck_calls=opcheck_calls,
)
