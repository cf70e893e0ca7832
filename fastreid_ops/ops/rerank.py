# SPDX-License-Identifier: Apache-2.0
"""Re-ranking by k-reciprocal neighbours, exact and sparse (csrc/rerank).

Zhong, Zheng, Cao and Li, "Re-ranking Person Re-identification with k-reciprocal Encoding", CVPR 2017.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from fastreid_ops import _library
from fastreid_ops.ops import _checks, _shards
from fastreid_ops.ops import _rerank_blocks as blocks
from fastreid_ops.ops import _rerank_checks as checks
from fastreid_ops.ops import _rerank_fakes as fakes
from fastreid_ops.ops import _rerank_graph as graph
from fastreid_ops.ops import _rerank_reference as plain
from fastreid_ops.ops import _rerank_sparse as sparse
from fastreid_ops.ops._rerank_reference import reference as reference
from fastreid_ops.ops.nearest import Nearest

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

VARIANTS = tuple(sparse.VARIANTS)
METRICS = sparse.METRICS

_LIBRARY = _library.load()


class SparseDistances(NamedTuple):
    """Distances of N points to each other in compressed rows; a pair that is not there is at distance 1.

    Attributes:
        indptr: (N + 1,) int64, row r has entries indptr[r] to indptr[r + 1] - 1.
        indices: (E,) int64, ascending in each row; each point's distance to itself is among them.
        values: (E,) float32.
    """

    indptr: Tensor
    indices: Tensor
    values: Tensor

    def to_scipy(self) -> csr_matrix:
        """The same as a ``scipy.sparse.csr_matrix``, for ``sklearn.cluster.DBSCAN(metric="precomputed")``: with
        ``eps`` below 1 the pairs that are not there are no neighbours, which is what absent entries mean there."""
        from scipy.sparse import csr_matrix

        points = len(self.indptr) - 1
        parts = (part.cpu().numpy() for part in (self.values, self.indices, self.indptr))
        return csr_matrix(tuple(parts), shape=(points, points))


def k_reciprocal(
    query: Tensor,
    gallery: Tensor,
    *,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    variant: str = "zhong2017",
    metric: str = "euclidean",
    top: int | None = None,
    memory_limit: int | None = None,
    progress: bool = False,
    group: Any = None,
) -> Tensor | Nearest:
    """Distances of queries to gallery after k-reciprocal re-ranking: ``(1 - lambda) J + lambda d``.

    J is the Jaccard distance of the two points' k-reciprocal neighbourhoods, from exact neighbour lists among all
    N = Q + G points; d the original distance, in each variant as its implementation has it:

    ======================  ====================================================================================
    ``variant``             equals
    ======================  ====================================================================================
    ``zhong2017``           the authors' Python script: |x - y|^2, divided by the row's maximum; lists of k1 + 1
    ``torchreid``           torchreid's engine, whose ``re_ranking`` squares squared distances: |x - y|^4, likewise
    ``fastreid``            fast-reid's evaluator: ``compute_jaccard_distance`` (lists of k1, weights
                            softmax(-|x - y|^2)), blended with |x - y|^2 itself
    ``transreid``           TransReID and the strong baseline: as ``zhong2017``, everything sparse in float16
    ``naic``                NAIC_ReID's fast form: as ``zhong2017``, the expanded encoding in float16
    ======================  ====================================================================================

    With ``metric="cosine"`` the rows are scaled to length one first (and ``fastreid`` blends with 1 - cos).
    ``k1`` and ``k2`` may exceed the number of points: lists then hold all of them. ``group``, a torch.distributed
    group, shares the neighbour search and the rows of the result among its ranks: all call with the same inputs, all
    get the whole result.

    *Shapes*: query (Q, D), gallery (G, D), one floating dtype and device, Q, G and D at least 1, Q + G at most 2^30.
    Result (Q, G) float32; with ``top=r`` a ``Nearest``, distances (Q, r) float32 and indices (Q, r) int64: the head
    of the same result, without ever forming Q x G. Half types are computed in float32.

    *NaN*: NaN and Inf are refused. Where all distances of a row are zero, d is 0 there. A row of zeros has cosine
    distance 1 to every row.

    *Ties*: neighbour lists are ordered by (float64 squared distance, index), queries before gallery; ``top`` by
    (final distance, gallery index).

    *Determinism*: the same bits for any number of threads and ranks, ``memory_limit`` and instruction set, except as
    ``pairwise_distance`` says of d. Not differentiable.

    *Memory*: the result, what ``nearest`` says of the search (a copy of the features too, on a device, with a
    ``group`` and where query and gallery have different strides), N * (20 max(k1 + 1, k2) + 8) bytes of neighbour
    lists, the sparse encoding twice (8 bytes an entry, some 3 k1 entries a row), and blocks of at most 320 MiB of
    distances.
    ``memory_limit`` (bytes, for all but the result and the neighbour search) makes the blocks smaller; where even
    one row does not fit, the error says what is needed.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: wrong shapes or values, NaN or Inf, ``top`` above G, a ``memory_limit`` that is too small.
    """
    op = "k_reciprocal"
    settings = checks.settings(op, k1, k2, lambda_value, variant, metric, memory_limit, progress)
    checks.features(op, query, gallery)
    checks.top(op, top, gallery.shape[0])
    _shards.check_group(op, group)
    if not checks.native(_LIBRARY, query):
        settings.pop("limit")
        return _headed(reference(query, gallery, **settings), top)
    queries = query.shape[0]
    encoded = sparse.encode_features(query, gallery, op=op, progress=progress, group=group, **settings)
    mine = blocks.Share(encoded, *_shards.span(queries, group))
    found = _final(op, [mine], top, memory_limit, progress)
    if isinstance(found, Tensor):
        return _shards.gather_rows(found, queries, group)
    return Nearest(*(_shards.gather_rows(part, queries, group) for part in found))


def k_reciprocal_from_distances(
    query_gallery: Tensor,
    query_query: Tensor,
    gallery_gallery: Tensor,
    *,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    variant: str = "zhong2017",
    top: int | None = None,
    memory_limit: int | None = None,
    progress: bool = False,
) -> Tensor | Nearest:
    """``k_reciprocal`` from given distances, as ``re_ranking(q_g_dist, q_q_dist, g_g_dist)`` of torchreid,
    fast-reid and others.

    As there the given distances are squared, whatever they are: give Euclidean ones for the result of
    ``k_reciprocal``. (torchreid's engine gives squared ones; ``variant="torchreid"`` therefore changes nothing
    here.) Matrices need not be symmetric: the neighbours of point i are read down its column, as there.

    *Shapes*: query_gallery (Q, G), query_query (Q, Q), gallery_gallery (G, G), any floating dtypes and strides
    on one device; numbers are read as float32. Rows in one piece are read fastest. Result as ``k_reciprocal``.

    *NaN*: NaN and Inf are refused. Where a row's distances are all zero, d is 0 there.

    *Ties*: neighbour lists are ordered by (absolute value, index); ``top`` by (final distance, gallery index).

    *Determinism*: the same bits for any number of threads, ``memory_limit`` and instruction set.

    *Memory*: the result and what ``k_reciprocal`` says of lists and encoding. No copy of a matrix, but of blocks of
    query_gallery where its rows are not float32 in one piece.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: wrong shapes or values, NaN or Inf, ``top`` above G, a ``memory_limit`` that is too small.
    """
    op = "k_reciprocal_from_distances"
    settings = checks.settings(op, k1, k2, lambda_value, variant, "euclidean", memory_limit, progress)
    settings.pop("metric")
    matrices = (query_gallery, query_query, gallery_gallery)
    checks.matrices(op, *matrices)
    checks.top(op, top, query_gallery.shape[1])
    if not checks.native(_LIBRARY, query_gallery):
        for name, matrix in zip(checks.MATRICES, matrices, strict=True):
            sparse.finite(op, name, matrix)
        settings.pop("limit")
        return _headed(plain.reference_from_distances(*matrices, **settings), top)
    return _final(op, [sparse.encode_matrices(*matrices, op=op, **settings)], top, memory_limit, progress)


def k_reciprocal_ensemble(
    pairs: Sequence[tuple[Tensor, Tensor]],
    *,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    variant: str = "naic",
    metric: str = "cosine",
    top: int | None = None,
    memory_limit: int | None = None,
    progress: bool = False,
) -> Tensor | Nearest:
    """The unweighted sum of ``k_reciprocal`` over several feature sets of the same images: the ensemble of the
    NAIC 2020 systems.

    *Shapes*: pairs of query (Q, D_s) and gallery (G, D_s); Q and G are the same for all, the rest may differ.
    Result as ``k_reciprocal``.

    *NaN*: NaN and Inf are refused, and named with the set they are in.

    *Ties*: as ``k_reciprocal``.

    *Determinism*: as ``k_reciprocal``; sums in float32 in the order of the sets.

    *Memory*: as ``k_reciprocal``, one set at a time, and the encodings of all sets with ``top``.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: no set, sets that differ in Q or G, and what ``k_reciprocal`` refuses.
    """
    op = "k_reciprocal_ensemble"
    settings = checks.settings(op, k1, k2, lambda_value, variant, metric, memory_limit, progress)
    sets = checks.sets(op, pairs)
    checks.top(op, top, sets[0][1].shape[0])
    if not checks.native(_LIBRARY, sets[0][0]):
        settings.pop("limit")
        return _headed(sum(reference(*pair, **settings) for pair in sets), top)
    encoded = (sparse.encode_features(*pair, op=op, progress=progress, **settings) for pair in sets)
    return _final(op, encoded if top is None else list(encoded), top, memory_limit, progress)


def k_reciprocal_blocks(
    pairs: Sequence[tuple[Tensor, Tensor]],
    *,
    rows: int = 1024,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    variant: str = "naic",
    metric: str = "cosine",
    progress: bool = False,
) -> Iterator[Tensor]:
    """The rows of ``k_reciprocal_ensemble`` in blocks, from the first query on: for a result that is written away, or
    added to others, and never there as a whole.

    *Shapes*: pairs as ``k_reciprocal_ensemble``. Yields (at most ``rows``, G) float32.

    *NaN*: as ``k_reciprocal_ensemble``.

    *Ties*: as ``k_reciprocal``, whose neighbour lists are exact: blocks of any size have the bits of the whole.

    *Determinism*: as ``k_reciprocal_ensemble``.

    *Memory*: as ``k_reciprocal`` beyond its result, with the encodings of all sets, and two blocks.

    Raises:
        TypeError, ValueError: as ``k_reciprocal_ensemble``, before the first block is asked for; ``rows`` below 1.
    """
    op = "k_reciprocal_blocks"
    _checks.positive_int(op, "rows", rows)
    settings = checks.settings(op, k1, k2, lambda_value, variant, metric, None, progress)
    sets = checks.sets(op, pairs)
    return _row_blocks(op, sets, rows, settings, progress)


def _row_blocks(
    op: str, sets: Sequence[tuple[Tensor, Tensor]], rows: int, settings: dict[str, Any], progress: bool
) -> Iterator[Tensor]:
    queries = sets[0][0].shape[0]
    if not checks.native(_LIBRARY, sets[0][0]):
        settings.pop("limit")
        yield from sum(reference(*pair, **settings) for pair in sets).split(rows)
        return
    encoded = [sparse.encode_features(*pair, op=op, progress=progress, **settings) for pair in sets]
    for first in range(0, queries, rows):
        block = encoded[0].block(first, min(first + rows, queries))
        for one in encoded[1:]:
            block += one.block(first, min(first + rows, queries))
        yield block


def jaccard(
    x: Tensor,
    *,
    k1: int = 20,
    k2: int = 6,
    variant: str = "fastreid",
    memory_limit: int | None = None,
    progress: bool = False,
) -> SparseDistances:
    """Jaccard distances of all rows of x to each other, for clustering (SpCL, fast-reid, OpenUnReID); sparse, because
    few pairs have neighbours in common.

    ``variant="fastreid"`` equals fast-reid's ``compute_jaccard_distance``, which is SpCL's and OpenUnReID's too
    (SpCL's rows have length one); the others are the J of ``k_reciprocal``. Clusters of SpCL's kind::

        distances = jaccard(features, k1=30, k2=6).to_scipy()
        labels = sklearn.cluster.DBSCAN(eps=0.6, min_samples=4, metric="precomputed").fit_predict(distances)

    *Shapes*: x (N, D), floating, N and D at least 1, N at most 2^30. Result: compressed rows of N x N.

    *NaN*: NaN and Inf are refused.

    *Ties*: neighbour lists are ordered by (float64 squared distance, index).

    *Determinism*: the same bits for any number of threads, ``memory_limit`` and instruction set.

    *Memory*: 12 bytes an entry of the result (for a moment 20), lists and encoding as ``k_reciprocal``.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: wrong shapes or values, NaN or Inf, a ``memory_limit`` that is too small.
    """
    op = "jaccard"
    checks.settings(op, k1, k2, 0.0, variant, "euclidean", memory_limit, progress)
    checks.rows(op, x)
    rule = sparse.VARIANTS[variant]
    if not checks.native(_LIBRARY, x):
        dense = plain.reference_jaccard(x, k1=k1, k2=k2, variant=variant)
        return _compressed(dense)
    rows, _ = sparse.encode(sparse.widened(x), k1, k2, rule, "euclidean", op, memory_limit, progress)
    return SparseDistances(*blocks.overlaps(op, rows, rule, memory_limit, progress))


def gnn_rerank(
    query: Tensor,
    gallery: Tensor,
    *,
    k1: int = 26,
    k2: int = 7,
    top: int | None = None,
    memory_limit: int | None = None,
    progress: bool = False,
) -> Tensor | Nearest:
    """Re-ranking by two rounds of propagation over the neighbour graph: 1 - the cosine of the propagated rows.

    Zhang et al., "Understanding Image Retrieval Re-Ranking: A Graph Neural Network Perspective", 2020, as
    GPU-Re-Ranking in torchreid: each point is joined with its ``k1`` nearest by cosine (itself included), the
    graph is made symmetric, and rows become the sums of their ``k2`` nearest points' rows, weighted by cos^2;
    twice; ``k2=1`` propagates nothing. Any number of points: the original's dense matrices overflow above 46,340.

    *Shapes*: query (Q, D), gallery (G, D), one floating dtype and device, Q, G and D at least 1. Result (Q, G)
    float32, small = close, 1 where nothing is shared; with ``top=r`` a ``Nearest`` of (Q, r).

    *NaN*: NaN and Inf are refused. A row of zeros has cosine 0 to every row.

    *Ties*: neighbour lists are ordered by (float64 cosine distance, index); ``top`` by (distance, gallery index).

    *Determinism*: the same bits for any number of threads, ``memory_limit`` and instruction set.

    *Memory*: the result, lists as ``k_reciprocal``, and 8 bytes for each entry of the propagated graph (hundreds a
    row), four times.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: wrong shapes or values, NaN or Inf, ``top`` above G, a ``memory_limit`` that is too small.
    """
    op = "gnn_rerank"
    checks.settings(op, k1, k2, 0.0, "zhong2017", "cosine", memory_limit, progress)
    checks.features(op, query, gallery)
    checks.top(op, top, gallery.shape[0])
    if not checks.native(_LIBRARY, query):
        return _headed(plain.reference_gnn(query, gallery, k1=k1, k2=k2), top)
    x = torch.cat([sparse.widened(query), sparse.widened(gallery)])
    rows, inverted = graph.propagated(x, query.shape[0], k1, k2, op, memory_limit, progress)
    found = graph.Propagated(rows, inverted, (query.shape[0], gallery.shape[0]))
    return _final(op, [found], top, memory_limit, progress)


def _final(
    op: str, sets: Iterable[blocks.Blocks], top: int | None, limit: int | None, progress: bool
) -> Tensor | Nearest:
    """The sum over feature sets: all of it, one set after the other, or its head."""
    if top is None:
        return blocks.dense(op, sets, limit, progress)
    return Nearest(*blocks.heads(op, list(sets), top, limit, progress))


def _headed(dense: Tensor, top: int | None) -> Tensor | Nearest:
    """The same from a dense result."""
    if top is None:
        return dense
    values, order = torch.sort(dense, dim=1, stable=True)
    return Nearest(values[:, :top].contiguous(), order[:, :top].contiguous())


def _compressed(dense: Tensor) -> SparseDistances:
    kept = dense < 1
    begin = torch.cat([torch.zeros(1, dtype=torch.int64), kept.sum(1).cumsum(0)])
    return SparseDistances(begin, kept.nonzero()[:, 1], dense[kept])


if _LIBRARY.native:
    fakes.register()
