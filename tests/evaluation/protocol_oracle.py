# SPDX-License-Identifier: Apache-2.0
"""Every protocol read from its description once more, as loops over rows that are plain tuples. Nothing here is shared
with the package, not even the table of protocols: each has a function that says who is asked, who answers, what is
dropped and what is counted."""

from __future__ import annotations

import math
import random
from itertools import product
from typing import NamedTuple


class Row(NamedTuple):
    name: str
    pid: int
    cam: int
    clothes: int
    modality: str
    tracklet: int
    feature: tuple[float, float]


class NoMatch(Exception):
    """No query of a trial has a match, or a side of it is empty."""


# What is counted


def step(ranks):
    return sum(n / rank for n, rank in enumerate(ranks, 1)) / len(ranks)


def trapezoid(ranks):
    total = 0.0
    for n, rank in enumerate(ranks, 1):
        total += (n / rank + ((n - 1) / (rank - 1) if rank > 1 else 1)) / 2
    return total / len(ranks)


def first_hit(kept, pid, length):
    place = kept.index(pid)
    return [float(k >= place) for k in range(length)]


def among_identities(kept, pid, length):
    order = []
    for each in kept:
        if each not in order:
            order.append(each)
    return first_hit(order, pid, length)


def one_image_each(kept, pid, length):
    """The mean over every way to keep one entry of each identity."""
    places = {}
    for place, each in enumerate(kept):
        places.setdefault(each, []).append(place)
    curve, count = [0.0] * length, 0
    for ways in product(*places.values()):
        count += 1
        shown = [kept[place] for place in sorted(ways)]
        curve = [a + b for a, b in zip(curve, first_hit(shown, pid, length), strict=True)]
    return [value / count for value in curve]


def every_hit(kept, pid, length):
    hits = [place for place, each in enumerate(kept) if each == pid]
    curve = [0.0] * length
    for j, place in enumerate(hits):
        for k in range(place - j, length):
            curve[k] += 1 / len(hits)
    return curve


