# SPDX-License-Identifier: Apache-2.0
"""Ranking files, as NAIC asks for them: for each query file the names of its first 200 gallery files, best first."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from torch import Tensor

from fastreid_ops._atomic import write_atomic
from fastreid_ops.ops import _checks
from fastreid_ops.ops.nearest import nearest

# Query name -> gallery names, best first.
Ranking = dict[str, list[str]]

# Queries searched at a time, so that the whole list of indices is never there.
_ROWS = 4096


def ranking_from_features(
    query_features: Tensor,
    gallery_features: Tensor,
    query_names: Sequence[str],
    gallery_names: Sequence[str],
    top: int = 200,
    *,
    metric: str = "cosine",
) -> Ranking:
    """The first ``top`` gallery names of each query, by exact search without a matrix of distances.

    Args:
        query_features, gallery_features: (Q, D) and (G, D).
        query_names, gallery_names: file names or paths; the last part of each is what is listed.
        top: names for each query; all of them where the gallery has fewer (the originals fail there).
        metric: as `fastreid_ops.nearest`. NAIC's angle orders as "cosine" does, but that it clips cosines at
            1 - 1e-5, so that near-duplicates tie there.

    Ties by gallery index. Memory: as `nearest`, 4,096 queries at a time.

    Raises:
        TypeError, ValueError: as `nearest`; other numbers of names than rows; one name twice on a side.
    """
    op = "ranking_from_features"
    _checks.rank(op, "query_features", _checks.tensor(op, "query_features", query_features), 2, "(Q, D)")
    _checks.rank(
        op, "gallery_features", _checks.tensor(op, "gallery_features", gallery_features), 2, "(G, D)"
    )
    _checks.positive_int(op, "top", top)
    size = gallery_features.shape[0]
    _checks.not_empty(op, "gallery_features", gallery_features, 0, "an empty gallery has nothing to list")
    blocks = (
        nearest(
            query_features[first : first + _ROWS], gallery_features, min(top, size), metric=metric
        ).indices
        for first in range(0, query_features.shape[0], _ROWS)
    )
    return _listed(op, blocks, query_features.shape[0], size, query_names, gallery_names)


def ranking_from_distances(
    distances: Tensor | Iterable[Tensor],
    query_names: Sequence[str],
    gallery_names: Sequence[str],
    top: int = 200,
) -> Ranking:
    """As `ranking_from_features`, from distances (re-ranked ones, say): one (Q, G) matrix, or its rows in blocks of
    (q, G) from the first query on, as `mean_distances` gives them. Memory beyond one block: a byte for each of its
    entries.

    Raises:
        TypeError, ValueError: as there; blocks that have other widths or do not make up the queries; NaN.
    """
    op = "ranking_from_distances"
    _checks.positive_int(op, "top", top)
    whole = [distances] if isinstance(distances, Tensor) else distances
    blocks = (_first_of(op, block, len(gallery_names), top) for block in whole)
    return _listed(op, blocks, len(query_names), len(gallery_names), query_names, gallery_names)


def ranking_from_indices(
    indices: Tensor, query_names: Sequence[str], gallery_names: Sequence[str]
) -> Ranking:
    """As `ranking_from_features`, from (Q, k) gallery indices, such as those of ``k_reciprocal(..., top=200)``."""
    op = "ranking_from_indices"
    _checks.integers(op, "indices", _checks.tensor(op, "indices", indices))
    _checks.rank(op, "indices", indices, 2, "(Q, k)")
    return _listed(op, [indices], indices.shape[0], len(gallery_names), query_names, gallery_names)


def write_ranking(path: str | os.PathLike[str], *rankings: Mapping[str, Sequence[str]]) -> Path:
    """Writes rankings as one JSON object, such as the green and the normal half of NAIC's test set; after a crash
    there is the old file or the new one, never a part of one.

    Raises:
        ValueError: no ranking, or a query in two of them.
    """
    if not rankings:
        raise ValueError("write_ranking: rankings: got none, expected at least one")
    union: dict[str, Sequence[str]] = {}
    for ranking in rankings:
        both = union.keys() & ranking.keys()
        if both:
            raise ValueError(
                f"write_ranking: rankings: got query {min(both)!r} in two of them, expected each query once"
            )
        union |= ranking
    path = Path(path)
    write_atomic(path, (json.dumps(union, ensure_ascii=False) + "\n").encode())
    return path


def _listed(
    op: str,
    blocks: Iterable[Tensor],
    queries: int,
    gallery: int,
    query_names: Sequence[str],
    gallery_names: Sequence[str],
) -> Ranking:
    sides = []
    for argument, names, count in (
        ("query_names", query_names, queries),
        ("gallery_names", gallery_names, gallery),
    ):
        if len(names) != count:
            raise ValueError(
                _checks.message(op, argument, f"{len(names)} names", f"{count}, one for each row")
            )
        short = [PurePosixPath(os.fspath(name).replace("\\", "/")).name for name in names]
        seen: set[str] = set()
        twice = next((name for name in short if name in seen or seen.add(name)), None)
        if twice is not None:
            got = f"the file name {twice!r} twice"
            raise ValueError(_checks.message(op, argument, got, "different file names"))
        sides.append(short)
    found: Ranking = {}
    for block in blocks:
        first = len(found)
        if first + len(block) > queries:
            got = f"rows of more than {queries} queries"
            raise ValueError(_checks.message(op, "distances", got, f"those of {queries}"))
        for name, indices in zip(sides[0][first:], block.tolist(), strict=False):
            found[name] = [sides[1][index] for index in indices]
    if len(found) != queries:
        got = f"rows of {len(found)} queries"
        raise ValueError(_checks.message(op, "distances", got, f"those of {queries}"))
    return found


def _first_of(op: str, block: Tensor, gallery: int, top: int) -> Tensor:
    """(q, k) indices in the order of (distance, index)."""
    _checks.floating(op, "distances", _checks.tensor(op, "distances", block))
    _checks.rank(op, "distances", block, 2, "(q, G)")
    _checks.size(op, "distances", block, 1, gallery, "one column for each gallery name")
    if bool(block.isnan().any()):
        raise ValueError(_checks.message(op, "distances", f"{int(block.isnan().sum())} NaN", "numbers"))
    count = min(top, gallery)
    indices = block.topk(count, dim=1, largest=False, sorted=False).indices.sort(dim=1).values
    values = block.gather(1, indices)
    indices = indices.gather(1, values.sort(dim=1, stable=True).indices)
    # topk is free to pick among several that are as far as the last; a stable sort of the whole row is not.
    several = (block <= values.amax(1, keepdim=True)).sum(1) > count
    for row in several.nonzero().flatten().tolist():
        indices[row] = block[row].sort(stable=True).indices[:count]
    return indices
