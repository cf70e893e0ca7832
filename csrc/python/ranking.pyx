# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, embedsignature=True
"""CMC, mAP and mINP of NumPy arrays, with the kernels of ``fastreid_ops.rank_metrics`` and without torch.

``rank_metrics``        the op, on arrays: the same arguments, definitions and bits.
``evaluate_cy``         in place of torchreid's ``rank_cy.evaluate_cy``: same arguments, returns (cmc, mAP).
``evaluate_torchreid``  the same function under a name that says which.
``evaluate_fastreid``   in place of fast-reid's ``rank_cy.evaluate_cy``: same arguments, returns (cmc, APs, INPs).

    from fastreid_ops.numpy import evaluate_cy                        # where torchreid's was imported
    from fastreid_ops.numpy import evaluate_fastreid as evaluate_cy   # where fast-reid's was

What differs from those two: equal distances are ordered by gallery index (theirs by an unstable sort), sums
are float64 (theirs float32), float64 distances are not rounded to float32 first, NaN and Inf are refused, CMC
entries past the last kept gallery entry are right, and no query with a match is a ValueError that counts the
reasons.

Shapes, NaN, Ties, Determinism, Memory: as ``fastreid_ops.rank_metrics``. The matrix is read where it lies,
whatever its strides; it is copied only if it is a list, holds integers, is byte-swapped or not aligned. The GIL
is released while it is read.
"""
import os
from collections import namedtuple

import numpy as np

from libc.stdint cimport int64_t, uint16_t

cdef extern from "ranking/ranking.h" namespace "fastreid" nogil:
    cdef enum class Dtype(int):
        float32
        float64
        float16

    cdef enum class CameraRule(int):
        same_pid
        none

    cdef enum class ApRule(int):
        step
        trapezoid

    ctypedef struct RankingProblem:
        const void* distance
        Dtype dtype
        int64_t row_stride
        int64_t column_stride
        int64_t queries
        int64_t gallery
        const int64_t* members
        const int64_t* begin
        const int64_t* end
        const int64_t* query_camids
        const int64_t* gallery_camids
        CameraRule camera_rule
        ApRule ap_rule

    ctypedef struct RankingRows:
        double* ap
        double* inp
        int64_t* first_rank
        int64_t* num_relevant
        int64_t* status
        int64_t* nonfinite

cdef extern from *:
    """
    #include <system_error>
    #include <thread>
    #include <vector>

    #include "ranking/ranking.h"

    // Rows are shared out in equal, contiguous parts; a part whose thread cannot be started runs here.
    static void fastreid_rank(const fastreid::RankingProblem& problem, const fastreid::RankingRows& rows,
                              int64_t largest, int64_t threads, int64_t max_rank, double* cmc,
                              double* means) {
      const fastreid::RankingKernels& kernels = FASTREID_KERNELS(ranking_kernels);
      if (threads < 1) threads = static_cast<int64_t>(std::thread::hardware_concurrency());
      if (threads > problem.queries) threads = problem.queries;
      if (threads < 1) threads = 1;
      const int64_t words = kernels.scratch_bytes(largest) / 8 + 1;
      std::vector<int64_t> scratch(static_cast<size_t>(words * threads));
      const auto part = [&](int64_t t) {
        const int64_t first = problem.queries * t / threads, last = problem.queries * (t + 1) / threads;
        kernels.rows(&problem, first, last, &scratch[words * t], &rows);
      };
      std::vector<std::thread> pool;
      pool.reserve(static_cast<size_t>(threads));
      for (int64_t t = 1; t < threads; ++t) {
        try {
          pool.emplace_back(part, t);
        } catch (const std::system_error&) {
          part(t);
        }
      }
      part(0);
      for (std::thread& thread : pool) thread.join();
      kernels.summary(problem.queries, max_rank, &rows, cmc, means);
    }
    """
    void fastreid_rank(const RankingProblem&, const RankingRows&, int64_t, int64_t, int64_t, double*,
                       double*) except + nogil

