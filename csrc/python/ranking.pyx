# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, embedsignature=True
"""CMC, mAP and mINP of NumPy arrays, with the kernels of ``fastreid_ops.rank_metrics`` and without torch.

``rank_metrics``        the op, on arrays: the same arguments, definitions and bits.
``evaluate_cy``         in place of torchreid's ``rank_cy.evaluate_cy``: same arguments, returns (cmc, mAP).
``evaluate_torchreid``  the same function under a name that says which.
``evaluate_fastreid``   in place of fast-reid's ``rank_cy.evaluate_cy``: same arguments, returns (cmc, APs, INPs).

    from fastreid_ops.numpy import evaluate_cy                        # where torchreid's was imported
    from fastreid_ops.numpy import evaluate_fastreid as evaluate_cy   # where fast-reid's was

With ``use_metric_cuhk03=True`` both return the single-gallery-shot CMC of the classic CUHK03 split as its expectation:
theirs is the mean over ten galleries drawn at random, which scatters around it.

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

from libc.stdint cimport int64_t, uint16_t, uint64_t

cdef extern from "ranking/ranking.h" namespace "fastreid" nogil:
    cdef enum class Dtype(int):
        float32
        float64
        float16

    cdef enum class CameraRule(int):
        same_pid
        none

    cdef enum class ClothesRule(int):
        any
        cross
        same

    cdef enum class ApRule(int):
        step
        trapezoid

    cdef enum class CmcRule(int):
        first_hit
        unique_pid
        all_hits
        single_gallery_shot

    cdef enum class InvalidRule(int):
        skip
        zero

    ctypedef struct Relevance:
        const int64_t* members
        const int64_t* begin
        const int64_t* end
        const int64_t* query_camids
        const int64_t* gallery_camids
        const int64_t* query_clothes
        const int64_t* gallery_clothes
        CameraRule camera_rule
        ClothesRule clothes_rule
        const int64_t* query_class
        const uint64_t* excluded
        int64_t excluded_words
        const int64_t* gallery_identity

    ctypedef struct RankingProblem:
        const void* distance
        Dtype dtype
        int64_t row_stride
        int64_t column_stride
        int64_t queries
        int64_t gallery
        int64_t max_rank
        Relevance relevance
        ApRule ap_rule
        CmcRule cmc_rule
        InvalidRule invalid_rule
        int64_t repeats
        uint64_t seed
        int64_t first_query

    ctypedef struct RankingRows:
        double* ap
        double* inp
        int64_t* first_rank
        int64_t* cmc_rank
        int64_t* num_relevant
        int64_t* status
        int64_t* nonfinite
        double* cmc

cdef extern from *:
    """
    #include <system_error>
    #include <thread>
    #include <vector>

    #include "ranking/ranking.h"

    // Rows are shared out in equal, contiguous parts; a part whose thread cannot be started runs here.
    static void fastreid_rank(const fastreid::RankingProblem& problem, const fastreid::RankingRows& rows,
                              int64_t largest, int64_t threads, double* cmc, double* means) {
      const fastreid::RankingKernels& kernels = FASTREID_KERNELS(ranking_kernels);
      if (threads < 1) threads = static_cast<int64_t>(std::thread::hardware_concurrency());
      if (threads > problem.queries) threads = problem.queries;
      if (threads < 1) threads = 1;
      const int64_t words = kernels.scratch_bytes(&problem, largest) / 8 + 1;
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
      kernels.summary(problem.queries, problem.max_rank, problem.invalid_rule, &rows, cmc, means);
    }
    """
    void fastreid_rank(const RankingProblem&, const RankingRows&, int64_t, int64_t, double*, double*) except + nogil

ctypedef fused real:
    float
    double
    uint16_t

__all__ = ["RankMetrics", "evaluate_cy", "evaluate_fastreid", "evaluate_torchreid", "rank_metrics"]

_ISAS = ("baseline", "avx2", "avx512", "avx512_bf16")
if os.environ.get("FASTREID_ISA", "baseline") not in _ISAS:
    raise ValueError(f"FASTREID_ISA: got {os.environ['FASTREID_ISA']!r}, expected baseline, avx2, avx512 or avx512_bf16")

_FIELDS = "cmc mAP mINP ap inp first_rank num_relevant status cmc_rank"
RankMetrics = namedtuple("RankMetrics", _FIELDS, module=__name__)
RankMetrics.__doc__ = "As ``fastreid_ops.ops.ranking.RankMetrics``, with NumPy arrays; mAP and mINP are floats."


def rank_metrics(distance, query_pids, gallery_pids, query_camids=None, gallery_camids=None, *,
                 query_clothes=None, gallery_clothes=None, camera_rule="same_pid", clothes_rule="any", junk_pids=(),
                 ap="step", cmc="first_hit", repeats=None, seed=0, invalid="skip", max_rank=50, check_finite=True,
                 num_threads=0):
    """CMC, mAP and mINP of a query x gallery distance matrix: ``fastreid_ops.rank_metrics`` on NumPy arrays, where
    every rule is described.

    Args:
        distance: (Q, G) float32, float64 or float16, small = close; any strides.
        query_pids, gallery_pids: (Q,) and (G,) of any integer dtype.
        query_camids, gallery_camids: the same; may be None with ``camera_rule="none"``.
        query_clothes, gallery_clothes: the same; may be None with ``clothes_rule="any"``.
        camera_rule: "same_pid" drops gallery entries with the query's pid and camid (Market-1501), "same_camera" those
            with its camid whatever their pid, "none" nothing.
        clothes_rule: of the entries with the query's pid, "cross" drops those in its clothes, "same" those in others.
        junk_pids: a tuple or list of pids whose entries are dropped for every query.
        ap: "step" or "trapezoid".
        cmc: "first_hit", "unique_pid", "all_hits" or "single_gallery_shot".
        repeats, seed: None for the expected single-gallery-shot CMC, or the number of random galleries, and their seed.
        invalid: "skip" or "zero", what queries without a match count as.
        max_rank: length of the CMC.
        check_finite: refuse NaN and Inf; if False, NaN sorts last.
        num_threads: 0 for one per processor. The result does not depend on it.

    Raises:
        TypeError, ValueError: "rank_metrics: argument: got X, expected Y".
    """
    names = ("distance", "query_pids", "gallery_pids", "query_camids", "gallery_camids")
    clothes = query_clothes, gallery_clothes
    return _rank("rank_metrics", names, (distance, query_pids, gallery_pids, query_camids, gallery_camids), clothes,
                 camera_rule, clothes_rule, junk_pids, ap, cmc, repeats, seed, invalid, max_rank, check_finite,
                 num_threads)


def evaluate_cy(distmat, q_pids, g_pids, q_camids, g_camids, max_rank, use_metric_cuhk03=False, *,
                num_threads=0):
    """Market-1501 (or CUHK03) evaluation with torchreid's signature and result.

    Args:
        distmat: (Q, G) distances; q_pids, g_pids, q_camids, g_camids: integer labels.
        max_rank: length of the CMC; at most G entries are returned, as there.
        use_metric_cuhk03: the CMC is that of the classic CUHK03 split: a gallery of one random image of each pid.
            Exact, the expectation over all such galleries; torchreid's is the mean over ten of them drawn from
            NumPy's global generator, which scatters around this one. mAP is that of the whole gallery, as there.

    Returns:
        (cmc, mAP): (min(max_rank, G),) float32 and a float, fractions of 1.
    """
    found = _evaluate("evaluate_cy", distmat, q_pids, g_pids, q_camids, g_camids, max_rank, use_metric_cuhk03,
                      num_threads)
    return found.cmc[: np.shape(distmat)[1]].astype(np.float32), found.mAP


evaluate_torchreid = evaluate_cy


def evaluate_fastreid(distmat, q_pids, g_pids, q_camids, g_camids, max_rank, use_metric_cuhk03=False, *,
                      num_threads=0):
    """Market-1501 (or CUHK03) evaluation with fast-reid's signature and result.

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
    names = ("distmat", "q_pids", "g_pids", "q_camids", "g_camids")
    cmc = "single_gallery_shot" if use_metric_cuhk03 else "first_hit"
    return _rank(op, names, (distmat, q_pids, g_pids, q_camids, g_camids), (None, None), "same_pid", "any", (), "step",
                 cmc, None, 0, "skip", max_rank, True, num_threads)


