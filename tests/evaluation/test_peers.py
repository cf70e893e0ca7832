# SPDX-License-Identifier: Apache-2.0
"""Every protocol against somebody else: recorded figures of the public evaluators, the evaluators of torchreid and
fast-reid themselves, and the official scripts restated as plain loops."""

import random
from pathlib import Path

import fastreid_ops.numpy as door
import numpy as np
import pytest
import torch
from rivals.ranking import load_file, package_file
from sklearn.metrics import average_precision_score

from fastreid_ops.evaluation import FAMILIES, Columns, Labels, evaluate, evaluate_protocol, protocols

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def golden(folder, name):
    with np.load(GOLDEN / folder / name) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays}


def cameras_from_zero(data, key):
    """The recorded camera numbers count from 1; RegDB has none."""
    recorded = [data.get(f"{side}_cam_{key}") for side in "qg"]
    return [None if cameras is None else cameras - 1 for cameras in recorded]


@pytest.mark.parametrize(
    ("name", "key"),
    [
        *((name, "sysu") for name in FAMILIES["sysu_mm01_family"]),
        *((name, "llcm") for name in (*FAMILIES["llcm"], "llcm_vis2nir_transposed")),
        *((name, "regdb") for name in FAMILIES["regdb"]),
    ],
)
def test_visible_infrared_goldens(name, key):
    data = golden("visible_infrared", "eval.npz")
    cameras = cameras_from_zero(data, key)
    query, gallery = (Labels(data[f"{side}_pid"], cam) for side, cam in zip("qg", cameras, strict=True))
    result = evaluate(data["dist"], query, gallery, name)
    assert result.mAP == pytest.approx(data[f"{key}_mAP"].item(), abs=1e-14)
    assert result.mINP == pytest.approx(data[f"{key}_mINP"].item(), abs=1e-14)
    assert result.cmc == pytest.approx(data[f"{key}_cmc"].tolist(), abs=1e-7)
    assert result.counts["valid"] == 58


def test_the_two_ways_to_write_the_rule_of_sysu_are_one():
    """DEEN drops gallery camera 2 for queries of camera 3; the official script renames 3 to 2 and drops the query's
    camera."""
    data = golden("visible_infrared", "eval.npz")
    cameras = cameras_from_zero(data, "sysu")
    query, gallery = (Labels(data[f"{side}_pid"], cam) for side, cam in zip("qg", cameras, strict=True))
    assert set(query.camids.tolist()) == {2, 5}
    assert 1 in gallery.camids
    result = evaluate(data["dist"], query, gallery, "sysu_mm01")
    for camera in (2, 5):
        here = query.camids == camera
        kept = (gallery.camids != 1) if camera == 2 else torch.ones_like(gallery.camids, dtype=torch.bool)
        by_hand = evaluate(
            data["dist"][here][:, kept], query.at(here), gallery.at(kept), "regdb_visible2thermal"
        )
        places = here.nonzero().flatten().tolist()
        assert [result.ap[q] for q in places] == by_hand.ap
        assert [result.first_rank[q] for q in places] == by_hand.first_rank


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("std", "ltcc_standard"),
        ("ltcc_cc", "ltcc_clothes_changing"),
        ("prcc_all", "prcc_cross_clothes"),
        ("ccreid_std", "market1501"),
        ("ccreid_std", "ccvid_standard"),
        ("ccreid_std", "vcclothes_all"),
        ("ccreid_SC", "same_clothes"),
        ("ccreid_CC", "clothes_changing"),
        ("ccreid_CC", "ccvid_clothes_changing"),
    ],
)
def test_cloth_changing_goldens(key, name):
    data = golden("naic_and_cloth_changing", "cc_eval.npz")
    query, gallery = (Labels(*(data[f"{side}_{kind}"] for kind in ("pid", "cam", "clo"))) for side in "qg")
    result = evaluate(data["dist"], query, gallery, name)
    assert result.mAP == pytest.approx(data[f"{key}_map"].item(), abs=1e-14)
    assert result.cmc[:20] == pytest.approx(data[f"{key}_cmc"].tolist(), abs=1e-7)


