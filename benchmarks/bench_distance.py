# SPDX-License-Identifier: Apache-2.0
"""pairwise_distance against one matrix product and against what people use. The floor is the product: 2 N M
D operations.

``pytest benchmarks/bench_distance.py --benchmark-only``, or run this file for a table: seconds, what that
is in billions of operations a second, times ours, and the largest error against float64 in units of
float32's last place of the largest distance.
"""

from __future__ import annotations

import statistics
import time

import pytest
import torch
from rivals.distance import Rival, available
from shapes import DISTANCE, Shape, features
from torch import Tensor

from fastreid_ops import pairwise_distance
from fastreid_ops.ops.distance import METRICS, reference

OURS = [
    Rival(
        "fastreid_ops", metric, lambda x, y, m=metric: pairwise_distance(x, y, metric=m, check_finite=False)
    )
    for metric in METRICS
]
CONTENDERS = OURS + [Rival("fastreid_ops, checked", "euclidean", pairwise_distance), *available()]
# Rounds of about a second each; the small shapes take more to come out of the clock's noise.
ROUNDS = {"market1501-quarter-512": 3, "market1501-quarter-2048": 3, "one-query-512": 10, "batch-64-2048": 50}


def error(rival: Rival, result: object, x: Tensor, y: Tensor) -> float:
    """On the first 16 queries, in units of float32's last place of the largest distance."""
    got = torch.as_tensor(result)[:16].double()
    want = reference(x[:16].double(), y.double(), metric=rival.metric)
    return ((got - want).abs().max() / want.max()).item() / torch.finfo(torch.float32).eps


def check(rival: Rival, result: object, x: Tensor, y: Tensor) -> None:
    """The rivals are right to a thousandth of the largest distance where theirs is a product; ours to two
    roundings."""
    if rival.metric is not None:
        assert error(rival, result, x, y) < (2 if rival.name.startswith("fastreid_ops") else 8192)


@pytest.mark.parametrize("shape", DISTANCE, ids=lambda shape: shape.name)
@pytest.mark.parametrize("rival", CONTENDERS, ids=lambda rival: f"{rival.name}-{rival.metric}")
def test_forward(checked, benchmark, rival, shape):
    benchmark.group = f"pairwise_distance {shape.name}"
    x, y = features(shape)
    checked(rival.run, lambda result: check(rival, result, x, y), x, y, rounds=ROUNDS[shape.name])


def _step(function):
    def run(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
        return torch.autograd.grad(function(x, y).sum(), (x, y))

    return run


STEPS = {
    "fastreid_ops": _step(lambda x, y: pairwise_distance(x, y, check_finite=False)),
    "torch.mm, norms, clamp, sqrt": _step(
        lambda x, y: (x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T).clamp_min(1e-12).sqrt()
    ),
    "torch.cdist": _step(torch.cdist),
}


@pytest.mark.parametrize("name", STEPS)
def test_forward_and_backward(checked, benchmark, name):
    benchmark.group = "pairwise_distance with gradient, batch-64-2048"
    x, y = features(DISTANCE[3])
    want = _step(reference)(x.double(), y.double())

    def verify(got):
        for value, expected in zip(got, want, strict=True):
            assert (value - expected).abs().max() <= 1e-4 * expected.abs().max()

    checked(STEPS[name], verify, x, y, rounds=50)


def _seconds(run, x: Tensor, y: Tensor, rounds: int) -> float:
    run(x, y)
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run(x, y)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _table(shape: Shape) -> None:
    x, y = features(shape)
    size = f"{shape.queries} x {shape.gallery} x {shape.depth}"
    print(f"\n{shape.name}: {size}, {torch.get_num_threads()} threads")
    ours: dict[str, float] = {}
    for rival in CONTENDERS:
        seconds = _seconds(rival.run, x, y, ROUNDS[shape.name])
        ours.setdefault(rival.metric or "", seconds)
        rate = 2e-9 * shape.queries * shape.gallery * shape.depth / seconds
        times = seconds / ours[rival.metric or "euclidean"]
        units = f"{error(rival, rival.run(x, y), x, y):10.2f}" if rival.metric else " " * 10
        name = f"{rival.name:30} {rival.metric or '':12}"
        print(f"  {name} {seconds * 1e3:10.3f} ms {rate:7.1f} {times:6.2f} {units}")


if __name__ == "__main__":
    for shape in DISTANCE:
        _table(shape)