def squared(a, b):
    return (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2


def one_trial(queries, gallery, junk, *, ap=step, cmc=first_hit, length=50, invalid_counts=False):
    """The figures of one trial: (mAP, mINP, CMC, AP of each query, queries without a match)."""
    if not queries or not gallery:
        raise NoMatch
    aps, inps, curves, invalid = [], [], [], 0
    for q in queries:
        near_first = sorted((squared(q.feature, row.feature), g) for g, row in enumerate(gallery))
        kept = [gallery[g].pid for _, g in near_first if not junk(q, gallery[g])]
        if q.pid not in kept:
            invalid += 1
            aps.append(0.0)
            continue
        ranks = [rank for rank, pid in enumerate(kept, 1) if pid == q.pid]
        aps.append(ap(ranks))
        inps.append(len(ranks) / ranks[-1])
        curves.append(cmc(kept, q.pid, length))
    if not curves:
        raise NoMatch
    counted = len(queries) if invalid_counts else len(curves)
    curve = [math.fsum(values) / counted for values in zip(*curves, strict=True)]
    return math.fsum(aps) / counted, math.fsum(inps) / counted, curve, aps, invalid


# What is dropped


def market(q, g):
    return q.pid == g.pid and q.cam == g.cam


def nothing(q, g):
    return False


def own_camera(q, g):
    return q.cam == g.cam


def clothes_changing(q, g):
    return q.pid == g.pid and (q.cam == g.cam or q.clothes == g.clothes)


def same_clothes(q, g):
    return q.pid == g.pid and (q.cam == g.cam or q.clothes != g.clothes)


def third_against_second_camera(q, g):
    """SYSU-MM01: camera 3 and camera 2 show the same place. Nothing else is dropped."""
    return q.cam + 1 == 3 and g.cam + 1 == 2


def own_tracklet(q, g):
    return q.pid == g.pid and q.tracklet == g.tracklet


def junk_boxes(q, g):
    return g.pid == -1 or market(q, g)


# Who is there


def of_modality(rows, modality):
    return [row for row in rows if row.modality == modality]


def under(rows, *cameras):
    return [row for row in rows if row.cam + 1 in cameras]


def one_per_id_and_camera(rows, trial, cameras, shots=1):
    random.seed(trial)
    drawn = []
    for pid in sorted({row.pid for row in rows}):
        for camera in cameras:
            files = sorted(row.name for row in rows if row.pid == pid and row.cam + 1 == camera)
            if files:
                names = [random.choice(files)] if shots == 1 else random.sample(files, min(shots, len(files)))
                drawn += [next(row for row in rows if row.name == name) for name in names]
    return drawn


def tracklets(rows, *, scaled=False):
    """One row for each tracklet, with the mean of its features."""
    found = {}
    for row in rows:
        found.setdefault((row.pid, row.cam, row.tracklet), []).append(row)
    made = []
    for frames in found.values():
        mean = [math.fsum(values) / len(frames) for values in zip(*(f.feature for f in frames), strict=True)]
        size = math.sqrt(math.fsum(value**2 for value in mean)) if scaled else 1
        made.append(frames[0]._replace(feature=tuple(value / (size or 1) for value in mean)))
    return made


def sysu(cameras, shots):
    def trials(queries, gallery, count):
        queries, gallery = of_modality(queries, "infrared"), of_modality(gallery, "visible")
        for trial in range(count):
            drawn = one_per_id_and_camera(gallery, trial, cameras, shots)
            yield one_trial(queries, drawn, third_against_second_camera, cmc=among_identities, length=20)

    return trials


def llcm(asked, answering, transposed=False):
    def trials(queries, gallery, count):
        queries, gallery = of_modality(queries, asked), of_modality(gallery, answering)
        for trial in range(count):
            drawn = one_per_id_and_camera(queries if transposed else gallery, trial, range(1, 10))
            sides = (drawn, gallery) if transposed else (queries, drawn)
            yield one_trial(*sides, market, cmc=among_identities, length=20)

    return trials


def regdb(asked, answering):
    def trials(queries, gallery, count):
        yield one_trial(of_modality(queries, asked), of_modality(gallery, answering), nothing, length=20)

    return trials


def prcc(camera):
    def trials(queries, gallery, count):
        yield one_trial(under(queries, camera), under(gallery, 1), market)

    return trials


def prcc_single(camera):
    def trials(queries, gallery, count):
        random.seed(3)
        gallery = sorted(under(gallery, 1), key=lambda row: row.name)
        for _ in range(count):
            drawn = [
                random.choice([row for row in gallery if row.pid == pid])
                for pid in sorted({row.pid for row in gallery})
            ]
            yield one_trial(under(queries, camera), drawn, market)

    return trials


def random_gallery(junk):
    def trials(queries, gallery, count):
        for trial in range(count):
            random.seed(trial)
            drawn = []
            for pid in sorted({row.pid for row in gallery}):
                name = random.choice(sorted(row.name for row in gallery if row.pid == pid))
                drawn.append(next(row for row in gallery if row.name == name))
            names = {row.name for row in drawn}
            yield one_trial([q for q in queries if q.name not in names], drawn, junk)

    return trials


def plain(junk, prepare=list, **rules):
    def trials(queries, gallery, count):
        yield one_trial(prepare(queries), prepare(gallery), junk, **rules)

    return trials


def scaled(rows):
    return tracklets(rows, scaled=True)


ORACLES = {
    "market1501": plain(market),
    "no_camera": plain(nothing),
    "market1501_trapezoid": plain(junk_boxes, ap=trapezoid, invalid_counts=True),
    "cuhk03": plain(market, cmc=one_image_each),
    "sysu_mm01": sysu((1, 2, 4, 5), 1),
    "sysu_mm01_multishot": sysu((1, 2, 4, 5), 10),
    "sysu_mm01_indoor": sysu((1, 2), 1),
    "sysu_mm01_indoor_multishot": sysu((1, 2), 10),
    "llcm_vis2nir": llcm("visible", "infrared"),
    "llcm_nir2vis": llcm("infrared", "visible"),
    "llcm_vis2nir_transposed": llcm("infrared", "visible", transposed=True),
    "regdb_visible2thermal": regdb("visible", "infrared"),
    "regdb_thermal2visible": regdb("infrared", "visible"),
    "clothes_changing": plain(clothes_changing),
    "same_clothes": plain(same_clothes),
    "prcc_same_clothes": prcc(2),
    "prcc_cross_clothes": prcc(3),
    "prcc_same_clothes_single": prcc_single(2),
    "prcc_cross_clothes_single": prcc_single(3),
    "ltcc_standard": plain(market),
    "ltcc_clothes_changing": plain(clothes_changing),
    "vcclothes_all": plain(market),
    "vcclothes_same_clothes": plain(market, lambda rows: under(rows, 2, 3)),
    "vcclothes_cross_clothes": plain(market, lambda rows: under(rows, 3, 4)),
    "deepchange": plain(own_tracklet),
    "deepchange_tracklet_column": plain(own_tracklet),
    "mars": plain(market, tracklets),
    "ccvid_standard": plain(market, scaled),
    "ccvid_clothes_changing": plain(clothes_changing, scaled),
    "naic_undivided": plain(nothing),
    "naic_green": plain(nothing, lambda rows: of_modality(rows, "green")),
    "naic_normal": plain(nothing, lambda rows: of_modality(rows, "normal")),
    "random_gallery": random_gallery(nothing),
    "random_gallery_cross_camera": random_gallery(market),
    "openreid_allshots": plain(market, cmc=every_hit, length=100),
    "openreid_cuhk03": plain(own_camera, cmc=one_image_each, length=100),
}