# torchreid, fast-reid


def problem(queries, gallery, pids, cameras, seed=0):
    """Distances without ties that know the pids a little."""
    rng = np.random.default_rng(seed)
    q_pids, g_pids = rng.integers(pids, size=queries), rng.integers(pids, size=gallery)
    near = 0.4 * (q_pids[:, None] == g_pids)
    distance = (rng.random((queries, gallery)) - near).astype(np.float32)
    return distance, q_pids, g_pids, rng.integers(cameras, size=queries), rng.integers(cameras, size=gallery)


PEERS = {
    "torchreid": ("torchreid", "reid/metrics/rank.py"),
    "fastreid": ("fastreid", "evaluation/rank.py"),
}


def peer(name):
    file = package_file(*PEERS[name])
    if file is None:
        pytest.skip(f"{name} is not installed")
    return load_file(file)


@pytest.mark.parametrize("name", PEERS)
def test_market1501(name):
    arrays = problem(60, 400, 25, 4)
    found = peer(name).eval_market1501(*arrays, 50)
    tensors = [torch.from_numpy(array) for array in arrays]
    result = evaluate(tensors[0], Labels(tensors[1], tensors[3]), Labels(tensors[2], tensors[4]))
    assert result.cmc == pytest.approx(found[0].tolist(), abs=1e-6)
    assert result.mAP == pytest.approx(np.mean(found[1]), abs=1e-12)


@pytest.mark.parametrize("name", PEERS)
def test_a_selection_and_its_trials(name):
    """Two cameras ask two others over three draws of one image of each pid and camera: theirs on the drawn rows."""
    rng = np.random.default_rng(8)
    features = rng.normal(size=(300, 8))
    pids, cams = rng.integers(12, size=300), rng.integers(6, size=300)
    columns = Columns(pids.tolist(), cams.tolist(), names=[f"{n:03d}" for n in range(300)])
    (rules,) = protocols(
        "market1501", query_cameras=[0, 1, 2], gallery_cameras=[2, 3, 5], gallery_draw="pid_camera", trials=3
    )
    found = evaluate_protocol(*[torch.from_numpy(features)] * 2, columns, columns, rules)
    for number, result in enumerate(found.results):
        random.seed(number)
        g = [
            random.choice(np.flatnonzero((pids == pid) & (cams == cam)).tolist())
            for pid in range(12)
            for cam in (2, 3, 5)
            if ((pids == pid) & (cams == cam)).any()
        ]
        q = np.flatnonzero(cams <= 2)
        distance = ((features[q][:, None] - features[g]) ** 2).sum(2).astype(np.float32)
        theirs = peer(name).eval_market1501(distance, pids[q], pids[g], cams[q], cams[g], 20)
        assert result.cmc[:20] == pytest.approx(theirs[0].tolist(), abs=1e-6)
        assert result.mAP == pytest.approx(np.mean(theirs[1]), abs=1e-9)


@pytest.mark.parametrize("name", PEERS)
def test_cuhk03_is_what_their_random_galleries_scatter_around(name):
    """Each of their runs is a mean over 10 random galleries. The mean over 30 runs, 300 galleries, lies within four
    standard errors of the expectation (estimated from the scatter of the runs), and the error is small."""
    arrays = problem(40, 160, 20, 3, seed=1)
    exact = door.evaluate_cy(*arrays, 15, use_metric_cuhk03=True)
    curves = []
    state = np.random.get_state()
    try:
        for seed in range(30):
            np.random.seed(seed)
            found = peer(name).eval_cuhk03(*arrays, 15)
            curves.append(np.asarray(found[0], dtype=np.float64))
            assert np.mean(found[1]) == pytest.approx(exact[1], abs=1e-6)  # AP is of the whole gallery
    finally:
        np.random.set_state(state)
    mean, error = np.mean(curves, 0), np.std(curves, 0, ddof=1) / np.sqrt(len(curves))
    assert error.max() < 0.005
    assert (np.abs(mean - exact[0]) <= 4 * error + 1e-6).all()
    tensors = [torch.from_numpy(array) for array in arrays]
    sides = Labels(tensors[1], tensors[3]), Labels(tensors[2], tensors[4])
    assert evaluate(tensors[0], *sides, "cuhk03").cmc[:15] == pytest.approx(exact[0].tolist(), abs=1e-6)
    first = door.evaluate_cy(*arrays, 15)[0]
    assert np.abs(first - exact[0]).max() > 0.05  # and is another figure than the usual one


