# SPDX-License-Identifier: Apache-2.0
"""nearest under contract."""

import numpy as np
import torch
from opspec import LAYOUTS, ErrorSample, OpSpec, Sample

from fastreid_ops import nearest
from fastreid_ops.ops.distance import METRICS

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
INF, NAN = float("inf"), float("nan")


def features(rows, depth, seed, spread=0.6):
    """About four rows around each of a few directions, as images of the same people are."""
    g = torch.Generator().manual_seed(seed)
    people = torch.randn(max(1, rows // 4), depth, generator=g, dtype=torch.float64)
    who = torch.randint(len(people), (rows,), generator=g)
    return people[who] + spread * torch.randn(rows, depth, generator=g, dtype=torch.float64)


def _problems(dtype, device, seed):
    """name -> (x, y, k): edges of the panels (12, 24 and 48 rows) and of the few rows that are compared directly (8),
    and data on which a rounded product decides little."""
    x, y = features(33, 40, seed), features(101, 40, seed + 1)
    twins = y.clone()
    twins[50:83] = x
    zeros = x.clone()
    zeros[[3, 20]] = 0
    near = features(1, 64, seed + 2).repeat(130, 1) + 3e-2 * features(130, 64, seed + 3)
    uneven = x * torch.logspace(-1, 1, 33, dtype=torch.float64)[:, None]
    problems = {
        "plain": (x, y, 7),
        "single": (features(1, 1, seed), features(1, 1, seed + 4), 1),
        "few": (x[:5], y, 9),
        "everything": (x, y, 101),
        "deep": (features(9, 700, seed), features(50, 700, seed + 5), 3),
        "twins": (x, twins, 12),
        "zeros": (zeros, torch.cat([y[:5], zeros]), 6),
        "equal": (torch.ones(20, 3), torch.ones(60, 3), 10),
        "near": (near[:60], near, 21),
        "shifted": (x + 50, y + 50, 5),
        "uneven": (uneven, y, 5),
        "no_query": (x[:0], y, 4),
    }
    return {name: (x.to(device, dtype), y.to(device, dtype), k) for name, (x, y, k) in problems.items()}


def sample_inputs(dtype, device, seed):
    samples = []
    for metric in METRICS:
        for name, (x, y, k) in _problems(dtype, device, seed).items():
            samples.append(Sample(f"{metric}/{name}", (x, y, k), {"metric": metric}))
        own = _problems(dtype, device, seed)["near"][1]
        samples.append(Sample(f"{metric}/itself", (own, own, 15), {"metric": metric}))
        samples.append(Sample(f"{metric}/others", (own, own, 15), {"metric": metric, "exclude_self": True}))
    return samples


def squared(x, y, angular):
    """Differences and sums in 80-bit floats with NumPy."""
    a, b = (t.double().numpy().astype(np.longdouble) for t in (x, y))
    zero = np.zeros((len(a), len(b)), dtype=bool)
    if angular:
        norms = [np.sqrt((t * t).sum(1, keepdims=True)) for t in (a, b)]
        a, b = (t / np.where(n == 0, 1, n) for t, n in zip((a, b), norms, strict=True))
        zero = (norms[0] == 0) | (norms[1] == 0).T
    result = np.empty((len(a), len(b)), dtype=np.longdouble)
    for i, row in enumerate(a):
        result[i] = ((row - b) ** 2).sum(1)
    return np.where(zero, np.longdouble(2), result)


def oracle(x, y, k, *, metric, exclude_self=False):
    d2 = squared(x, y, metric in ("cosine", "arccos"))
    if exclude_self:
        np.fill_diagonal(d2, np.inf)
    order = np.argsort(d2, axis=1, kind="stable")[:, :k]
    d2 = np.take_along_axis(d2, order, axis=1)
    if metric == "cosine":
        distances = d2 / 2
    elif metric == "arccos":
        distances = 2 * np.arcsin(np.minimum(np.sqrt(d2) / 2, 1))
    else:
        distances = np.sqrt(d2) if metric == "euclidean" else d2
    return {
        "distances": torch.from_numpy(distances.astype(np.float64)),
        "indices": torch.from_numpy(order.astype(np.int64)),
    }


def error_samples():
    x, y = torch.randn(4, 3), torch.randn(5, 3)
    samples = []

    def add(name, error, argument, pattern, *args, **kwargs):
        samples.append(ErrorSample(name, lambda: nearest(*args, **kwargs), error, argument, pattern))

    add("x_list", TypeError, "x", "list", [[1.0]], y, 1)
    add("y_array", TypeError, "y", "ndarray", x, y.numpy(), 1)
    add("x_int", TypeError, "x", "int64", x.long(), y, 1)
    add("x_sparse", TypeError, "x", "sparse", x.to_sparse(), y, 1)
    add("y_dtype", TypeError, "y", "float64", x, y.double(), 1)
    add("y_device", ValueError, "y", "meta", x, y.to("meta"), 1)
    add("x_vector", ValueError, "x", r"shape \(3\)", x[0], y, 1)
    add("y_batch", ValueError, "y", r"shape \(1, 5, 3\)", x, y[None], 1)
    add("y_depth", ValueError, "y", "size 3", x, y[:, :2], 1)
    add("no_depth", ValueError, "x", "the length of the rows", x[:, :0], y[:, :0], 1)
    add("y_empty", ValueError, "y", "at least 1", x, y[:0], 1)
    for k in (0, -3, 6):
        add(f"k_{k}", ValueError, "k", str(k), x, y, k)
    for k in (1.0, "2", None, True):
        add(f"k_{k!r}", TypeError, "k", "int", x, y, k)
    add("k_self", ValueError, "k", "1 to 3", x, x, 4, exclude_self=True)
    add("self_sizes", ValueError, "exclude_self", "4 rows of x and 5 of y", x, y, 1, exclude_self=True)
    add("self_int", TypeError, "exclude_self", "int", x, x, 1, exclude_self=1)
    add("progress", TypeError, "progress", "str", x, y, 1, progress="yes")
    add("check", TypeError, "check_finite", "NoneType", x, y, 1, check_finite=None)
    add("group", TypeError, "group", "ProcessGroup", x, y, 1, group="world")
    add("metric", ValueError, "metric", "did you mean 'euclidean'", x, y, 1, metric="euclid")
    add("metric_int", TypeError, "metric", "int", x, y, 1, metric=2)
    for name, value in (("nan", NAN), ("inf", INF), ("minus_inf", -INF)):
        bad = x.clone()
        bad[2, 1] = value
        add(f"x_{name}", ValueError, "x", "first in row 2", bad, y, 1)
        add(f"y_{name}", ValueError, "y", "first in row 2", x, bad, 1)
    add("x_long", ValueError, "x", "1e153", x.double() * 1e160, y.double(), 1)
    return samples


def opcheck_calls():
    x, y, k = _problems(torch.float32, "cpu", 7)["plain"]
    op, part = torch.ops.fastreid.nearest.default, torch.ops.fastreid.nearest_part.default
    calls = [
        (op, (x, y, k, angular, False, False, far)) for angular in (False, True) for far in (False, True)
    ]
    calls.append((op, (y, y, k, False, True, True, True)))
    state = torch.empty(
        torch.ops.fastreid.nearest_state(x, y, k, False, False, False, False), dtype=torch.uint8
    )
    results = torch.empty(33, k, dtype=torch.float64), torch.zeros(33, k, dtype=torch.int64)
    none = torch.empty(0, dtype=torch.float64)
    calls.append((part, (x, y, False, False, False, False, 0, 1, state, *results, none)))
    return calls


SPEC = OpSpec(
    name="nearest",
    fn=nearest,
    dtypes=DTYPES,
    sample_inputs=sample_inputs,
    error_samples=error_samples,
    reference64=oracle,
    outputs=lambda found: {"distances": found.distances, "indices": found.indices},
    layouts=tuple(layout for layout in LAYOUTS if layout != "channels_last"),  # nothing has four dimensions
    ulps=64.0,  # float64: 700 squares in eight lanes, near directions; the narrower types round once
    opcheck_calls=opcheck_calls,
)
