# SPDX-License-Identifier: Apache-2.0
"""CMC, mAP and mINP straight from features: one sweep, no distance matrix (csrc/ranking/feature_ranking.h)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastreid_ops import _library
from fastreid_ops.ops import _checks, _progress, _ranking_reference, _relevance, _shards, nearest
from fastreid_ops.ops._relevance import Rules, Sides
from fastreid_ops.ops.distance import METRICS
from fastreid_ops.ops.ranking import RankMetrics

_OP = "rank_features"
_LIBRARY = _library.load()
# Multiplications between two looks at the progress bar and Ctrl-C: about a second on two cores. Each part packs the
# gallery again, which costs as much as a few hundred queries.
_PART = 5e11
# Bytes of the blocks of exact distances where the rules need whole rows of them.
_BLOCK = 256 * 2**20


def rank_features(
    query: Tensor,
    gallery: Tensor,
    query_pids: Tensor,
    gallery_pids: Tensor,
    query_camids: Tensor | None = None,
    gallery_camids: Tensor | None = None,
    *,
    metric: str = "euclidean",
    query_clothes: Tensor | None = None,
    gallery_clothes: Tensor | None = None,
    camera_rule: str = "same_pid",
    clothes_rule: str = "any",
    junk_pids: Sequence[int] = (),
    ap: str = "step",
    cmc: str = "first_hit",
    repeats: int | None = None,
    seed: int = 0,
    invalid: str = "skip",
    max_rank: int = 50,
    check_finite: bool = True,
    progress: bool = False,
    group: Any = None,
) -> RankMetrics:
    """`rank_metrics` of the distances between two sets of features, without the matrix.

    A product of rounded rows (bfloat16 where the processor multiplies it) counts most of the gallery as surely ahead
    of a match or surely behind; the few entries between are measured in float64. So the ranks are those of float64
    distances, whatever precision a distance matrix would have had.

    Args:
        metric: "euclidean", "sqeuclidean" (the same order), "cosine" or "arccos" (the same order).
        query_pids ... max_rank: as `rank_metrics`.
        check_finite: refuse NaN and Inf.
        progress: show a bar (tqdm) while it works.
        group: a torch.distributed group whose ranks share the queries. All call with the same inputs; all get the
            whole result.

    *Shapes*: query (Q, D) and gallery (G, D), one of float32, float64, bfloat16, float16, any strides; D and G at
    least 1, G less than 2^31; labels as in `rank_metrics`.

    *NaN*: NaN and Inf are refused; with ``check_finite=False`` a result that involves one means nothing.

    *Ties*: a total order, that of `nearest`: by the squared distance in float64 from the features as given, then by
    gallery index.

    *Determinism*: same bits for any number of threads, ranks, instruction set, division of the work and device.

    *Memory*: (2 D + 28) bytes a row of both sides (4 D + 28 on processors without bfloat16 products), for each thread
    40 bytes for each image of the largest identity, 96 times. ``cmc="single_gallery_shot"`` needs whole rows of
    distances: a float64 copy of the gallery, and blocks of at most 256 MiB of distances (of one query at least). On a
    GPU (2 D + 28) bytes a row and 96 MiB; identities of more than 1,024 images are measured exactly there, with a
    sixteenth of the packed gallery, at least 64 MiB, more.

    Not differentiable: gradients stop at the features.

    Raises:
        TypeError, ValueError: as `rank_metrics`; among them "no query has a match", counted by reason.
    """
    rules = Rules(camera_rule, clothes_rule, junk_pids, ap, cmc, repeats, seed, invalid, max_rank)
    sides = Sides(query_pids, gallery_pids, query_camids, gallery_camids, query_clothes, gallery_clothes)
    _check(query, gallery, sides, rules, metric, check_finite, progress, group)
    query, gallery = query.detach(), gallery.detach()
    sides = _relevance.as_int64(_OP, rules, sides)
    native = _LIBRARY.cuda if query.is_cuda else _LIBRARY.native and query.device.type in ("cpu", "meta")
    if not native:
        result = _from_reference(query, gallery, sides, rules, metric)
        _relevance.check_matches(_OP, rules, result.status)
        return result
    begin, end = _shards.span(query.shape[0], group)
    parts = _ranked(query, gallery, sides, rules, metric in nearest.ANGULAR, (begin, end), progress)
    # Queries are the rows here, so that the shares of the ranks can be put together.
    reals, counts, shares = (_shards.gather_rows(part, query.shape[0], group) for part in parts)
    reals, counts = (part.T.clone(memory_format=torch.contiguous_format) for part in (reals, counts))
    if cmc not in _relevance.BY_QUERY:
        shares = shares.new_empty(0, max_rank)
    curve, means = torch.ops.fastreid.ranking_summary(
        reals, counts, shares.contiguous(), _relevance.INVALID_RULES.index(invalid), max_rank
    )
    first_rank, cmc_rank, num_relevant, status, _ = counts.unbind()
    _relevance.check_matches(_OP, rules, status)
    return RankMetrics(curve, *means.unbind(), *reals.unbind(), first_rank, num_relevant, status, cmc_rank)


def _ranked(
    query: Tensor,
    gallery: Tensor,
    sides: Sides,
    rules: Rules,
    angular: bool,
    span: tuple[int, int],
    progress: bool,
) -> list[Tensor]:
    """reals (q, 2), counts (q, 5) and shares (q, max_rank or 0) of the queries of this span."""
    relevance = _relevance.native(rules, sides)
    by_distance = rules.cmc == "single_gallery_shot"
    if by_distance:
        rows = max(1, _BLOCK // (8 * gallery.shape[0]))
    elif query.is_cuda:
        rows = max(1, query.shape[0])
    else:
        rows = max(1, math.floor(_PART / (float(gallery.shape[0]) * gallery.shape[1])))
        rows = -(-rows // 96) * 96  # whole items of the kernel
    found = []
    starts = range(span[0], max(span[1], span[0] + 1), rows)
    rank = _rank_rows if by_distance else _rank_features
    with _progress.bar(progress, len(starts), _OP) as bar:
        for first in starts:
            last = min(span[1], first + rows)
            reals, counts, shares = rank(query, gallery, relevance, rules, angular, slice(first, last))
            if rules.cmc not in _relevance.BY_QUERY:
                shares = shares.new_empty(counts.shape[1], 0)
            found.append((reals.T, counts.T, shares))
            bar.update()
    return [torch.cat(parts) for parts in zip(*found, strict=True)]


def _rank_features(
    query: Tensor,
    gallery: Tensor,
    relevance: _relevance.NativeRelevance,
    rules: Rules,
    angular: bool,
    rows: slice,
) -> tuple[Tensor, ...]:
    some = _relevance.of_queries(relevance, rows)
    return torch.ops.fastreid.rank_features(query[rows], gallery, angular, *some, *rules.codes())


def _rank_rows(
    query: Tensor,
    gallery: Tensor,
    relevance: _relevance.NativeRelevance,
    rules: Rules,
    angular: bool,
    rows: slice,
) -> tuple[Tensor, ...]:
    """By way of a block of distances in float64."""
    metric = METRICS.index("cosine" if angular else "sqeuclidean")
    squared = torch.ops.fastreid.pairwise_distance(query[rows].double(), gallery.double(), metric)
    some = _relevance.of_queries(relevance, rows)
    _, _, *parts = torch.ops.fastreid.rank_metrics(squared, *some, *rules.codes(), rows.start)
    return tuple(parts)


def reference(
    query: Tensor,
    gallery: Tensor,
    query_pids: Tensor,
    gallery_pids: Tensor,
    query_camids: Tensor | None = None,
    gallery_camids: Tensor | None = None,
    *,
    metric: str = "euclidean",
    query_clothes: Tensor | None = None,
    gallery_clothes: Tensor | None = None,
    **rules: object,
) -> RankMetrics:
    """`rank_features` in plain torch: the specification, and what runs where the native library does not.

    The reference of `rank_metrics` on the exact squared distances of `nearest`. ``rules``: the other keyword
    arguments of `rank_metrics`, but ``check_finite``. Arguments are not checked.
    """
    sides = Sides(query_pids, gallery_pids, query_camids, gallery_camids, query_clothes, gallery_clothes)
    return _from_reference(query, gallery, sides, Rules(**rules), metric)


def _from_reference(query: Tensor, gallery: Tensor, sides: Sides, rules: Rules, metric: str) -> RankMetrics:
    squared = nearest.squared_rows(query, gallery, metric)
    return RankMetrics(*_ranking_reference.metrics(squared, sides, rules))


def _check(
    query: object,
    gallery: object,
    sides: Sides,
    rules: Rules,
    metric: object,
    check_finite: object,
    progress: object,
    group: object,
) -> None:
    _checks.choice(_OP, "metric", metric, METRICS)
    _checks.flag(_OP, "check_finite", check_finite)
    _checks.flag(_OP, "progress", progress)
    tensors = []
    for name, value in (("query", query), ("gallery", gallery)):
        tensors.append(_checks.tensor(_OP, name, value))
        _checks.floating(_OP, name, tensors[-1])
        _checks.rank(_OP, name, tensors[-1], 2, f"({'Q' if name == 'query' else 'G'}, D)")
    x, y = tensors
    _checks.same_dtype(_OP, "gallery", y, "query", x)
    _checks.same_device(_OP, "gallery", y, "query", x)
    _checks.not_empty(_OP, "query", x, 1, "the length of the rows")
    _checks.size(_OP, "gallery", y, 1, x.shape[1], "the length of the rows of query")
    why = "an empty gallery ranks nothing: check the gallery list and how it was filtered"
    _checks.not_empty(_OP, "gallery", y, 0, why)
    _relevance.check_rules(_OP, rules)
    if rules.cmc == "single_gallery_shot" and x.is_cuda:
        got = '"single_gallery_shot" with features on CUDA'
        raise ValueError(
            _checks.message(_OP, "cmc", got, "features on the CPU (query.cpu(), gallery.cpu()) for it")
        )
    _relevance.check_sides(_OP, rules, sides, (x.shape[0], y.shape[0]), "query", x)
    _shards.check_group(_OP, group)
    if check_finite:
        for name, value in (("query", x), ("gallery", y)):
            _checks.finite(_OP, name, value)
            _checks.finite_length(_OP, name, value)


def _fake(query, gallery, *arguments):
    queries, max_rank, cmc = query.shape[0], arguments[-3], _relevance.CMC_RULES[arguments[-5]]
    return (
        query.new_empty(2, queries, dtype=torch.float64),
        query.new_empty(5, queries, dtype=torch.int64),
        query.new_empty(queries if cmc in _relevance.BY_QUERY else 0, max_rank, dtype=torch.float64),
    )


def _fake_summary(reals, counts, shares, invalid, max_rank):
    return reals.new_empty(max_rank), reals.new_empty(2)


if _LIBRARY.native:
    torch.library.register_fake("fastreid::rank_features", _fake)
    torch.library.register_fake("fastreid::ranking_summary", _fake_summary)