def _message(op, argument, got, expected):
    return f"{op}: {argument}: got {got}, expected {expected}"


def _integer(op, argument, value, least):
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(_message(op, argument, type(value).__name__, f"an int of at least {least}"))
    if value < least:
        raise ValueError(_message(op, argument, value, f"an int of at least {least}"))
    return int(value)


def _choice(op, argument, value, choices):
    """The place of value among the choices, which is the enumerator of csrc/common/relevance.h."""
    if value not in choices:
        raise ValueError(_message(op, argument, repr(value), " or ".join(choices)))
    return choices.index(value)


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


def _pairs(op, names, values, rule, sizes):
    """Both sides' labels, with an entry more than needed, so that &array[0] is there for zero queries."""
    for name, value in zip(names, values):
        if value is None:
            raise TypeError(_message(op, name, "None", f'integer labels (or {rule})'))
    return [np.append(_labels(op, *each), 0) for each in zip(names, values, sizes)]


def _excluded(op, by_camera, cameras, gallery_pids, junk_pids):
    """(row of each query, rows of 64-bit words): what is dropped whatever its pid, or (None, None)."""
    if not isinstance(junk_pids, (tuple, list)) or not all(isinstance(pid, (int, np.integer)) for pid in junk_pids):
        raise TypeError(_message(op, "junk_pids", repr(junk_pids), "a tuple or list of ints"))
    if not by_camera and not junk_pids:
        return None, None
    dropped = np.isin(gallery_pids, np.array(junk_pids, dtype=np.int64))[None]
    if by_camera:
        kinds, row = np.unique(cameras[0], return_inverse=True)
        dropped = dropped | (kinds[:, None] == cameras[1][: len(gallery_pids)])
    else:
        row = np.zeros(len(cameras[0]), dtype=np.int64)
    padded = np.pad(dropped, ((0, 0), (0, -dropped.shape[1] % 64)))
    # '<u8': bit g of a row is bit g & 63 of its word g >> 6 on every machine.
    words = np.packbits(padded, axis=1, bitorder="little").view("<u8").astype(np.uint64)
    return np.ascontiguousarray(row.reshape(-1), dtype=np.int64), words


