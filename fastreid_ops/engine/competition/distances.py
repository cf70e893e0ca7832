# SPDX-License-Identifier: Apache-2.0
"""Distances of one model on one half, written in blocks of rows: exact re-ranking, NAIC_ReID's approximation of it,
or the angle.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from fastreid_ops import k_reciprocal, k_reciprocal_blocks, pairwise_distance
from fastreid_ops.config.plan import RerankEntry
from fastreid_ops.engine.competition.arrays import array_file

Pairs = Sequence[tuple[Tensor, Tensor]]

# Of a block in float32, however many rows are asked for: with a gallery of half a million 1,024 rows are 2 GiB.
BLOCK_BYTES = 256 * 2**20


def block_rows(asked: int, gallery: int) -> int:
    """Rows of a block: `asked`, or as many as `BLOCK_BYTES` hold, at least one."""
    return max(1, min(asked, BLOCK_BYTES // (4 * gallery)))


def distance_blocks(pairs: Pairs, rerank: RerankEntry, rows: int) -> Iterator[Tensor]:
    """(at most ``rows``, G) float32 blocks from the first query on, summed over the pieces of the feature."""
    if rerank.method == "none":
        return angle_blocks(pairs, rows)
    settings = {"k1": rerank.k1, "k2": rerank.k2, "lambda_value": rerank.lambda_value}
    if rerank.method == "chunked":
        return chunked_blocks(pairs, tuple(rerank.chunk), **settings)
    return k_reciprocal_blocks(pairs, rows=rows, variant="naic", metric="cosine", **settings)


def chunked_blocks(
    pairs: Pairs, chunk: tuple[int, int] = (300, 600), *, k1: int = 30, k2: int = 2, lambda_value: float = 0.8
) -> Iterator[Tensor]:
    """What NAIC_ReID's disabled code does to save memory: each block of `chunk` queries and gallery pictures is
    re-ranked as if there were no others, so that neighbours, largest distances and overlaps are those of the block.
    An approximation to compare with; the exact result takes no more memory here. Blocks of (chunk[0], G).

    The original stops at a block of fewer than k1 + 1 pictures; here its lists hold all of them.
    """
    settings = {"k1": k1, "k2": k2, "lambda_value": lambda_value, "variant": "naic", "metric": "cosine"}
    for first in range(0, pairs[0][0].shape[0], chunk[0]):
        total = torch.zeros(1, device=pairs[0][0].device)
        for query, gallery in pairs:
            some = query[first : first + chunk[0]]
            parts = [k_reciprocal(some, part, **settings) for part in gallery.split(chunk[1])]
            total = total + torch.cat(parts, 1)
        yield total


def angle_blocks(pairs: Pairs, rows: int) -> Iterator[Tensor]:
    """Angles in radians, summed over the pieces."""
    for first in range(0, pairs[0][0].shape[0], rows):
        yield sum(
            pairwise_distance(query[first : first + rows], gallery, metric="arccos")
            for query, gallery in pairs
        )


def write_distances(
    pairs: Pairs, rerank: RerankEntry, rows: int, target: Path, check: Callable[[], None]
) -> None:
    """The blocks into a (Q, G) .npy file, of which never more than one is there."""
    shape = (pairs[0][0].shape[0], pairs[0][1].shape[0])
    with array_file(target, shape) as append:
        for block in distance_blocks(pairs, rerank, rows):
            check()
            append(block)
