# SPDX-License-Identifier: Apache-2.0
"""Matrices on disk: what NumPy reads, whole or not there, by rows; and the distances that are written into them."""

import errno
import os

import numpy as np
import pytest
import torch

from fastreid_ops.config.plan import RerankEntry
from fastreid_ops.engine.competition.arrays import ArrayRows, array_file
from fastreid_ops.engine.competition.distances import BLOCK_BYTES, block_rows, write_distances
from fastreid_ops.evaluation import mean_distances, ranking_from_distances


def test_numpy_reads_it_and_rows_are_read_apart(tmp_path):
    path, values = tmp_path / "x.npy", torch.rand(11, 5)
    with array_file(path, (11, 5)) as append:
        for rows in (
            values.t().contiguous().t().split(4)
        ):  # columns lie side by side: written by rows all the same
            assert not path.exists()
            append(rows)
    assert list(tmp_path.iterdir()) == [path]
    whole = np.load(path)
    assert (whole.dtype, whole.flags.c_contiguous) == (np.float32, True)
    assert np.array_equal(whole, values.numpy())
    stored = ArrayRows(path)
    assert tuple(stored.shape) == (11, 5)
    for rows in (slice(0, 4), slice(8, 12), slice(0, 11), slice(11, 15)):
        assert torch.equal(stored[rows], values[rows])


def test_an_array_file_is_whole_or_not_there(tmp_path):
    def filled(*rows):
        with array_file(tmp_path / "x.npy", (3, 2)) as append:
            for each in rows:
                append(each)

    with pytest.raises(ValueError, match=r"x.npy: got 2 rows, expected 3"):
        filled(torch.ones(2, 2))
    with pytest.raises(ValueError, match=r"x.npy: got rows \(2, 2\) behind 2, expected \(3, 2\)"):
        filled(torch.ones(2, 2), torch.ones(2, 2))
    with pytest.raises(ValueError, match=r"got rows \(3, 1\)"):
        filled(torch.ones(3, 1))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_noticed_before_the_first_block(tmp_path, monkeypatch):
    def full(descriptor, offset, size):
        assert size == 4 * 9 * 11
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    asked = []
    with pytest.raises(OSError, match="No space left on device"):
        write_distances(
            [(torch.rand(9, 4), torch.rand(11, 4))],
            RerankEntry(method="none"),
            4,
            tmp_path / "d.npy",
            lambda: asked.append(1),
        )
    assert asked == []
    assert list(tmp_path.iterdir()) == []


def test_rows_of_a_block():
    assert block_rows(1024, 1000) == 1024
    assert (
        block_rows(1024, 880_000) * 880_000 * 4 <= BLOCK_BYTES < (block_rows(1024, 880_000) + 1) * 880_000 * 4
    )
    assert block_rows(1024, 10**9) == 1


def _memory(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))


def test_memory_is_that_of_blocks(tmp_path):
    """A matrix of 122 MiB, re-ranked over two pieces, written, and ranked three times over. Beside blocks of 2 MiB the
    peak has the encodings, the lists, and what torch loads when it is first asked for something.
    """
    generator = torch.Generator().manual_seed(0)
    pairs = [tuple(torch.randn(n, 8, generator=generator) for n in (4000, 8000)) for _ in range(2)]
    names = [f"q{n}.png" for n in range(4000)], [f"g{n}.png" for n in range(8000)]
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak begins anew
    before = _memory("VmRSS")
    write_distances(pairs, RerankEntry(k1=10), 64, tmp_path / "d.npy", lambda: None)
    assert (tmp_path / "d.npy").stat().st_size > 122 * 2**20
    matrices = [ArrayRows(tmp_path / "d.npy")] * 3
    assert len(ranking_from_distances(mean_distances(matrices, rows=64), *names, 20)) == 4000
    assert _memory("VmHWM") - before < 100 * 2**20