ctypedef fused real:
    float
    double
    uint16_t

__all__ = ["RankMetrics", "evaluate_cy", "evaluate_fastreid", "evaluate_torchreid", "rank_metrics"]

_ISAS = ("baseline", "avx2", "avx512", "avx512_bf16")
if os.environ.get("FASTREID_ISA", "baseline") not in _ISAS:
    raise ValueError(f"FASTREID_ISA: got {os.environ['FASTREID_ISA']!r}, expected baseline, avx2, avx512 or avx512_bf16")

_FIELDS = "cmc mAP mINP ap inp first_rank num_relevant status"
RankMetrics = namedtuple("RankMetrics", _FIELDS, module=__name__)
RankMetrics.__doc__ = "As ``fastreid_ops.ops.ranking.RankMetrics``, with NumPy arrays; mAP and mINP are floats."


def rank_metrics(distance, query_pids, gallery_pids, query_camids=None, gallery_camids=None, *,
                 camera_rule="same_pid", ap="step", max_rank=50, check_finite=True, num_threads=0):
    """CMC, mAP and mINP of a query x gallery distance matrix: ``fastreid_ops.rank_metrics`` on NumPy arrays.

    Args:
        distance: (Q, G) float32, float64 or float16, small = close; any strides.
        query_pids, gallery_pids: (Q,) and (G,) of any integer dtype.
        query_camids, gallery_camids: the same; may be None with ``camera_rule="none"``.
        camera_rule: "same_pid" drops gallery entries with the query's pid and camid (Market-1501), "none" nothing.
        ap: "step" or "trapezoid".
        max_rank: length of the CMC.
        check_finite: refuse NaN and Inf; if False, NaN sorts last.
        num_threads: 0 for one per processor. The result does not depend on it.

    Raises:
        TypeError, ValueError: "rank_metrics: argument: got X, expected Y".
    """
    names = ("distance", "query_pids", "gallery_pids", "query_camids", "gallery_camids")
    return _rank("rank_metrics", names, distance, query_pids, gallery_pids, query_camids, gallery_camids,
                 camera_rule, ap, max_rank, check_finite, num_threads)


def evaluate_cy(distmat, q_pids, g_pids, q_camids, g_camids, max_rank, use_metric_cuhk03=False, *,
                num_threads=0):
    """Market-1501 evaluation with torchreid's signature and result.

    Args:
        distmat: (Q, G) distances; q_pids, g_pids, q_camids, g_camids: integer labels.
        max_rank: length of the CMC; at most G entries are returned, as there.
        use_metric_cuhk03: only False; the single-gallery-shot metric of the classic CUHK03 split is not
            supported.

    Returns:
        (cmc, mAP): (min(max_rank, G),) float32 and a float, fractions of 1.
    """
    found = _evaluate("evaluate_cy", distmat, q_pids, g_pids, q_camids, g_camids, max_rank, use_metric_cuhk03,
                      num_threads)
    return found.cmc[: np.shape(distmat)[1]].astype(np.float32), found.mAP


evaluate_torchreid = evaluate_cy


def evaluate_fastreid(distmat, q_pids, g_pids, q_camids, g_camids, max_rank, use_metric_cuhk03=False, *,
                      num_threads=0):
    """Market-1501 evaluation with fast-reid's signature and result.

    Args: as ``evaluate_cy``.

    Returns:
        (cmc, all_AP, all_INP): (min(max_rank, G),), (valid queries,), (valid queries,), float32; queries without
        a match are left out, the others keep their order.
    """
    found = _evaluate("evaluate_fastreid", distmat, q_pids, g_pids, q_camids, g_camids, max_rank, use_metric_cuhk03,
                      num_threads)
    valid = found.status == 0
    cmc, ap, inp = found.cmc[: np.shape(distmat)[1]], found.ap[valid], found.inp[valid]
    return cmc.astype(np.float32), ap.astype(np.float32), inp.astype(np.float32)


