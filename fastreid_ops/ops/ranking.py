# SPDX-License-Identifier: Apache-2.0
"""CMC, mAP and mINP of a distance matrix, without sorting it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastreid_ops._library import load
from fastreid_ops.ops import _checks, _ranking_reference, _relevance
from fastreid_ops.ops._relevance import (
    ABSENT_PID,
    ALL_DROPPED,
    AP_RULES,
    CAMERA_RULES,
    CLOTHES_RULES,
    CMC_RULES,
    INVALID_RULES,
    SAME_CAMERA_ONLY,
    VALID,
    Rules,
    Sides,
)

__all__ = [
    "ABSENT_PID",
    "ALL_DROPPED",
    "AP_RULES",
    "CAMERA_RULES",
    "CLOTHES_RULES",
    "CMC_RULES",
    "INVALID_RULES",
    "SAME_CAMERA_ONLY",
    "VALID",
    "RankMetrics",
    "rank_metrics",
    "reference",
]

_OP = "rank_metrics"
_LIBRARY = load()


class RankMetrics(NamedTuple):
    """What `rank_metrics` returns; all on the device of the distances, none differentiable.

    Attributes:
        cmc: (max_rank,) float64; entry k - 1 is the fraction of valid queries with a match among the first k,
            or the mean of what else ``cmc`` says.
        mAP: () float64, mean of ``ap`` over the valid queries, or over all with ``invalid="zero"``.
        mINP: () float64, mean of ``inp`` over the same.
        ap: (Q,) float64, average precision; 0 for an invalid query.
        inp: (Q,) float64, matches / rank of the last match; 0 for an invalid query.
        first_rank: (Q,) int64, 1-based rank of the first match among the kept entries; 0 for an invalid
            query.
        num_relevant: (Q,) int64, matches that the rules keep.
        status: (Q,) int64: 0 valid, 1 the pid is not in the gallery, 2 it is there but the rules drop every
            match (with ``camera_rule="same_pid"``: all are under the query's own camera).
        cmc_rank: (Q,) int64, the rank that the CMC counts: with ``cmc="unique_pid"`` that of the match among
            the distinct pids, else first_rank.
    """

    cmc: Tensor
    mAP: Tensor
    mINP: Tensor
    ap: Tensor
    inp: Tensor
    first_rank: Tensor
    num_relevant: Tensor
    status: Tensor
    cmc_rank: Tensor


def rank_metrics(
    distance: Tensor,
    query_pids: Tensor,
    gallery_pids: Tensor,
    query_camids: Tensor | None = None,
    gallery_camids: Tensor | None = None,
    *,
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
) -> RankMetrics:
    """CMC, mAP and mINP of a query x gallery distance matrix, with the result of every query.

    For each query the gallery is ordered by distance, without the entries that a rule drops:

    * ``camera_rule="same_pid"`` (Market-1501): those with both its pid and its camid; ``"same_camera"``
      (SYSU-MM01; separate_camera_set of Open-ReID): those with its camid, whatever their pid; ``"none"``.
    * ``clothes_rule="cross"`` (LTCC, PRCC, CCVID): those with its pid in its clothes; ``"same"``: those with
      its pid in other clothes; ``"any"``.
    * ``junk_pids`` (Market-1501's -1): those with one of these pids, for every query.

    With r_1 < ... < r_P the ranks of the P matches that are left,

    * INP = P / r_P (Ye et al., "Deep Learning for Person Re-identification: A Survey and Outlook", 2021);
    * AP = (1/P) sum n/r_n for ``ap="step"``;
    * AP = (1/P) sum ((n-1)/(r_n-1) + n/r_n) / 2, with 0/0 = 1, for ``ap="trapezoid"``: the scripts of
      Market-1501 (Zheng et al., "Scalable Person Re-identification", 2015) and CUHK03-NP (Zhong et al.,
      2017).

    The CMC at rank k is the mean over the queries of

    * ``cmc="first_hit"``: 1 if r_1 <= k;
    * ``"unique_pid"`` (SYSU-MM01, LLCM): 1 if the match is among the first k distinct pids;
    * ``"all_hits"`` (Open-ReID, first_match_break=False): the fraction of the matches n with r_n - n < k;
    * ``"single_gallery_shot"`` (CUHK03): the probability that the match is among the first k of a gallery of
      one random kept entry of each pid. Exact, or with ``repeats=R`` the frequency in R random galleries for
      each query, which follow from ``seed`` and the query's row number alone. AP and INP are those of the
      whole gallery. On the CPU only.

    A query without a match is invalid: its ``ap`` and ``inp`` are 0, ``status`` says why. With
    ``invalid="skip"`` no mean includes it; with ``"zero"`` every mean does, as 0.

    Shapes: distance (Q, G), small = close, float32, float64, bfloat16 or float16, any strides; labels (Q,)
        and (G,) of any integer dtype; camids may be left out with ``camera_rule="none"``, clothes with
        ``clothes_rule="any"``. Q = 0 gives empty per-query results, and zeros for cmc, mAP and mINP; G = 0 is
        an error. ``max_rank`` may exceed G: past a query's last kept entry its CMC stays where it is.
    NaN: NaN and Inf are refused, counted and located, unless ``check_finite=False``; then NaN sorts after
        +Inf. Values cannot be looked at under torch.compile and torch.export: no value check there, NaN sorts
        last.
    Ties: ordered by (distance, gallery index), a total order; -0.0 equals 0.0.
    Determinism: integer results are exact; AP, shares of a query in the CMC and the means are float64 sums in
        a fixed order. Same bits for any thread count, instruction set and device.
    Memory: 10 float64 or int64 values a query and 4 an image, whatever the layout of distance; each CPU
        thread 32 bytes per image of the largest identity and 64 KiB of stack; CUDA max(8 G, 64 MiB) bytes
        more. G/8 bytes for each camera of the queries with "same_camera"; G/8 bytes a thread (or CUDA block)
        with "unique_pid", 48 G with "single_gallery_shot"; max_rank values a query with that and "all_hits".
        No copy of distance.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: a wrong shape, device, choice, NaN or Inf; or no query has a match.

    Not differentiable: gradients stop at ``distance``.
    """
    rules = Rules(camera_rule, clothes_rule, junk_pids, ap, cmc, repeats, seed, invalid, max_rank)
    sides = Sides(query_pids, gallery_pids, query_camids, gallery_camids, query_clothes, gallery_clothes)
    _check(distance, sides, rules, check_finite)
    distance = distance.detach()
    sides = _relevance.as_int64(_OP, rules, sides)
    if not _is_native(distance.device.type):
        if check_finite:
            _checks.finite(_OP, "distance", distance)
        result = RankMetrics(*_ranking_reference.metrics(distance, sides, rules))
        _relevance.check_matches(_OP, rules, result.status)
        return result

    curve, means, reals, counts, _ = torch.ops.fastreid.rank_metrics.default(
        distance, *_relevance.native(rules, sides), *rules.codes()
    )
    first_rank, cmc_rank, num_relevant, status, nonfinite = counts.unbind()
    if check_finite and _checks.has_values(distance) and bool(nonfinite.any()):
        _checks.finite(_OP, "distance", distance)
    _relevance.check_matches(_OP, rules, status)
    return RankMetrics(curve, *means.unbind(), *reals.unbind(), first_rank, num_relevant, status, cmc_rank)


def reference(
    distance: Tensor,
    query_pids: Tensor,
    gallery_pids: Tensor,
    query_camids: Tensor | None = None,
    gallery_camids: Tensor | None = None,
    *,
    query_clothes: Tensor | None = None,
    gallery_clothes: Tensor | None = None,
    **rules: object,
) -> RankMetrics:
    """`rank_metrics` in plain torch: the specification, the tests' oracle, what runs where the native library
    does not.

    One stable sort a query, O(G) memory beyond the matrix; same bits as the kernels. ``rules``: the other
    keyword arguments of `rank_metrics`, but ``check_finite``. Arguments are not checked.
    """
    sides = Sides(query_pids, gallery_pids, query_camids, gallery_camids, query_clothes, gallery_clothes)
    return RankMetrics(*_ranking_reference.metrics(distance, sides, Rules(**rules)))


def _is_native(device: str) -> bool:
    return _LIBRARY.cuda if device == "cuda" else _LIBRARY.native and device in ("cpu", "meta")


def _check(distance: object, sides: Sides, rules: Rules, check_finite: object) -> None:
    distance = _checks.tensor(_OP, "distance", distance)
    _checks.floating(_OP, "distance", distance)
    _checks.rank(_OP, "distance", distance, 2, "(Q, G)")
    _relevance.check_rules(_OP, rules)
    _checks.flag(_OP, "check_finite", check_finite)
    _checks.not_empty(
        _OP,
        "distance",
        distance,
        1,
        "an empty gallery ranks nothing: check the gallery list and how it was filtered",
    )
    if rules.cmc == "single_gallery_shot" and distance.device.type == "cuda":
        got = '"single_gallery_shot" with distances on CUDA'
        raise ValueError(_checks.message(_OP, "cmc", got, "distances on the CPU (distance.cpu()) for it"))
    _relevance.check_sides(_OP, rules, sides, (distance.shape[0], distance.shape[1]), "distance", distance)


def _fake(distance, *arguments):
    queries = distance.shape[0]
    cmc, _, max_rank = arguments[13:16]
    shares = queries if _relevance.CMC_RULES[cmc] in _relevance.BY_QUERY else 0
    return (
        distance.new_empty(max_rank, dtype=torch.float64),
        distance.new_empty(2, dtype=torch.float64),
        distance.new_empty(2, queries, dtype=torch.float64),
        distance.new_empty(5, queries, dtype=torch.int64),
        distance.new_empty(shares, max_rank, dtype=torch.float64),
    )


if _LIBRARY.native:
    torch.library.register_fake("fastreid::rank_metrics", _fake)
