# SPDX-License-Identifier: Apache-2.0
"""Exact nearest neighbours among feature rows, without a matrix of distances (csrc/search)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastreid_ops import _library
from fastreid_ops.ops import _checks as check
from fastreid_ops.ops import _progress, _shards
from fastreid_ops.ops.distance import METRICS

_OP = "nearest"
_STATUS = _library.load()
ANGULAR = ("cosine", "arccos")
# Multiplications between two looks at the clock, the progress bar and Ctrl-C: about half a second on two cores.
_PART = 2e11


class Nearest(NamedTuple):
    """What `nearest` returns.

    Attributes:
        distances: (N, k), in the dtype of the features, ascending.
        indices: (N, k) int64, rows of y.
    """

    distances: Tensor
    indices: Tensor


class Neighbours(NamedTuple):
    """What `neighbours` returns.

    Attributes:
        squared: (N, k) float64, squared distances, ascending.
        indices: (N, k) int64, rows of y.
        farthest: (N,) float64, the largest squared distance to any row of y; (0,) where not asked for.
    """

    squared: Tensor
    indices: Tensor
    farthest: Tensor


def nearest(
    x: Tensor,
    y: Tensor,
    k: int,
    *,
    metric: str = "euclidean",
    exclude_self: bool = False,
    check_finite: bool = True,
    progress: bool = False,
    group: Any = None,
) -> Nearest:
    """The ``k`` nearest rows of ``y`` to every row of ``x``: exact, in a total order, with tiles only.

    A product of rounded rows (bfloat16 where the processor multiplies it) bounds every distance from both sides;
    the few candidates that it cannot tell apart are measured in float64. The answer is that of float64 throughout,
    at the speed of the rounded product. ``nearest(x, x, k)``, one tensor twice, uses the symmetry: half the work.

    Args:
        metric: "euclidean", "sqeuclidean", "cosine" (1 - cos) or "arccos" (the angle), as `pairwise_distance`.
        exclude_self: leaves row i of ``y`` out of the neighbours of row i of ``x``.
        check_finite: refuse NaN and Inf.
        progress: show a bar (tqdm) while it works.
        group: a torch.distributed group whose ranks share the rows of ``x``. All call with the same inputs; all get
            the whole result.

    *Shapes*: x (N, D) and y (M, D), one of float32, float64, bfloat16, float16, any strides; D at least 1, M less
    than 2^31; 1 <= k <= M (M - 1 with ``exclude_self``).

    *NaN*: NaN and Inf are refused; with ``check_finite=False`` a result that involves one means nothing.

    *Ties*: a total order: by the squared distance in float64 from the inputs as given (rows scaled to length one for
    the angular metrics; a row of zeros is at cosine distance 1 and angle pi/2 to every row), then by index.

    *Determinism*: same bits for any number of threads, ranks, instruction set, division of the work and device (the
    angles of "arccos" may differ in the last place between machines; their order does not).

    *Memory*: the result; (2 D + 28) bytes a row of y, and of x unless it is y (4 D + 28 on processors without
    bfloat16 products); 8 (2 k + 64) bytes a row of x. Nothing of size N x M.

    Not differentiable: gradients stop at the features; gather them and use `pairwise_distance` where needed.

    Raises:
        TypeError: an argument of the wrong type, dtype or layout.
        ValueError: wrong shapes, devices that differ, an unknown metric, k out of range, NaN or Inf.
    """
    found = neighbours(
        x,
        y,
        k,
        metric=metric,
        exclude_self=exclude_self,
        check_finite=check_finite,
        progress=progress,
        group=group,
    )
    return Nearest(from_squared(found.squared, metric).to(x.dtype), found.indices)


def neighbours(
    x: Tensor,
    y: Tensor,
    k: int,
    *,
    metric: str = "euclidean",
    exclude_self: bool = False,
    farthest: bool = False,
    check_finite: bool = True,
    progress: bool = False,
    group: Any = None,
) -> Neighbours:
    """`nearest` with squared distances in float64 and, with ``farthest``, the largest one of each row of x.

    "Squared" is |a - b|^2 of the rows as given for the euclidean metrics, of rows scaled to length one (2 - 2 cos)
    for the angular ones. ``farthest`` looks at every row of y, whatever ``exclude_self`` says.

    *Shapes*, *NaN*, *Ties*, *Determinism*, *Memory*, errors: as `nearest`; ``farthest`` takes 512 bytes a row of x
    more.
    """
    _check(x, y, k, metric, exclude_self, farthest, check_finite, progress, group)
    same = y is x
    x = x.detach()
    y = x if same else y.detach()
    angular = metric in ANGULAR
    native = _STATUS.cuda if x.is_cuda else _STATUS.native and x.device.type in ("cpu", "meta")
    if not native:
        return reference(x, y, k, metric=metric, exclude_self=exclude_self, farthest=farthest)
    if group is None:
        return _run(x, y, k, angular, same, exclude_self, farthest, progress)

    begin, end = _shards.span(x.shape[0], group)
    # Row i of a share is not row i of y: one more neighbour, and the row itself is taken out afterwards.
    wider = min(k + exclude_self, y.shape[0])
    mine = _run(x[begin:end], y, wider, angular, False, False, farthest, progress)
    squared, indices = mine.squared, mine.indices
    if exclude_self:
        own = indices == torch.arange(begin, end, device=x.device)[:, None]
        own[~own.any(1), -1] = True
        squared, indices = (part[~own].view(end - begin, k) for part in (squared, indices))
    everything = [_shards.gather_rows(part, x.shape[0], group) for part in (squared, indices)]
    far = _shards.gather_rows(mine.farthest, x.shape[0], group) if farthest else mine.farthest
    return Neighbours(everything[0], everything[1], far)


def from_squared(squared: Tensor, metric: str) -> Tensor:
    """The distance of that name from the squared one of `neighbours`.

    *Shapes*: any. *NaN*: stays. *Ties*, *Determinism*: elementwise and monotone. *Memory*: the result.
    """
    if metric == "sqeuclidean":
        return squared
    if metric == "cosine":
        return (squared / 2).clamp(max=2)
    root = _sqrt(squared)
    if metric == "euclidean":
        return root
    sine = (root / 2).clamp(max=1)
    return 2 * (torch.from_numpy(np.arcsin(sine.numpy())) if _in_numpy(sine) else torch.asin(sine))


def _sqrt(value: Tensor) -> Tensor:
    """Correctly rounded, and so the same wherever an element lies. torch's float64 square root on the CPU is neither:
    it differs in the last place between the vectorised part of a tensor and the rest."""
    return torch.from_numpy(np.sqrt(value.numpy())) if _in_numpy(value) else value.sqrt()


def _in_numpy(value: Tensor) -> bool:
    return value.device.type == "cpu" and value.numel() > 0 and check.has_values(value)


def neighbours_of_both(
    query: Tensor, gallery: Tensor, k: int, *, metric: str, progress: bool = False, group: Any = None
) -> Neighbours:
    """`neighbours` of all rows of both among themselves, queries first, with ``farthest``: what
    ``torch.cat([query, gallery])`` would give, without that copy where the two lie in memory alike.

    *Shapes*, *NaN*, *Ties*, *Determinism*, *Memory*: as `neighbours`. Arguments have been checked.
    """
    native = _STATUS.native and query.device.type == "cpu"
    if group is not None or not native or query.stride() != gallery.stride():
        x = torch.cat([query, gallery])
        calls: dict[str, Any] = {
            "farthest": True,
            "check_finite": False,
            "progress": progress,
            "group": group,
        }
        return neighbours(x, x, k, metric=metric, **calls)
    work = float(len(query) + len(gallery)) ** 2 * query.shape[1] / 2
    flags = metric in ANGULAR, False, True, False
    return _in_parts(query, gallery, (len(query) + len(gallery), k), flags, True, work, progress)


def _run(
    x: Tensor,
    y: Tensor,
    k: int,
    angular: bool,
    same: bool,
    exclude_self: bool,
    farthest: bool,
    progress: bool,
) -> Neighbours:
    work = float(x.shape[0]) * y.shape[0] * x.shape[1] / (2 if same else 1)
    if work <= _PART or x.device.type != "cpu":
        return Neighbours(*torch.ops.fastreid.nearest(x, y, k, angular, same, exclude_self, farthest))
    flags = angular, same, False, exclude_self
    return _in_parts(x, y, (x.shape[0], k), flags, farthest, work, progress)


def _in_parts(
    x: Tensor,
    y: Tensor,
    shape: tuple[int, int],
    flags: tuple[bool, bool, bool, bool],
    farthest: bool,
    work: float,
    progress: bool,
) -> Neighbours:
    """``flags``: angular, same, joined, exclude_self."""
    ops = torch.ops.fastreid
    parts = max(1, min(512, math.ceil(work / _PART)))
    state = torch.empty(ops.nearest_state(x, y, shape[1], *flags[:3], farthest), dtype=torch.uint8)
    squared = torch.empty(shape, dtype=torch.float64)
    indices = torch.empty(shape, dtype=torch.int64)
    far = torch.empty(shape[0] if farthest else 0, dtype=torch.float64)
    with _progress.bar(progress, parts, _OP) as bar:
        for part in range(parts):
            ops.nearest_part(x, y, *flags, part, parts, state, squared, indices, far)
            bar.update()
    return Neighbours(squared, indices, far)


def reference(
    x: Tensor,
    y: Tensor,
    k: int,
    *,
    metric: str = "euclidean",
    exclude_self: bool = False,
    farthest: bool = False,
) -> Neighbours:
    """`neighbours` in plain torch: the specification, and what runs where the native library does not.

    Squared distances are added up as the kernels do: eight interleaved float64 sums, folded at the end. Same bits,
    blocks of rows in memory; arguments are not checked.
    """
    rows = max(1, 2**21 // max(1, 8 * y.shape[0]))
    found = []
    for begin in range(0, max(1, x.shape[0]), rows):
        squared = squared_rows(x[begin : begin + rows], y, metric)
        far = squared.amax(1) if farthest else squared.new_empty(0)
        candidates = squared
        if exclude_self:
            candidates = squared.clone()
            row = torch.arange(squared.shape[0], device=x.device)
            candidates[row, row + begin] = torch.inf
        values, indices = torch.sort(candidates, dim=1, stable=True)
        found.append((values[:, :k], indices[:, :k], far))
    return Neighbours(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def squared_rows(x: Tensor, y: Tensor, metric: str) -> Tensor:
    """(N, M) squared distances in float64, as the kernels define them: eight interleaved sums, folded at the end.

    *Shapes*: x (N, D), y (M, D), any floating dtype. *NaN*: stays. *Ties*: equal rows are at 0. *Determinism*: one
    order of additions. *Memory*: the result nine times.
    """
    a, a_zero = _scaled(x, metric)
    b, b_zero = _scaled(y, metric)
    return _squared(a, b).masked_fill_(a_zero[:, None] | b_zero, 2.0)


def _scaled(rows: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    """float64, padded with zeros to a multiple of 8 columns, of length one where the metric is angular; which rows
    are then zero (none otherwise)."""
    wide = rows.to(torch.float64)
    wide = torch.nn.functional.pad(wide, (0, -wide.shape[1] % 8))
    zero = torch.zeros(rows.shape[0], dtype=torch.bool, device=rows.device)
    if metric not in ANGULAR:
        return wide, zero
    square = _squared(wide, wide.new_zeros(1, wide.shape[1]))
    zero = square[:, 0] == 0
    inverse = torch.where(square == 0, 0.0, 1 / _sqrt(square))
    return wide * inverse, zero


def _squared(a: Tensor, b: Tensor) -> Tensor:
    lanes = a.new_zeros(a.shape[0], b.shape[0], 8)
    for k in range(0, a.shape[1], 8):
        difference = a[:, None, k : k + 8] - b[None, :, k : k + 8]
        lanes += difference * difference
    half = lanes[..., :4] + lanes[..., 4:]
    return (half[..., 0] + half[..., 2]) + (half[..., 1] + half[..., 3])


def _check(
    x: object,
    y: object,
    k: object,
    metric: object,
    exclude_self: object,
    farthest: object,
    check_finite: object,
    progress: object,
    group: object,
) -> None:
    check.choice(_OP, "metric", metric, METRICS)
    flags = (
        ("exclude_self", exclude_self),
        ("farthest", farthest),
        ("check_finite", check_finite),
        ("progress", progress),
    )
    for name, value in flags:
        check.flag(_OP, name, value)
    check.positive_int(_OP, "k", k)
    tensors = []
    for name, value in (("x", x), ("y", y)):
        tensors.append(check.tensor(_OP, name, value))
        check.floating(_OP, name, tensors[-1])
        check.rank(_OP, name, tensors[-1], 2, f"({'N' if name == 'x' else 'M'}, D)")
    first, second = tensors
    check.same_dtype(_OP, "y", second, "x", first)
    check.same_device(_OP, "y", second, "x", first)
    check.not_empty(_OP, "x", first, 1, "the length of the rows")
    check.size(_OP, "y", second, 1, first.shape[1], "the length of the rows of x")
    check.not_empty(_OP, "y", second, 0, "the rows to find neighbours among")
    if second.shape[0] >= 2**31:
        raise ValueError(check.message(_OP, "y", f"{second.shape[0]} rows", "fewer than 2**31"))
    if exclude_self and first.shape[0] != second.shape[0]:
        got = f"{first.shape[0]} rows of x and {second.shape[0]} of y"
        raise ValueError(
            check.message(_OP, "exclude_self", got, "as many rows in both: row i leaves out row i")
        )
    most = second.shape[0] - bool(exclude_self)
    if not 1 <= int(k) <= most:  # type: ignore[call-overload] # an int, as checked
        raise ValueError(
            check.message(_OP, "k", k, f"1 to {most}, the rows of y{' but one' * bool(exclude_self)}")
        )
    _shards.check_group(_OP, group)
    if check_finite:
        for name, value in (("x", first), ("y", second))[: 1 if second is first else 2]:
            check.finite(_OP, name, value)
            check.finite_length(_OP, name, value)


def _fake(x, y, k, angular, same, exclude_self, farthest):
    return (
        x.new_empty(x.shape[0], k, dtype=torch.float64),
        x.new_empty(x.shape[0], k, dtype=torch.int64),
        x.new_empty(x.shape[0] if farthest else 0, dtype=torch.float64),
    )


def _fake_part(*arguments):
    return None


if _STATUS.native:
    torch.library.register_fake("fastreid::nearest", _fake)
    torch.library.register_fake("fastreid::nearest_part", _fake_part)
