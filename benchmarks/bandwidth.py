# SPDX-License-Identifier: Apache-2.0
"""This machine's copy bandwidth, measured in the run that needs it: the floor of whatever reads and writes memory.

On a CPU:

Two buffers of 256 MiB, beyond the usual caches, written before. The better of two ways to copy one to the other, each
the fastest of ten rounds after one that does not count: torch's ``copy_``, and one ``memmove`` for each thread (whose
stores go past the cache), both with torch's number of threads. Bytes read and bytes written both count: 2 x 256 MiB
over the seconds. On a GPU: ``copy_`` between two buffers of 2 GiB, the fastest of ten likewise.
"""

from __future__ import annotations

import ctypes
import functools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

SIZE = 2**28
GPU_SIZE = 2**31
ROUNDS = 10


def _fastest(run: Callable[[], object]) -> float:
    run()
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


@functools.cache
def copy_bandwidth(device: str = "cpu", size: int | None = None) -> float:
    """Bytes a second, once for a process. ``size``: bytes of a buffer, where the usual ones are too large."""
    if device != "cpu":
        return 2 * (size or GPU_SIZE) / _gpu_copy(device, size or GPU_SIZE)
    size = size or SIZE
    source, target = torch.ones(size, dtype=torch.uint8), torch.zeros(size, dtype=torch.uint8)
    threads = torch.get_num_threads()
    piece = size // threads

    def move(i: int) -> None:
        ctypes.memmove(target.data_ptr() + i * piece, source.data_ptr() + i * piece, piece)

    with ThreadPoolExecutor(threads) as pool:
        times = [
            _fastest(lambda: target.copy_(source)),
            _fastest(lambda: list(pool.map(move, range(threads)))),
        ]
    return 2 * size / min(times)


def _gpu_copy(device: str, size: int) -> float:
    # Random bytes: how fast a device moves and multiplies can depend on what.
    source = torch.randint(256, (size,), dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)

    def run() -> None:
        target.copy_(source)
        torch.cuda.synchronize()

    return _fastest(run)


def floor_seconds(count: int, device: str = "cpu") -> float:
    """What reading or writing so many bytes takes at least."""
    return count / copy_bandwidth(device)
