# SPDX-License-Identifier: Apache-2.0
"""Matrices of float32 in .npy files, written and read by rows. Nothing is mapped: what a program holds is the block it
asked for, and a full disk is an error where it is noticed, not a signal later on.
"""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastreid_ops._atomic import sync_folder

_DTYPE = np.dtype("<f4")


@contextmanager
def array_file(path: Path, shape: tuple[int, int]) -> Iterator[Callable[[Tensor], None]]:
    """A .npy file to be filled with rows from the first on, by calling what this gives with some of them at a time.

    It takes its name when the block ends without an error and with all rows. Its place on the disk is taken before the
    first row. Errors: OSError, at once where the disk is too full; ValueError for other rows than `shape` says.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            header = {"descr": _DTYPE.str, "fortran_order": False, "shape": tuple(shape)}
            np.lib.format.write_array_header_1_0(file, header)
            file.flush()
            first = file.tell()
            os.posix_fallocate(file.fileno(), first, math.prod(shape) * _DTYPE.itemsize)
            written = 0

            def append(rows: Tensor) -> None:
                nonlocal written
                if rows.shape[1:] != tuple(shape[1:]) or written + len(rows) > shape[0]:
                    raise ValueError(
                        f"{path.name}: got rows {tuple(rows.shape)} behind {written}, expected {shape}"
                    )
                file.write(rows.detach().cpu().numpy().astype(_DTYPE, order="C", copy=False).data)
                written += len(rows)

            yield append
            if written != shape[0]:
                raise ValueError(f"{path.name}: got {written} rows, expected {shape[0]}")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


class ArrayRows:
    """Rows of a two-dimensional .npy file of float32: ``rows[first:last]`` reads these and nothing else."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            np.lib.format.read_magic(file)
            self.shape, _, _ = np.lib.format.read_array_header_1_0(file)
            self._begin = file.tell()

    def __getitem__(self, rows: slice) -> Tensor:
        first, last, _ = rows.indices(self.shape[0])
        width = self.shape[1]
        offset = self._begin + first * width * _DTYPE.itemsize
        block = np.fromfile(self.path, _DTYPE, max(0, last - first) * width, offset=offset)
        return torch.from_numpy(block).reshape(-1, width)
