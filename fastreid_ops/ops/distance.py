# SPDX-License-Identifier: Apache-2.0
"""All distances between two sets of feature rows (csrc/distance)."""

from __future__ import annotations

import torch
from torch import Tensor

from fastreid_ops import _library
from fastreid_ops.ops import _checks as check

METRICS = ("euclidean", "sqeuclidean", "cosine", "arccos")

_OP = "pairwise_distance"
_STATUS = _library.load()
_ANGULAR = ("cosine", "arccos")


def pairwise_distance(
    x: Tensor, y: Tensor, *, metric: str = "euclidean", check_finite: bool = True
) -> Tensor:
    """Distance of every row of ``x`` to every row of ``y``.

    ======================  ==============================================================================
    ``metric``              distance of rows a and b
    ======================  ==============================================================================
    ``euclidean``           ``|a - b|``
    ``sqeuclidean``         ``|a - b|^2``
    ``cosine``              ``1 - cos(a, b)``, in [0, 2]
    ``arccos``              the angle between a and b in radians, in [0, pi]
    ======================  ==============================================================================

    ``arccos`` is the exact angle. The NAIC 2020 re-identification systems that rank by it (fast-reid,
    NAIC_ReID) compute ``arccos(clip(cos, -1 + 1e-5, 1 - 1e-5))`` in float32, under which every angle below
    0.0045 is the same.

    *Shapes*: x (..., N, D) and y (..., M, D) give (..., N, M); leading dimensions broadcast, D is at least
    1, N or M of 0 gives an empty result. Both float32, float64, bfloat16 or float16, as is the result (half
    types are computed in float32; under autocast they become float32). Any strides, without a copy.

    *NaN*: finite rows never give NaN or a negative distance. NaN and Inf are refused, unless
    ``check_finite=False``: then a NaN in a row makes all its distances NaN. The check reads x and y once
    more, a tensor that is both only once, and waits for a GPU; it is left out under torch.compile,
    torch.export and vmap. A row of zeros has cosine distance 1 and angle pi/2 to every row.

    *Ties*: equal rows are at distance 0 exactly, ``d(x, y)`` and ``d(y, x)`` are the same bits. Gradients
    are finite: 0 at distance 0 (euclidean, arccos), at angle pi and for a row of zeros (cosine, arccos).
    First derivatives only.

    *Determinism*: an entry depends on its two rows alone: same bits for any number of threads and any other
    rows. AVX2 and AVX-512 agree bit for bit; machines without fused multiply-add and GPUs may differ in the
    last places.

    *Memory*: the result, and for each CPU thread about 3 MiB of packed rows (more only where 46 rows alone
    exceed that). On a GPU 16 bytes a row for the angular metrics. The gradient: its result, and for each
    thread 32 rows of D float64 twice (on a GPU 8 D bytes for each row of x); where x and y are one tensor, one
    more matrix of the size of the result, and half the work.

    Raises:
        TypeError: an argument of the wrong type, dtype or layout.
        ValueError: wrong shapes, devices that differ, an unknown metric, NaN or Inf.
    """
    check.choice(_OP, "metric", metric, METRICS)
    check.flag(_OP, "check_finite", check_finite)
    for name, value in (("x", x), ("y", y)):
        check.tensor(_OP, name, value)
        check.floating(_OP, name, value)
    check.same_dtype(_OP, "y", y, "x", x)
    check.same_device(_OP, "y", y, "x", x)
    check.rank(_OP, "x", x, 2, "(..., N, D)", or_more=True)
    check.rank(_OP, "y", y, 2, "(..., M, D)", or_more=True)
    check.not_empty(_OP, "x", x, -1, "the length of the rows")
    check.size(_OP, "y", y, -1, x.shape[-1], "the length of the rows of x")
    if x.shape[:-2] != y.shape[:-2]:
        batch = _broadcast(x, y)
        x, y = x.expand(*batch, *x.shape[-2:]), y.expand(*batch, *y.shape[-2:])
    if check_finite:
        check.finite(_OP, "x", x)
        if y is not x:
            check.finite(_OP, "y", y)
    native = _STATUS.cuda if x.is_cuda else _STATUS.native and x.device.type in ("cpu", "meta")
    if native:
        return torch.ops.fastreid.pairwise_distance(x, y, METRICS.index(metric))
    return reference(x, y, metric=metric)


def _broadcast(x: Tensor, y: Tensor) -> tuple[int, ...]:
    try:
        return torch.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    except RuntimeError as error:
        got = f"leading dimensions {tuple(y.shape[:-2])}"
        want = f"what broadcasts with {tuple(x.shape[:-2])}, those of x"
        raise ValueError(check.message(_OP, "y", got, want)) from error


