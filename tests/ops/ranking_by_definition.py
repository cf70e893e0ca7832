# SPDX-License-Identifier: Apache-2.0
"""What rank_metrics is, one query at a time in plain Python, with fractions instead of floats: sort, drop, walk
down the list. Nothing here is shared with the package."""

from __future__ import annotations

import math
from fractions import Fraction

import torch


def drops(q, g, q_labels, g_labels, camera_rule, clothes_rule, junk_pids):
    """Labels: (pids, camids, clothes) as lists. The rules as the papers' scripts have them."""
    same_pid, same_camera, same_clothes = (a[q] == b[g] for a, b in zip(q_labels, g_labels, strict=True))
    if g_labels[0][g] in junk_pids:
        return True
    if same_camera and (camera_rule == "same_camera" or (camera_rule == "same_pid" and same_pid)):
        return True
    return same_pid and (
        (clothes_rule == "cross" and same_clothes) or (clothes_rule == "same" and not same_clothes)
    )


def average_precision(ranks, ap):
    total = Fraction(0)
    for n, rank in enumerate(ranks, start=1):
        if ap == "step":
            total += Fraction(n, rank)
        else:
            before = Fraction(n - 1, rank - 1) if rank > 1 else Fraction(1)
            total += (before + Fraction(n, rank)) / 2
    return total / len(ranks)


def single_gallery_shot(kept, own, max_rank):
    """``kept``: the pids of the kept entries in order. Multiplies out the generating function of the number of pids
    ahead of each match."""
    added = [Fraction(0)] * max_rank
    hits = [place for place, pid in enumerate(kept) if pid == own]
    others = set(kept) - {own}
    for place in hits:
        odds = [Fraction(1)]
        for pid in others:
            ahead = Fraction(kept[:place].count(pid), kept.count(pid))
            longer = [Fraction(0)] * (len(odds) + 1)
            for k, value in enumerate(odds):
                longer[k] += value * (1 - ahead)
                longer[k + 1] += value * ahead
            odds = longer
        for k, value in enumerate(odds[:max_rank]):
            added[k] += value / len(hits)
    return added


def curve(kept, own, cmc, max_rank):
    """What one query adds to the CMC at each rank, and the rank it counts where it is one."""
    hits = [place for place, pid in enumerate(kept) if pid == own]
    added = [Fraction(0)] * max_rank
    if cmc == "single_gallery_shot":
        return single_gallery_shot(kept, own, max_rank), hits[0] + 1
    if cmc == "all_hits":
        for n, place in enumerate(hits):
            if place - n < max_rank:
                added[place - n] += Fraction(1, len(hits))
        return added, hits[0] + 1
    place = list(dict.fromkeys(kept)).index(own) if cmc == "unique_pid" else hits[0]
    if place < max_rank:
        added[place] += 1
    return added, place + 1


def by_definition(
    distance,
    query_pids,
    gallery_pids,
    query_camids=None,
    gallery_camids=None,
    *,
    query_clothes=None,
    gallery_clothes=None,
    camera_rule="same_pid",
    clothes_rule="any",
    junk_pids=(),
    ap="step",
    cmc="first_hit",
    invalid="skip",
    max_rank=50,
    check_finite=True,
):
    def labels(*tensors):
        return [value.tolist() if value is not None else [0] * len(tensors[0]) for value in tensors]

    rows = distance.to(torch.float64).tolist()
    q_labels = labels(query_pids, query_camids, query_clothes)
    g_labels = labels(gallery_pids, gallery_camids, gallery_clothes)
    total = [Fraction(0)] * max_rank
    aps, inps, firsts, numbers, statuses, cmc_ranks = [], [], [], [], [], []
    for q, row in enumerate(rows):
        order = sorted(
            range(len(row)), key=lambda g: (math.isnan(row[g]), 0.0 if math.isnan(row[g]) else row[g], g)
        )
        kept = [
            g_labels[0][g]
            for g in order
            if not drops(q, g, q_labels, g_labels, camera_rule, clothes_rule, junk_pids)
        ]
        own = q_labels[0][q]
        ranks = [rank for rank, pid in enumerate(kept, start=1) if pid == own]
        numbers.append(len(ranks))
        firsts.append(ranks[0] if ranks else 0)
        statuses.append(0 if ranks else 2 if own in g_labels[0] else 1)
        aps.append(average_precision(ranks, ap) if ranks else Fraction(0))
        inps.append(Fraction(len(ranks), ranks[-1]) if ranks else Fraction(0))
        added, rank = curve(kept, own, cmc, max_rank) if ranks else ([Fraction(0)] * max_rank, 0)
        cmc_ranks.append(rank)
        total = [a + b for a, b in zip(total, added, strict=True)]
    counted = max(len(rows) if invalid == "zero" else statuses.count(0), 1)
    sums = [sum(total[: k + 1], Fraction(0)) / counted for k in range(max_rank)]

    def real(values):
        return torch.tensor([float(value) for value in values], dtype=torch.float64)

    def whole(values):
        return torch.tensor(values, dtype=torch.int64)

    return {
        "cmc": real(sums),
        "mAP": real([sum(aps, Fraction(0)) / counted])[0],
        "mINP": real([sum(inps, Fraction(0)) / counted])[0],
        "ap": real(aps),
        "inp": real(inps),
        "first_rank": whole(firsts),
        "num_relevant": whole(numbers),
        "status": whole(statuses),
        "cmc_rank": whole(cmc_ranks),
    }