def _evaluate(op, distmat, q_pids, g_pids, q_camids, g_camids, max_rank, use_metric_cuhk03, num_threads):
    if use_metric_cuhk03:
        raise ValueError(_message(op, "use_metric_cuhk03", "True", "False: only the Market-1501 metric is supported "
                                  "here, not the single-gallery-shot one of the classic CUHK03 split"))
    names = ("distmat", "q_pids", "g_pids", "q_camids", "g_camids")
    return _rank(op, names, distmat, q_pids, g_pids, q_camids, g_camids, "same_pid", "step", max_rank, True,
                 num_threads)


def _message(op, argument, got, expected):
    return f"{op}: {argument}: got {got}, expected {expected}"


def _integer(op, argument, value, least):
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(_message(op, argument, type(value).__name__, f"an int of at least {least}"))
    if value < least:
        raise ValueError(_message(op, argument, value, f"an int of at least {least}"))
    return int(value)


def _choice(op, argument, value, choices):
    if value not in choices:
        raise ValueError(_message(op, argument, repr(value), " or ".join(choices)))


def _distances(op, argument, value):
    array = np.asarray(value)
    if array.dtype.kind in "iu":
        array = array.astype(np.float64)
    if array.dtype.kind != "f" or array.dtype.itemsize not in (2, 4, 8):
        raise TypeError(_message(op, argument, array.dtype, "float32, float64 or float16"))
    if array.ndim != 2:
        raise ValueError(_message(op, argument, f"shape {array.shape}", "(Q, G), 2 dimensions"))
    if array.shape[1] == 0:
        raise ValueError(_message(op, argument, f"shape {array.shape}", "at least 1 in dimension 1, an empty gallery "
                                  "ranks nothing: check the gallery list and how it was filtered"))
    whole = all(stride % array.itemsize == 0 for stride in array.strides)
    if not (array.dtype.isnative and array.flags.aligned and whole):
        array = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
    return array


def _labels(op, argument, value, size):
    array = np.asarray(value)
    if array.dtype.kind not in "iu" and array.size:
        raise TypeError(_message(op, argument, array.dtype, "an integer dtype"))
    if array.shape != (size,):
        expected = f"({size},), one label for each row or column"
        raise ValueError(_message(op, argument, f"shape {array.shape}", expected))
    if array.dtype == np.uint64 and array.size and array.max() > np.iinfo(np.int64).max:
        raise ValueError(_message(op, argument, "labels above 2**63 - 1", "labels that fit int64"))
    return np.ascontiguousarray(array, dtype=np.int64)


cdef void _describe(const real[:, :] distance, RankingProblem* problem):
    problem.row_stride = distance.strides[0] // <Py_ssize_t>sizeof(real)
    problem.column_stride = distance.strides[1] // <Py_ssize_t>sizeof(real)
    problem.queries = distance.shape[0]
    problem.gallery = distance.shape[1]
    problem.distance = <const void*>&distance[0, 0] if distance.shape[0] > 0 else NULL
    if real is float:
        problem.dtype = Dtype.float32
    elif real is double:
        problem.dtype = Dtype.float64
    else:
        problem.dtype = Dtype.float16