def _rank(op, names, arrays, clothes, camera_rule, clothes_rule, junk_pids, ap, cmc, repeats, seed, invalid, max_rank,
          check_finite, num_threads):
    distance = _distances(op, names[0], arrays[0])
    queries, gallery = sizes = distance.shape
    cdef RankingProblem problem
    cdef int camera_code = _choice(op, "camera_rule", camera_rule, ("same_pid", "none", "same_camera"))
    problem.relevance.camera_rule = <CameraRule>(1 if camera_code else 0)
    problem.relevance.clothes_rule = <ClothesRule><int>_choice(op, "clothes_rule", clothes_rule, ("any", "cross", "same"))
    problem.ap_rule = <ApRule><int>_choice(op, "ap", ap, ("step", "trapezoid"))
    problem.cmc_rule = <CmcRule><int>_choice(op, "cmc", cmc, ("first_hit", "unique_pid", "all_hits",
                                                              "single_gallery_shot"))
    problem.invalid_rule = <InvalidRule><int>_choice(op, "invalid", invalid, ("skip", "zero"))
    if repeats is not None and cmc != "single_gallery_shot":
        raise ValueError(_message(op, "repeats", repeats, f"None for cmc={cmc!r}, which draws nothing"))
    problem.repeats = 0 if repeats is None else _integer(op, "repeats", repeats, 1)
    problem.seed = _integer(op, "seed", seed, 0)
    problem.first_query = 0
    problem.max_rank = _integer(op, "max_rank", max_rank, 1)
    cdef int64_t threads = _integer(op, "num_threads", num_threads, 0)
    query_pids = _labels(op, names[1], arrays[1], queries)
    gallery_pids = _labels(op, names[2], arrays[2], gallery)
    # Gallery indices, those of one pid side by side; a query's matches are members[begin:end].
    order = np.argsort(gallery_pids, kind="stable")
    sorted_pids = gallery_pids[order]
    # One entry more than needed, so that &array[0] is there for zero queries.
    cdef const int64_t[::1] members = order.astype(np.int64)
    cdef const int64_t[::1] begin = np.append(np.searchsorted(sorted_pids, query_pids), 0).astype(np.int64)
    ends = np.searchsorted(sorted_pids, query_pids, side="right")
    cdef const int64_t[::1] end = np.append(ends, 0).astype(np.int64)
    problem.relevance.members = &members[0]
    problem.relevance.begin = &begin[0]
    problem.relevance.end = &end[0]
    cdef const int64_t[::1] query_cams, gallery_cams, query_wears, gallery_wears, row, identity
    cdef const uint64_t[:, ::1] words
    problem.relevance.query_camids = problem.relevance.gallery_camids = NULL
    problem.relevance.query_clothes = problem.relevance.gallery_clothes = NULL
    problem.relevance.query_class = problem.relevance.gallery_identity = NULL
    problem.relevance.excluded = NULL
    cameras = (query_pids, None)
    if camera_rule != "none":
        query_cams, gallery_cams = cameras = _pairs(op, names[3:], arrays[3:], 'camera_rule="none"', sizes)
        problem.relevance.query_camids = &query_cams[0]
        problem.relevance.gallery_camids = &gallery_cams[0]
    if clothes_rule != "any":
        query_wears, gallery_wears = _pairs(op, ("query_clothes", "gallery_clothes"), clothes, 'clothes_rule="any"',
                                            sizes)
        problem.relevance.query_clothes = &query_wears[0]
        problem.relevance.gallery_clothes = &gallery_wears[0]
    rows_of, bits = _excluded(op, camera_code == 2, cameras, gallery_pids, junk_pids)
    if bits is not None:
        row, words = np.append(rows_of, 0), bits
        problem.relevance.query_class = &row[0]
        problem.relevance.excluded = &words[0, 0]
        problem.relevance.excluded_words = words.shape[1]
    if cmc in ("unique_pid", "single_gallery_shot"):
        identity = np.unique(gallery_pids, return_inverse=True)[1].reshape(-1).astype(np.int64)
        problem.relevance.gallery_identity = &identity[0]
    if distance.dtype == np.float32:
        _describe[float](distance, &problem)
    elif distance.dtype == np.float64:
        _describe[double](distance, &problem)
    else:
        _describe[uint16_t](distance.view(np.uint16), &problem)

    reals = np.zeros((2, queries + 1), dtype=np.float64)
    counts = np.zeros((5, queries + 1), dtype=np.int64)
    curve = np.zeros(max_rank, dtype=np.float64)
    by_query = cmc in ("all_hits", "single_gallery_shot")
    shares = np.zeros((queries if by_query else 0) * max_rank + 1, dtype=np.float64)
    means = np.zeros(2, dtype=np.float64)
    cdef double[:, ::1] real_view = reals
    cdef int64_t[:, ::1] count_view = counts
    cdef double[::1] curve_view = curve
    cdef double[::1] share_view = shares
    cdef double[::1] means_view = means
    cdef RankingRows rows
    rows.ap = &real_view[0, 0]
    rows.inp = &real_view[1, 0]
    rows.first_rank = &count_view[0, 0]
    rows.cmc_rank = &count_view[1, 0]
    rows.num_relevant = &count_view[2, 0]
    rows.status = &count_view[3, 0]
    rows.nonfinite = &count_view[4, 0]
    rows.cmc = &share_view[0] if by_query else NULL
    cdef int64_t q, largest = 0
    for q in range(problem.queries):
        largest = max(largest, end[q] - begin[q])
    with nogil:
        fastreid_rank(problem, rows, largest, threads, &curve_view[0], &means_view[0])

    first_rank, cmc_rank, num_relevant, status, nonfinite = counts[:, :queries]
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
        if camera_rule == "same_pid" and clothes_rule == "any" and not junk_pids:
            got += f", {queries - absent} have theirs only under their own camera"
            if absent < queries:
                advice = 'rank_metrics(camera_rule="none") keeps matches of the same camera'
        elif absent < queries:
            got += f", the rules drop every match of {queries - absent}"
        raise ValueError(_message(op, names[1], got + ")", "at least one query with a match; " + advice))
    return RankMetrics(curve, float(means[0]), float(means[1]), reals[0, :queries], reals[1, :queries], first_rank,
                       num_relevant, status, cmc_rank)
