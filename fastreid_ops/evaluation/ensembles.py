# SPDX-License-Identifier: Apache-2.0
"""The mean of several systems' distances, block by block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from fastreid_ops.ops import _checks


def mean_distances(matrices: Sequence[Any], *, rows: int = 1024) -> Iterator[Tensor]:
    """The unweighted mean of (Q, G) distances of several systems, in blocks of rows; NAIC's ensemble, whose sum over
    re-ranked matrices of six runs has the same order.

    Args:
        matrices: tensors, or arrays that give rows when sliced (``numpy.load(file, mmap_mode="r")`` reads only the
            block that is asked for). All of one shape; that rows and columns mean the same images in each is for the
            caller to see to (the originals do not look).
        rows: of a block.

    Yields:
        (at most ``rows``, G) float64 blocks, from the first query on.

    *Determinism*: sums go in the order given, in float64. *Memory*: one block of one matrix and one in float64.

    Raises:
        TypeError, ValueError: no matrix, other shapes, no numbers. Nothing is read before the first block is asked
            for, but shapes are.
    """
    op = "mean_distances"
    _checks.positive_int(op, "rows", rows)
    matrices = list(matrices)
    if not matrices:
        raise ValueError(_checks.message(op, "matrices", "none", "at least one"))
    shapes = [tuple(getattr(matrix, "shape", ())) for matrix in matrices]
    if len(shapes[0]) != 2 or len(set(shapes)) != 1:
        raise ValueError(_checks.message(op, "matrices", f"shapes {shapes}", "the same (Q, G) of each"))

    def blocks() -> Iterator[Tensor]:
        for first in range(0, shapes[0][0], rows):
            total = None
            for number, matrix in enumerate(matrices):
                block = _checks.tensor(op, f"matrices[{number}]", _as_tensor(matrix[first : first + rows]))
                _checks.floating(op, f"matrices[{number}]", block)
                # A copy in any case: the caller's matrix is not to be added to.
                total = (
                    block.to(torch.float64, copy=True)
                    if total is None
                    else total.to(block.device).add_(block)
                )
                del block
            yield total.div_(len(matrices))

    return blocks()


def _as_tensor(block: Any) -> Any:
    if isinstance(block, Tensor):
        return block.detach()
    # A block of a read-only file must be copied, or torch warns that it could be written to.
    return torch.tensor(block) if hasattr(block, "dtype") else block
