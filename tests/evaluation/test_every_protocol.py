# SPDX-License-Identifier: Apache-2.0
"""Every named protocol on 200 random test sets against protocol_oracle.py: ties everywhere, queries without a match,
galleries shorter than the CMC, one camera only, trials without anybody."""

import math
import random

import numpy as np
import pytest
import torch
from protocol_oracle import ORACLES, NoMatch, Row

from fastreid_ops.evaluation import PROTOCOLS, Columns, Result, evaluate_protocol, protocols

CASES = 200
# Drawn by a generator of the op's own: `test_drawn_galleries_of_cuhk03`.
BY_CHANCE = {"cuhk03_100", "cuhk03_10"}


SYSU_CAMERAS = {"visible": (0, 1, 3, 4), "infrared": (2, 5)}


def test_none_is_left_out():
    assert ORACLES.keys() | BY_CHANCE == PROTOCOLS.keys()


def people(rng, count, kinds, prefix):
    """Rows as data sets have them: clothes and modality belong to a tracklet, a tracklet to a camera. Features are
    few small integers, so many distances are equal."""
    rows = []
    while len(rows) < count:
        pid, cam = rng.choice(kinds["pids"]), rng.choice(kinds["cams"])
        modality = rng.choice(kinds["modalities"])
        if kinds.get("sysu"):
            cam = rng.choice(SYSU_CAMERAS[modality])
        made = (pid, cam, rng.randrange(3), modality, rng.randrange(10**6))
        for _ in range(min(rng.choice((1, 1, 2, 4)), count - len(rows))):
            name = f"{prefix}{rng.randrange(10**6):06d}{len(rows)}"
            feature = tuple(float(rng.randrange(3)) for _ in range(2))
            rows.append(Row(name, *made, feature))
    return rows


def example(name, seed):
    rng = random.Random(seed)
    small = "cuhk03" in name
    kinds = {
        "pids": rng.sample(range(1, 30), rng.choice((1, 2, 4, 6))) + [-1] * (name == "market1501_trapezoid"),
        "cams": rng.sample(range(6), rng.choice((1, 2, 6))) if seed % 3 else range(6),
        "sysu": name.startswith("sysu"),
        "modalities": ("green", "normal") if name.startswith("naic") else ("visible", "infrared"),
    }
    if name.startswith(("prcc", "vcclothes")):
        kinds["cams"] = range(rng.choice((1, 4, 4, 4)))
    gallery = people(rng, rng.randrange(1, 11 if small else 26), kinds, "g")
    queries = people(rng, rng.randrange(1, 9), {**kinds, "pids": [p for p in kinds["pids"] if p > 0]}, "q")
    if rng.random() < 0.3 or name.startswith(("llcm", "random")):
        queries = (queries + gallery)[:20]  # small sets where every image is both
        gallery = gallery + queries[:10] if seed % 2 else gallery
        gallery = list({row.name: row for row in gallery}.values())
    if rng.random() < 0.2:
        queries.append(queries[0]._replace(pid=777, name="q-nobody"))
    if "mars" in name or "ccvid" in name:
        # Means of 1, 2 and 4 small integers are exact; three frames that a cut left are made four.
        queries, gallery = even(queries), even(gallery)
    if name == "deepchange":  # as its reader hands it over
        queries, gallery = ([row._replace(cam=row.tracklet) for row in rows] for rows in (queries, gallery))
    if "ccvid" in name:
        # Scaled rows have ties only where they are the same row.
        spread = {(a, b): (rng.gauss(0, 1), rng.gauss(0, 1)) for a in range(3) for b in range(3)}
        queries, gallery = (
            [row._replace(feature=spread[tuple(map(int, row.feature))]) for row in rows]
            for rows in (queries, gallery)
        )
    return queries, gallery


def even(rows):
    return [row._replace(tracklet=0, name=f"{row.name}-{n}") for row in rows[:1] for n in range(2)] + [
        row for row in rows[1:] if sum(r.tracklet == row.tracklet for r in rows) != 3
    ]


def columns(rows):
    return Columns(
        pids=[row.pid for row in rows],
        camids=[row.cam for row in rows],
        clothes=[row.clothes for row in rows],
        modality=[row.modality for row in rows],
        tracklets=[row.tracklet for row in rows],
        names=[row.name for row in rows],
    )


def features(rows):
    return torch.tensor([row.feature for row in rows], dtype=torch.float64)


@pytest.mark.parametrize("name", ORACLES)
def test_is_what_the_description_says(name):
    drawn = PROTOCOLS[name].trials > 1
    agreed = refused = unmatched = short = 0
    for seed in range(CASES):
        queries, gallery = example(name, seed)
        count = (10 if seed % 40 == 0 else 2) if drawn else 1
        (rules,) = protocols(name, **({"trials": count} if drawn else {}))
        given = features(queries), features(gallery), columns(queries), columns(gallery), rules
        try:
            wanted = list(ORACLES[name](queries, gallery, count))
        except NoMatch:
            with pytest.raises(ValueError, match=r"got no row in trial|queries without a match"):
                evaluate_protocol(*given)
            refused += 1
            continue
        found = evaluate_protocol(*given)
        results = [found] if isinstance(found, Result) else found.results
        assert len(results) == len(wanted)
        for result, (mean, inverse, curve, aps, invalid) in zip(results, wanted, strict=True):
            assert abs(result.mAP - mean) < 1e-9
            assert abs(result.mINP - inverse) < 1e-9
            assert np.abs(np.subtract(result.cmc, curve)).max() < 1e-9
            assert np.abs(np.subtract(result.ap, aps)).max() < 1e-9
            assert result.counts["absent_pid"] + result.counts["same_camera_only"] == invalid
            unmatched += invalid
            short += result.gallery < len(curve)
        assert abs(found.mAP - math.fsum(mean for mean, *_ in wanted) / len(wanted)) < 1e-9
        agreed += 1
    # The random sets hold what they are meant to hold.
    assert agreed + refused == CASES
    assert agreed >= 50
    assert unmatched > 0
    assert short > 0


@pytest.mark.parametrize("name", sorted(BY_CHANCE))
def test_drawn_galleries_of_cuhk03(name):
    """On 200 random sets: AP as of the expectation; the curve within six standard errors of it, and the same where
    nothing is left to chance."""
    repeats = PROTOCOLS[name].repeats
    worst = settled = 0
    for seed in range(CASES):
        queries, gallery = example("cuhk03", seed)
        given = features(queries), features(gallery), columns(queries), columns(gallery)
        try:
            ((mean, _, curve, aps, invalid),) = ORACLES["cuhk03"](queries, gallery, 1)
        except NoMatch:
            continue
        found = evaluate_protocol(*given, name)
        assert abs(found.mAP - mean) < 1e-9
        assert np.abs(np.subtract(found.ap, aps)).max() < 1e-9
        draws = repeats * (len(aps) - invalid)
        worst = max(worst, np.abs(np.subtract(found.cmc, curve)).max() * draws**0.5)
        if all(value in (0, 1) for value in curve):
            settled += 1
            assert np.abs(np.subtract(found.cmc, curve)).max() < 1e-9
    assert settled > 5
    assert 0 < worst < 6 * 0.5
