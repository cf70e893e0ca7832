# SPDX-License-Identifier: Apache-2.0
"""CMC, mAP and mINP of a distance matrix, without sorting it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastreid_ops._library import load
from fastreid_ops.ops import _checks

CAMERA_RULES = ("same_pid", "none")
AP_RULES = ("step", "trapezoid")
# RankMetrics.status
VALID, ABSENT_PID, SAME_CAMERA_ONLY = 0, 1, 2
# Interleaved partial sums of a mean: see _mean.
SUM_LANES = 256

_OP = "rank_metrics"
_LABELS = (*_checks.INTEGERS, torch.uint16, torch.uint32, torch.uint64)
_LIBRARY = load()


class RankMetrics(NamedTuple):
    """What `rank_metrics` returns; all on the device of the distances, none differentiable.

    Attributes:
        cmc: (max_rank,) float64; entry k - 1 is the fraction of valid queries with a match among the first k.
        mAP: () float64, mean of ``ap`` over the valid queries.
        mINP: () float64, mean of ``inp`` over the valid queries.
        ap: (Q,) float64, average precision; 0 for an invalid query.
        inp: (Q,) float64, matches / rank of the last match; 0 for an invalid query.
        first_rank: (Q,) int64, 1-based rank of the first match among the kept entries; 0 for an invalid
            query.
        num_relevant: (Q,) int64, matches that the camera rule keeps.
        status: (Q,) int64: 0 valid, 1 the pid is not in the gallery, 2 it is there only under the query's own
            camera.
    """

    cmc: Tensor
    mAP: Tensor
    mINP: Tensor
    ap: Tensor
    inp: Tensor
    first_rank: Tensor
    num_relevant: Tensor
    status: Tensor


def rank_metrics(
    distance: Tensor,
    query_pids: Tensor,
    gallery_pids: Tensor,
    query_camids: Tensor | None = None,
    gallery_camids: Tensor | None = None,
    *,
    camera_rule: str = "same_pid",
    ap: str = "step",
    max_rank: int = 50,
    check_finite: bool = True,
) -> RankMetrics:
    """CMC, mAP and mINP of a query x gallery distance matrix, with the result of every query.

    For each query the gallery is ordered by distance; ``camera_rule="same_pid"`` (Market-1501) first drops
    the entries that have both its pid and its camid, ``"none"`` drops nothing. With r_1 < ... < r_P the ranks
    of the P matches, CMC counts r_1 and

    * INP = P / r_P (Ye et al., "Deep Learning for Person Re-identification: A Survey and Outlook", 2021);
    * AP = (1/P) sum n/r_n for ``ap="step"``;
    * AP = (1/P) sum ((n-1)/(r_n-1) + n/r_n) / 2, with 0/0 = 1, for ``ap="trapezoid"``: the scripts of
      Market-1501 (Zheng et al., "Scalable Person Re-identification", 2015) and CUHK03-NP (Zhong et al.,
      2017).

    A query without a match is invalid: its ``ap`` and ``inp`` are 0, ``status`` says why, no mean includes
        it.

    Shapes: distance (Q, G), small = close, float32, float64, bfloat16 or float16, any strides; pids and
        camids (Q,) and (G,) of any integer dtype; camids may be left out with ``camera_rule="none"``. Q = 0
        gives empty per-query results, and zeros for cmc, mAP and mINP; G = 0 is an error. ``max_rank`` may
        exceed G: past a query's last kept entry its CMC stays at 1 if it was matched.
    NaN: NaN and Inf are refused, counted and located, unless ``check_finite=False``; then NaN sorts after
        +Inf. Values cannot be looked at under torch.compile and torch.export: no value check there, NaN sorts
        last.
    Ties: ordered by (distance, gallery index), a total order; -0.0 equals 0.0.
    Determinism: integer results are exact; AP and the means are float64 sums in a fixed order. Same bits for
        any thread count, instruction set and device.
    Memory: 9 float64 or int64 values a query and 4 an image, whatever the layout of distance; each CPU thread
        32 bytes per image of the largest identity and 16 KiB of stack; CUDA max(8 G, 64 MiB) bytes more. No
        copy of distance.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: a wrong shape, device, choice, NaN or Inf; or no query has a match.

    Not differentiable: gradients stop at ``distance``.
    """
    _check(
        distance,
        query_pids,
        gallery_pids,
        query_camids,
        gallery_camids,
        camera_rule,
        ap,
        max_rank,
        check_finite,
    )
    distance = distance.detach()
    pids = _label("query_pids", query_pids), _label("gallery_pids", gallery_pids)
    camids: tuple[Tensor | None, Tensor | None] = (None, None)
    if query_camids is not None and gallery_camids is not None:
        camids = _label("query_camids", query_camids), _label("gallery_camids", gallery_camids)
    if not _is_native(distance.device.type):
        if check_finite:
            _checks.finite(_OP, "distance", distance)
        result = reference(distance, *pids, *camids, camera_rule=camera_rule, ap=ap, max_rank=max_rank)
        _check_matches(result.status, camera_rule)
        return result

    # Gallery indices, those of one pid side by side; a query's matches are members[begin:end].
    values, members = torch.sort(pids[1], stable=True)
    begin = torch.searchsorted(values, pids[0])
    end = torch.searchsorted(values, pids[0], right=True)
    if camera_rule == "none":
        camids = (None, None)
    cmc, means, reals, counts = torch.ops.fastreid.rank_metrics.default(
        distance, members, begin, end, *camids, CAMERA_RULES.index(camera_rule), AP_RULES.index(ap), max_rank
    )
    first_rank, num_relevant, status, nonfinite = counts.unbind()
    if check_finite and _checks.has_values(distance) and bool(nonfinite.any()):
        _checks.finite(_OP, "distance", distance)
    _check_matches(status, camera_rule)
    mean_ap, mean_inp = means.unbind()
    return RankMetrics(cmc, mean_ap, mean_inp, *reals.unbind(), first_rank, num_relevant, status)


def reference(
    distance: Tensor,
    query_pids: Tensor,
    gallery_pids: Tensor,
    query_camids: Tensor | None = None,
    gallery_camids: Tensor | None = None,
    *,
    camera_rule: str = "same_pid",
    ap: str = "step",
    max_rank: int = 50,
) -> RankMetrics:
    """`rank_metrics` in plain torch: the specification, the tests' oracle, what runs where the native library
    does not.

    One stable sort a query, O(G) memory beyond the matrix; same bits as the kernels. Arguments are not
    checked.
    """
    queries = distance.shape[0]
    per_query = torch.zeros(2, queries, dtype=torch.float64, device=distance.device)
    counts = torch.zeros(3, queries, dtype=torch.int64, device=distance.device)
    for q in range(queries):
        order = torch.sort(distance[q], stable=True).indices  # NaN last, equal distances by gallery index
        match = gallery_pids[order] == query_pids[q]
        if camera_rule == "same_pid":
            kept = ~(match & (gallery_camids[order] == query_camids[q]))
        else:
            kept = torch.ones_like(match)
        ranks = match[kept].nonzero().flatten() + 1
        matches = ranks.numel()
        if matches == 0:
            counts[2, q] = SAME_CAMERA_ONLY if bool(match.any()) else ABSENT_PID
            continue
        n = torch.arange(1, matches + 1, dtype=torch.float64, device=ranks.device)
        terms = n / ranks
        if ap == "trapezoid":
            before = torch.where(ranks > 1, (n - 1) / (ranks - 1), 1.0)
            terms = (before + terms) * 0.5
        per_query[0, q] = _sum_in_order(terms) / matches
        per_query[1, q] = n[-1] / ranks[-1]
        counts[0, q] = ranks[0]
        counts[1, q] = matches
    first_rank, num_relevant, status = counts.unbind()
    valid = int((status == VALID).sum())
    k = torch.arange(1, max_rank + 1, device=distance.device)
    matched = torch.searchsorted(first_rank[status == VALID].sort().values, k, right=True)
    cmc = matched.to(torch.float64) / max(valid, 1)
    mean_ap, mean_inp = (_mean(values, valid) for values in per_query)
    return RankMetrics(cmc, mean_ap, mean_inp, *per_query.unbind(), first_rank, num_relevant, status)


def _sum_in_order(values: Tensor) -> float:
    total = 0.0
    for value in values.tolist():
        total += value
    return total


def _mean(values: Tensor, valid: int) -> Tensor:
    """The mean over the valid queries (the others are 0), added up as the kernels do: query q goes to partial
    sum q % SUM_LANES in ascending order, then the upper half of the sums is added to the lower until one is
    left."""
    sums = [_sum_in_order(values[lane::SUM_LANES]) for lane in range(SUM_LANES)]
    while len(sums) > 1:
        half = len(sums) // 2
        sums = [low + high for low, high in zip(sums[:half], sums[half:], strict=True)]
    return torch.tensor(sums[0] / max(valid, 1), dtype=torch.float64, device=values.device)


def _is_native(device: str) -> bool:
    return _LIBRARY.cuda if device == "cuda" else _LIBRARY.native and device in ("cpu", "meta")


def _check(
    distance: object,
    query_pids: object,
    gallery_pids: object,
    query_camids: object,
    gallery_camids: object,
    camera_rule: object,
    ap: object,
    max_rank: object,
    check_finite: object,
) -> None:
    distance = _checks.tensor(_OP, "distance", distance)
    _checks.floating(_OP, "distance", distance)
    _checks.rank(_OP, "distance", distance, 2, "(Q, G)")
    _checks.choice(_OP, "camera_rule", camera_rule, CAMERA_RULES)
    _checks.choice(_OP, "ap", ap, AP_RULES)
    _checks.positive_int(_OP, "max_rank", max_rank)
    _checks.flag(_OP, "check_finite", check_finite)
    _checks.not_empty(
        _OP,
        "distance",
        distance,
        1,
        "an empty gallery ranks nothing: check the gallery list and how it was filtered",
    )
    camids = [("query_camids", query_camids, 0), ("gallery_camids", gallery_camids, 1)]
    if all(value is None for _, value, _ in camids) and camera_rule == "none":
        camids = []
    for name, value, dim in [("query_pids", query_pids, 0), ("gallery_pids", gallery_pids, 1), *camids]:
        if value is None and name.endswith("camids"):
            expected = 'a tensor (or no camids on either side and camera_rule="none")'
            raise TypeError(_checks.message(_OP, name, "None", expected))
        value = _checks.tensor(_OP, name, value)
        _checks.dtype(_OP, name, value, _LABELS)
        _checks.rank(_OP, name, value, 1, "(Q,)" if dim == 0 else "(G,)")
        _checks.size(
            _OP,
            name,
            value,
            0,
            distance.shape[dim],
            f"one label for each {('row', 'column')[dim]} of distance",
        )
        _checks.same_device(_OP, name, value, "distance", distance)


def _label(name: str, value: Tensor) -> Tensor:
    """The labels as contiguous int64. Only uint64 holds numbers that do not fit."""
    label = value.to(torch.int64).contiguous()
    if value.dtype == torch.uint64 and _checks.has_values(value) and bool((label < 0).any()):
        count = int((label < 0).sum())
        raise ValueError(
            _checks.message(_OP, name, f"{count} labels above 2**63 - 1", "labels that fit int64")
        )
    return label


def _check_matches(status: Tensor, camera_rule: str) -> None:
    """No mean is defined where every query is invalid; says how many are, and why."""
    if status.shape[0] == 0 or not _checks.has_values(status) or bool((status == VALID).any()):
        return
    absent, same_camera = (int((status == code).sum()) for code in (ABSENT_PID, SAME_CAMERA_ONLY))
    reasons = [f"{absent} have a pid that is not in the gallery"]
    advice = "; check that both sides use the same pid numbering"
    if camera_rule == "same_pid":
        reasons.append(f"{same_camera} have theirs only under their own camera")
        if same_camera:
            advice = '; camera_rule="none" (protocol "no_camera") keeps matches of the same camera'
    got = f"{status.shape[0]} queries without a match ({', '.join(reasons)})"
    raise ValueError(_checks.message(_OP, "query_pids", got, f"at least one query with a match{advice}"))


def _fake(distance, members, begin, end, query_camids, gallery_camids, camera_rule, ap, max_rank):
    queries = distance.shape[0]
    return (
        distance.new_empty(max_rank, dtype=torch.float64),
        distance.new_empty(2, dtype=torch.float64),
        distance.new_empty(2, queries, dtype=torch.float64),
        distance.new_empty(4, queries, dtype=torch.int64),
    )


if _LIBRARY.native:
    torch.library.register_fake("fastreid::rank_metrics", _fake)
