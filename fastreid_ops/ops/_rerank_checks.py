# SPDX-License-Identifier: Apache-2.0
"""Argument checks of the re-ranking functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fastreid_ops._library import LibraryStatus
from fastreid_ops.ops import _checks as check
from fastreid_ops.ops._rerank_sparse import METRICS, VARIANTS, finite

MATRICES = ("query_gallery", "query_query", "gallery_gallery")
# The kernels count points in 32 bits, with room for their marks.
LARGEST = 2**30


def settings(
    op: str,
    k1: object,
    k2: object,
    lambda_value: object,
    variant: object,
    metric: object,
    memory_limit: object,
    progress: object,
) -> dict[str, Any]:
    """What the encoders take."""
    check.positive_int(op, "k1", k1)
    check.positive_int(op, "k2", k2)
    if isinstance(lambda_value, bool) or not isinstance(lambda_value, float | int):
        raise TypeError(
            check.message(op, "lambda_value", type(lambda_value).__name__, "a number between 0 and 1")
        )
    if not 0 <= lambda_value <= 1:
        raise ValueError(check.message(op, "lambda_value", lambda_value, "a number between 0 and 1"))
    check.choice(op, "variant", variant, tuple(VARIANTS))
    check.choice(op, "metric", metric, METRICS)
    if memory_limit is not None:
        check.positive_int(op, "memory_limit", memory_limit)
    check.flag(op, "progress", progress)
    return {
        "k1": k1,
        "k2": k2,
        "lambda_value": float(lambda_value),
        "variant": variant,
        "metric": metric,
        "limit": memory_limit,
    }


def top(op: str, value: object, gallery: int) -> None:
    if value is None:
        return
    check.positive_int(op, "top", value)
    if value > gallery:
        raise ValueError(check.message(op, "top", value, f"at most {gallery}, the size of the gallery"))


def rows(op: str, x: object, name: str = "x", shape: str = "(N, D)") -> None:
    x = check.tensor(op, name, x)
    check.floating(op, name, x)
    check.rank(op, name, x, 2, shape)
    check.not_empty(op, name, x, 0, "there is nothing to rank")
    check.not_empty(op, name, x, 1, "the length of the rows")
    _countable(op, name, x.shape[0])
    finite(op, name, x)


def features(op: str, query: object, gallery: object, suffix: str = "") -> None:
    """Two sets of rows of one length; ``suffix`` names the set they belong to."""
    names = (f"query{suffix}", f"gallery{suffix}")
    for name, value, shape in zip(names, (query, gallery), ("(Q, D)", "(G, D)"), strict=True):
        check.tensor(op, name, value)
        check.floating(op, name, value)
        check.rank(op, name, value, 2, shape)
        check.not_empty(op, name, value, 0, "there is nothing to rank")
        check.not_empty(op, name, value, 1, "the length of the rows")
    check.same_dtype(op, names[1], gallery, names[0], query)
    check.same_device(op, names[1], gallery, names[0], query)
    check.size(op, names[1], gallery, 1, query.shape[1], f"the length of the rows of {names[0]}")
    _countable(op, names[1], query.shape[0] + gallery.shape[0])
    finite(op, names[0], query)
    finite(op, names[1], gallery)


def matrices(op: str, *given: object) -> None:
    for name, value in zip(MATRICES, given, strict=True):
        check.tensor(op, name, value)
        check.floating(op, name, value)
        check.rank(op, name, value, 2, "(rows, columns)")
    query_gallery, query_query, gallery_gallery = given
    for dim, side in enumerate(("queries", "gallery entries")):
        check.not_empty(op, MATRICES[0], query_gallery, dim, f"there are no {side}")
        size = query_gallery.shape[dim]
        for place in (0, 1):
            why = f"one for each of the {side} of query_gallery"
            check.size(op, MATRICES[1 + dim], (query_query, gallery_gallery)[dim], place, size, why)
    for name, value in ((MATRICES[1], query_query), (MATRICES[2], gallery_gallery)):
        check.same_device(op, name, value, MATRICES[0], query_gallery)
    _countable(op, MATRICES[0], sum(query_gallery.shape))


def sets(op: str, pairs: object) -> Sequence[tuple[Tensor, Tensor]]:
    """Feature sets of the same queries and gallery."""
    if isinstance(pairs, Tensor) or not isinstance(pairs, Sequence):
        raise TypeError(check.message(op, "pairs", type(pairs).__name__, "a list of (query, gallery) pairs"))
    if not pairs:
        raise ValueError(check.message(op, "pairs", "no feature set", "at least one (query, gallery) pair"))
    for number, pair in enumerate(pairs):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            got = f"{type(pair).__name__} as number {number}"
            raise TypeError(check.message(op, "pairs", got, "(query, gallery) pairs"))
        features(op, *pair, suffix=f" of pairs[{number}]")
        for side, name in enumerate(("query", "gallery")):
            size, want = pair[side].shape[0], pairs[0][side].shape[0]
            if size != want:
                got = f"{size} rows of {name} as number {number}"
                raise ValueError(check.message(op, "pairs", got, f"{want}, as in the first set"))
    return pairs


def _countable(op: str, name: str, points: int) -> None:
    if points > LARGEST:
        raise ValueError(check.message(op, name, f"{points} points in all", "at most 2**30"))


def native(library: LibraryStatus, like: Tensor) -> bool:
    return library.cuda if like.is_cuda else library.native and like.device.type == "cpu"
