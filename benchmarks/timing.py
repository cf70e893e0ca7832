# SPDX-License-Identifier: Apache-2.0
"""Plain timing, for floors that are no benchmark of their own."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable


def seconds(run: Callable[[], object], rounds: int = 3) -> float:
    """Median time of a call."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def processor_seconds() -> float:
    """A clock of the processor time of this process and of its children that have ended, such as a loader's workers:
    what other programs on the machine do counts less than in wall time."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)