# Restated loops


def test_openreid_allshots():
    """cmc() of Open-ReID with first_match_break=False: hit j at place k of the kept list adds 1/hits at k - j."""
    distance, q_pids, g_pids, q_cams, g_cams = problem(30, 200, 12, 3, seed=2)
    curve, counted = np.zeros(100), 0
    for q in range(30):
        order = np.argsort(distance[q], kind="stable")
        order = order[(g_pids[order] != q_pids[q]) | (g_cams[order] != q_cams[q])]
        hits = np.flatnonzero(g_pids[order] == q_pids[q])
        if not len(hits):
            continue
        counted += 1
        for j, k in enumerate(hits):
            if k - j >= 100:
                break
            curve[k - j] += 1 / len(hits)
    tensors = [torch.from_numpy(array) for array in (distance, q_pids, g_pids, q_cams, g_cams)]
    sides = Labels(tensors[1], tensors[3]), Labels(tensors[2], tensors[4])
    result = evaluate(tensors[0], *sides, "openreid_allshots")
    assert result.cmc == pytest.approx((curve.cumsum() / counted).tolist(), abs=1e-12)
    separate = evaluate(tensors[0], *sides, "openreid_cuhk03")
    for q in range(30):
        kept = g_cams != q_cams[q]
        want = average_precision_score(g_pids[kept] == q_pids[q], -distance[q][kept])
        assert separate.ap[q] == pytest.approx(want, abs=1e-6)


def matlab(distance, q_pids, g_pids, q_cams, g_cams):
    """compute_AP of the Market-1501 scripts: good and junk lists, trapezoids, the mean over all queries."""
    aps, curve = [], np.zeros(distance.shape[1])
    for q in range(len(q_pids)):
        good = set(np.flatnonzero((g_pids == q_pids[q]) & (g_cams != q_cams[q])).tolist())
        junk = set(np.flatnonzero(g_pids == -1).tolist())
        junk |= set(np.flatnonzero((g_pids == q_pids[q]) & (g_cams == q_cams[q])).tolist())
        ap, old_recall, old_precision, hits, place, n_junk = 0.0, 0.0, 1.0, 0, 0, 0
        for n, g in enumerate(np.argsort(distance[q], kind="stable").tolist()):
            if g in good:
                if hits == 0:
                    curve[n - n_junk :] += 1
                hits += 1
            if g in junk:
                n_junk += 1
                continue
            if not good:
                break
            recall, precision = hits / len(good), hits / (place + 1)
            ap += (recall - old_recall) * (old_precision + precision) / 2
            old_recall, old_precision, place = recall, precision, place + 1
            if hits == len(good):
                break
        aps.append(ap)
    return np.mean(aps), curve / len(q_pids)


def test_market1501_scripts():
    """Queries without a match count as 0 there, and boxes with pid -1 do not count at all."""
    distance, q_pids, g_pids, q_cams, g_cams = problem(40, 150, 30, 3, seed=3)
    g_pids = np.where(np.arange(150) % 7 == 0, -1, g_pids)
    mean, curve = matlab(distance, q_pids, g_pids, q_cams, g_cams)
    tensors = [torch.from_numpy(array) for array in (distance, q_pids, g_pids, q_cams, g_cams)]
    sides = Labels(tensors[1], tensors[3]), Labels(tensors[2], tensors[4])
    result = evaluate(tensors[0], *sides, "market1501_trapezoid")
    assert result.counts["valid"] < 40
    assert result.mAP == pytest.approx(mean, abs=1e-12)
    assert result.cmc == pytest.approx(curve[:50].tolist(), abs=1e-12)
    assert "40 of 40 queries counted, 150 gallery images; as 0: " in str(result)
