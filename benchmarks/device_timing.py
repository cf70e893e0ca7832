# SPDX-License-Identifier: Apache-2.0
"""Timing on a device: its own events around the calls, medians over many rounds, several inputs in turn so that no
call finds its input in the cache, and graphs where the work is shorter than the time it takes to ask for it. On a CPU
the same with the clock."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

Call = Callable[[], object]


class Timing(NamedTuple):
    """Seconds of one call: the median over the rounds, the fastest and the slowest."""

    seconds: float
    fastest: float
    slowest: float
    rounds: int
    timer: str

    def facts(self) -> dict[str, object]:
        return self._asdict()


def synchronise(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def measure(calls: Call | Sequence[Call], device: str, *, rounds: int = 10, warm: int = 2) -> Timing:
    """Each round is all of ``calls`` once, one after the other; the time is that of one of them."""
    several = [calls] if callable(calls) else list(calls)
    for _ in range(warm):
        for call in several:
            call()
    synchronise(device)
    times = (_by_clock if device == "cpu" else _by_events)(several, rounds)
    each = [seconds / len(several) for seconds in times]
    return Timing(
        statistics.median(each), min(each), max(each), rounds, "clock" if device == "cpu" else "events"
    )


def _by_clock(calls: Sequence[Call], rounds: int) -> list[float]:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        for call in calls:
            call()
        times.append(time.perf_counter() - start)
    return times


def _by_events(calls: Sequence[Call], rounds: int) -> list[float]:
    marks = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(rounds)]
    for begin, end in marks:
        begin.record()
        for call in calls:
            call()
        end.record()
    torch.cuda.synchronize()
    return [begin.elapsed_time(end) * 1e-3 for begin, end in marks]


def in_graph(calls: Sequence[Call], device: str, *, rounds: int = 20) -> Timing:
    """As `measure`, the calls captured once and replayed: what the kernels take, without the host. On a CPU there is
    nothing to capture."""
    if device == "cpu":
        return measure(calls, device, rounds=rounds)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for call in calls:
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    found = measure(graph.replay, device, rounds=rounds)
    each = (part / len(calls) for part in found[:3])
    return Timing(*each, found.rounds, "graph")


def peak_bytes(call: Call, device: str) -> int | None:
    """Device memory beyond what was there before, at the highest; None on a CPU."""
    if device == "cpu":
        call()
        return None
    synchronise(device)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    synchronise(device)
    return torch.cuda.max_memory_allocated() - before