def _rank(op, names, distance, query_pids, gallery_pids, query_camids, gallery_camids, camera_rule, ap,
          max_rank, check_finite, num_threads):
    distance = _distances(op, names[0], distance)
    queries, gallery = distance.shape
    _choice(op, "camera_rule", camera_rule, ("same_pid", "none"))
    _choice(op, "ap", ap, ("step", "trapezoid"))
    cdef int64_t ranks = _integer(op, "max_rank", max_rank, 1)
    cdef int64_t threads = _integer(op, "num_threads", num_threads, 0)
    query_pids = _labels(op, names[1], query_pids, queries)
    gallery_pids = _labels(op, names[2], gallery_pids, gallery)
    # Gallery indices, those of one pid side by side; a query's matches are members[begin:end].
    order = np.argsort(gallery_pids, kind="stable")
    sorted_pids = gallery_pids[order]
    # One entry more than needed, so that &array[0] is there for zero queries.
    cdef const int64_t[::1] members = order.astype(np.int64)
    cdef const int64_t[::1] begin = np.append(np.searchsorted(sorted_pids, query_pids), 0).astype(np.int64)
    ends = np.searchsorted(sorted_pids, query_pids, side="right")
    cdef const int64_t[::1] end = np.append(ends, 0).astype(np.int64)
    cdef const int64_t[::1] query_cams
    cdef const int64_t[::1] gallery_cams
    cdef RankingProblem problem
    problem.camera_rule = CameraRule.same_pid if camera_rule == "same_pid" else CameraRule.none
    problem.ap_rule = ApRule.step if ap == "step" else ApRule.trapezoid
    problem.query_camids = NULL
    problem.gallery_camids = NULL
    if problem.camera_rule == CameraRule.same_pid:
        for name, value in zip(names[3:], (query_camids, gallery_camids)):
            if value is None:
                raise TypeError(_message(op, name, "None", 'integer labels (or camera_rule="none")'))
        query_cams = np.append(_labels(op, names[3], query_camids, queries), 0)
        gallery_cams = _labels(op, names[4], gallery_camids, gallery)
        problem.query_camids = &query_cams[0]
        problem.gallery_camids = &gallery_cams[0]
    problem.members = &members[0]
    problem.begin = &begin[0]
    problem.end = &end[0]
    if distance.dtype == np.float32:
        _describe[float](distance, &problem)
    elif distance.dtype == np.float64:
        _describe[double](distance, &problem)
    else:
        _describe[uint16_t](distance.view(np.uint16), &problem)

    reals = np.zeros((2, queries + 1), dtype=np.float64)
    counts = np.zeros((4, queries + 1), dtype=np.int64)
    cmc = np.zeros(ranks, dtype=np.float64)
    means = np.zeros(2, dtype=np.float64)
    cdef double[:, ::1] real_view = reals
    cdef int64_t[:, ::1] count_view = counts
    cdef double[::1] cmc_view = cmc
    cdef double[::1] means_view = means
    cdef RankingRows rows
    rows.ap = &real_view[0, 0]
    rows.inp = &real_view[1, 0]
    rows.first_rank = &count_view[0, 0]
    rows.num_relevant = &count_view[1, 0]
    rows.status = &count_view[2, 0]
    rows.nonfinite = &count_view[3, 0]
    cdef int64_t q, largest = 0
    for q in range(problem.queries):
        largest = max(largest, end[q] - begin[q])
    with nogil:
        fastreid_rank(problem, rows, largest, threads, ranks, &cmc_view[0], &means_view[0])

    first_rank, num_relevant, status, nonfinite = counts[:, :queries]
    if check_finite and nonfinite.any():
        at = nonfinite.nonzero()[0]
        nan = int(np.isnan(distance[at]).sum())
        inf = int(nonfinite.sum()) - nan
        got = f"{nan} NaN and {inf} Inf in {len(at)} row(s), first in row {at[0]}"
        raise ValueError(_message(op, names[0], got, "finite numbers only"))
    if queries > 0 and not (status == 0).any():
        absent = int((status == 1).sum())
        got = f"{queries} queries without a match ({absent} have a pid that is not in the gallery"
        advice = "check that both sides use the same pid numbering"
        if camera_rule == "same_pid":
            got += f", {queries - absent} have theirs only under their own camera"
            if absent < queries:
                advice = 'rank_metrics(camera_rule="none") keeps matches of the same camera'
        raise ValueError(_message(op, names[1], got + ")", "at least one query with a match; " + advice))
    return RankMetrics(cmc, float(means[0]), float(means[1]), reals[0, :queries], reals[1, :queries], first_rank,
                       num_relevant, status)