def reference(x: Tensor, y: Tensor, *, metric: str = "euclidean") -> Tensor:
    """The specification of ``pairwise_distance`` in plain torch: differences first, then the sum of their
    squares.

    Takes what ``pairwise_distance`` takes, checks nothing, works on any device and can be differentiated
    any number of times; slow, with blocks of at most 16 million differences in memory (all of them while a
    gradient is recorded).
    """
    half = x.dtype in (torch.bfloat16, torch.float16)
    a, b = (x.float(), y.float()) if half else (x, y)
    zero = None
    if metric in _ANGULAR:
        a, a_zero = _unit(a)
        b, b_zero = _unit(b)
        zero = a_zero.unsqueeze(-1) | b_zero.unsqueeze(-2)
    rows = max(1, 2**24 // max(1, b.numel()))
    parts = [_distances(part, b, metric) for part in a.split(rows, dim=-2)]
    result = torch.cat(parts, dim=-2) if len(parts) > 1 else parts[0]
    if zero is not None:
        result = result.masked_fill(zero, 1.0 if metric == "cosine" else torch.pi / 2)
    return result.to(x.dtype)


def _distances(a: Tensor, b: Tensor, metric: str) -> Tensor:
    a, b = a.unsqueeze(-2), b.unsqueeze(-3)
    square = (a - b).square().sum(-1)
    if metric == "sqeuclidean":
        return square
    if metric == "cosine":
        return square / 2
    if metric == "euclidean":
        return _root(square)
    return 2 * torch.atan2(_root(square), _root((a + b).square().sum(-1)))


def _root(square: Tensor) -> Tensor:
    """Square root with gradient 0 at 0."""
    zero = square == 0
    return square.masked_fill(zero, 1).sqrt().masked_fill(zero, 0)


def _unit(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of length 1 (rows of zeros stay zeros), and which rows are zeros."""
    norm = _root(rows.square().sum(-1))
    zero = norm == 0
    return rows / norm.masked_fill(zero, 1).unsqueeze(-1), zero


def _setup_context(ctx, inputs, output) -> None:
    x, y, ctx.metric = inputs
    ctx.same = x is y
    ctx.save_for_backward(x, y, output)


def _backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    x, y, distance = ctx.saved_tensors
    gradient = torch.ops.fastreid.pairwise_distance_backward
    if ctx.same:  # a set against itself, as in every loss on a batch: both gradients in one sweep
        return gradient(grad + grad.mT, distance, x, y, ctx.metric), None, None
    grad_x = gradient(grad, distance, x, y, ctx.metric) if ctx.needs_input_grad[0] else None
    grad_y = gradient(grad.mT, distance.mT, y, x, ctx.metric) if ctx.needs_input_grad[1] else None
    return grad_x, grad_y, None


def _no_second_derivative(ctx, grad: Tensor) -> None:
    raise NotImplementedError(
        f"{_OP}: second derivative: got a gradient of its gradient, expected first derivatives only "
        "(fastreid_ops.ops.distance.reference can be differentiated any number of times)"
    )


def _fake(x: Tensor, y: Tensor, metric: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], y.shape[-2])


def _fake_backward(grad: Tensor, distance: Tensor, x: Tensor, y: Tensor, metric: int) -> Tensor:
    return x.new_empty(x.shape)


def _vmap(op):
    """vmap is one more leading dimension, the same for every tensor; what is not batched gets it as a
    0-stride view."""

    def rule(info, in_dims, *args):
        batched = (
            (value.expand(info.batch_size, *value.shape) if dim is None else value.movedim(dim, 0))
            if isinstance(value, Tensor)
            else value
            for value, dim in zip(args, in_dims, strict=True)
        )
        return op(*batched), 0

    return rule


def _register() -> None:
    library = torch.library
    library.register_fake("fastreid::pairwise_distance", _fake)
    library.register_fake("fastreid::pairwise_distance_backward", _fake_backward)
    library.register_autograd("fastreid::pairwise_distance", _backward, setup_context=_setup_context)
    # Without this a second derivative would be wrong with a warning.
    library.register_autograd("fastreid::pairwise_distance_backward", _no_second_derivative)
    for device in ("cpu", "cuda"):
        library.register_autocast("fastreid::pairwise_distance", device, torch.float32)
    for op in (torch.ops.fastreid.pairwise_distance, torch.ops.fastreid.pairwise_distance_backward):
        library.register_vmap(op.default, _vmap(op))


if _STATUS.native:
    _register()
