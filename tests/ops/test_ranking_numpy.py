# SPDX-License-Identifier: Apache-2.0
"""fastreid_ops.numpy: the same bits as rank_metrics, in place of torchreid's and fast-reid's Cython, without
torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import fastreid_ops.numpy as door
import numpy as np
import pytest
import torch
from spec_ranking import ISAS_HERE, clothes, outputs, problem

from fastreid_ops import rank_metrics


def test_door_equals_the_op():
    for dtype in (torch.float32, torch.float64, torch.float16):
        for seed, kwargs in enumerate(
            ({}, {"ap": "trapezoid", "max_rank": 90}, {"camera_rule": "none", "max_rank": 1})
        ):
            arguments = problem(33, 70, 4, 3, seed=seed, dtype=dtype, ties=True)
            want = rank_metrics(*arguments, **kwargs)
            arrays = [value.numpy() for value in arguments]
            for threads in (0, 1, 2, 3, 50):
                got = door.rank_metrics(*arrays, **kwargs, num_threads=threads)
                for name, value in outputs(want).items():
                    assert np.array_equal(getattr(got, name), value.numpy()), (dtype, kwargs, name)


def peers(distance, q_pids, g_pids, q_cams, g_cams, max_rank):
    """Market-1501 evaluation as torchreid and fast-reid define it, with a stable sort, one query at a
    time."""
    cmcs, aps, inps = [], [], []
    for q in range(len(q_pids)):
        order = np.argsort(distance[q], kind="stable")
        kept = order[~((g_pids[order] == q_pids[q]) & (g_cams[order] == q_cams[q]))]
        hits = g_pids[kept] == q_pids[q]
        if not hits.any():
            continue
        found = hits.cumsum()
        curve = np.minimum(found, 1)
        cmcs.append(np.pad(curve, (0, max_rank), mode="edge")[:max_rank])
        aps.append((found / (np.arange(len(hits)) + 1.0))[hits].sum() / hits.sum())
        last = np.flatnonzero(hits)[-1]
        inps.append(found[last] / (last + 1.0))
    return np.mean(cmcs, 0), np.array(aps), np.array(inps)


def test_door_in_place_of_torchreid_and_fastreid():
    arrays = [value.numpy() for value in problem(30, 80, 20, 2, seed=11)]
    cmc, aps, inps = peers(*arrays, 10)
    assert len(aps) < 30  # some queries have no match
    got = door.evaluate_cy(*arrays, 10)
    assert door.evaluate_torchreid is door.evaluate_cy
    assert got[0].dtype == np.float32
    assert isinstance(got[1], float)
    np.testing.assert_allclose(got[0], cmc, rtol=1e-6)
    assert got[1] == pytest.approx(aps.mean(), abs=1e-12)
    got = door.evaluate_fastreid(*arrays, 10, use_metric_cuhk03=False)
    assert [part.dtype for part in got] == [np.float32] * 3
    for part, want in zip(got, (cmc, aps, inps), strict=True):
        np.testing.assert_allclose(part, want, rtol=1e-6)
    assert len(door.evaluate_cy(*arrays, 500)[0]) == 80
    named = dict(zip(("distmat", "q_pids", "g_pids", "q_camids", "g_camids"), arrays, strict=True))
    assert door.evaluate_cy(**named, max_rank=10)[1] == door.evaluate_cy(*arrays, 10)[1]


def test_door_takes_what_arrays_come_as():
    arrays = [value.numpy() for value in problem(6, 30, 3, 2, seed=3)]
    want = door.rank_metrics(*arrays)
    distance = arrays[0]
    wide = np.full((6, 66), np.nan, dtype=np.float32)
    wide[:, 3:63:2] = distance
    frozen = distance.copy()
    frozen.flags.writeable = False
    unaligned = np.frombuffer(b"x" + distance.tobytes(), dtype=np.uint8)[1:].view(np.float32).reshape(6, 30)
    record = np.zeros((6, 30), dtype=[("a", "u1"), ("d", "f4")])
    record["d"] = distance
    backwards = np.ascontiguousarray(distance[::-1, ::-1])[::-1, ::-1]
    views = [
        np.asfortranarray(distance),
        wide[:, 3:63:2],
        frozen,
        unaligned,
        record["d"],
        backwards,
        distance.astype(">f4"),
        distance.tolist(),
    ]
    for view in views:
        got = door.rank_metrics(view, *arrays[1:])
        assert np.array_equal(got.ap, want.ap)
        assert np.array_equal(got.first_rank, want.first_rank)
    for kind in (np.int8, np.uint16, np.int32, np.uint64, ">i4", list):
        labels = [a.tolist() if kind is list else a.astype(kind) for a in arrays[1:]]
        assert np.array_equal(door.rank_metrics(distance, *labels).ap, want.ap)
    integers = (distance * 1000).astype(np.int32)
    assert np.array_equal(
        door.rank_metrics(integers, *arrays[1:]).ap,
        door.rank_metrics(integers.astype(np.float64), *arrays[1:]).ap,
    )
    empty = door.rank_metrics(distance[:0], [], arrays[2], [], arrays[4], max_rank=2)
    assert (empty.cmc.tolist(), empty.mAP, empty.mINP, empty.ap.shape) == ([0, 0], 0, 0, (0,))


D, QP, GP, QC, GC = (value.numpy() for value in problem(4, 6, 2, 2, seed=3))
SPOILT = D.copy()
SPOILT[1, :2], SPOILT[3, 5] = np.inf, np.nan


@pytest.mark.parametrize(
    ("error", "pattern", "changes"),
    [
        (TypeError, "distance: got bool", {"distance": D > 0.5}),
        (TypeError, "distance: got complex64", {"distance": D.astype(np.complex64)}),
        (TypeError, "distance: got object", {"distance": None}),
        (TypeError, "distance: got <U", {"distance": "no"}),
        (TypeError, "distance: got float128|distance: got longdouble", {"distance": D.astype(np.longdouble)}),
        (ValueError, r"distance: got shape \(6,\)", {"distance": D[0]}),
        (ValueError, r"distance: got shape \(4, 0\)", {"distance": D[:, :0], "gallery_pids": [], "gallery_camids": []}),
        (ValueError, "distance: got 1 NaN and 2 Inf in 2 row.*first in row 1", {"distance": SPOILT}),
        (TypeError, "query_pids: got float64", {"query_pids": QP * 1.0}),
        (TypeError, "gallery_camids: got bool", {"gallery_camids": GC > 0}),
        (ValueError, r"gallery_pids: got shape \(5,\)", {"gallery_pids": GP[1:]}),
        (ValueError, r"query_camids: got shape \(4, 1\)", {"query_camids": QC[:, None]}),
        (ValueError, "query_pids: got labels above", {"query_pids": np.full(4, 2**64 - 1, dtype=np.uint64)}),
        (TypeError, "query_camids: got None", {"query_camids": None}),
        (TypeError, "max_rank: got float", {"max_rank": 1.5}),
        (TypeError, "max_rank: got bool", {"max_rank": True}),
        (ValueError, "max_rank: got 0", {"max_rank": 0}),
        (ValueError, "num_threads: got -1", {"num_threads": -1}),
        (ValueError, "camera_rule: got 'all'", {"camera_rule": "all"}),
        (TypeError, "gallery_clothes: got None", {"clothes_rule": "same", "query_clothes": QC}),
        (TypeError, "junk_pids: got -1", {"junk_pids": -1}),
        (ValueError, "repeats: got 3", {"repeats": 3}),
        (ValueError, "repeats: got 0", {"repeats": 0, "cmc": "single_gallery_shot"}),
        (ValueError, "seed: got -1", {"seed": -1}),
        (ValueError, "cmc: got 'x'", {"cmc": "x"}),
        (ValueError, "rules drop every match of 4", {"junk_pids": list(range(9))}),
        (ValueError, "ap: got 3", {"ap": 3}),
        (ValueError, "4 have a pid that is not in the gallery", {"query_pids": QP + 9}),
        (ValueError, "4 have theirs only under their own camera", {"query_camids": QC * 0, "gallery_camids": GC * 0}),
    ],
)  # fmt: skip
def test_door_refuses(error, pattern, changes):
    good = {"distance": D, "query_pids": QP, "gallery_pids": GP, "query_camids": QC, "gallery_camids": GC}
    with pytest.raises(error, match=pattern) as caught:
        door.rank_metrics(**{**good, **changes})
    assert str(caught.value).startswith("rank_metrics: ")
    assert ", expected " in str(caught.value)


def test_door_has_every_rule():
    rules = (
        {"camera_rule": "same_camera", "cmc": "unique_pid", "junk_pids": (1, -1)},
        {"clothes_rule": "cross", "cmc": "all_hits", "invalid": "zero"},
        {"clothes_rule": "same", "camera_rule": "none", "ap": "trapezoid"},
        {"cmc": "single_gallery_shot", "camera_rule": "same_camera", "max_rank": 4},
        {"cmc": "single_gallery_shot", "repeats": 6, "seed": 8, "junk_pids": [2]},
    )
    arguments, worn = problem(33, 130, 7, 3, seed=5, ties=True), clothes(33, 130)
    arrays, worn_arrays = [value.numpy() for value in arguments], {k: v.numpy() for k, v in worn.items()}
    for kwargs in rules:
        want = rank_metrics(*arguments, **kwargs, **worn)
        for threads in (1, 3):
            got = door.rank_metrics(*arrays, **kwargs, **worn_arrays, num_threads=threads)
            for name, value in outputs(want).items():
                assert np.array_equal(getattr(got, name), value.numpy()), (kwargs, name)
    none = door.rank_metrics(arrays[0][:0], arrays[1][:0], arrays[2], arrays[3][:0], arrays[4], **rules[0])
    assert none.cmc_rank.shape == (0,)


def test_cuhk03_of_the_drop_ins_is_the_expectation():
    arrays = [value.numpy() for value in problem(30, 90, 9, 3, seed=2)]
    want = door.rank_metrics(*arrays, cmc="single_gallery_shot", max_rank=12)
    cmc, mean = door.evaluate_cy(*arrays, 12, use_metric_cuhk03=True)
    assert (cmc == want.cmc.astype(np.float32)).all()
    assert mean == want.mAP == door.evaluate_cy(*arrays, 12)[1]
    cmc, aps, _ = door.evaluate_fastreid(*arrays, 12, True)
    assert (cmc == want.cmc.astype(np.float32)).all()
    assert len(aps) == (want.status == 0).sum()


PROGRAM = """
import sys
import fastreid_ops.numpy as door
import numpy as np
rng = np.random.default_rng(0)
d = rng.random((20, 3000), dtype=np.float32).round(2)
a = rng.integers(9, size=20), rng.integers(9, size=3000), rng.integers(3, size=20), rng.integers(3, size=3000)
r = door.rank_metrics(d, *a)
assert door.evaluate_cy(d, *a, 50)[1] == r.mAP
assert "torch" not in sys.modules
print(repr(r.mAP), repr(r.mINP), r.cmc.tobytes().hex(), r.ap.tobytes().hex(), r.first_rank.tolist())
"""


def test_door_without_torch_in_every_instruction_set():
    root = Path(__file__).resolve().parents[2]
    lines = set()
    for name in ISAS_HERE:
        environment = {
            **os.environ,
            "FASTREID_ISA": name,
            "PYTHONPATH": os.pathsep.join([str(root), *sys.path[1:]]),
        }
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        lines.add(done.stdout)
    assert len(lines) == 1
    environment["FASTREID_ISA"] = "sse"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False
    )
    assert "FASTREID_ISA: got 'sse', expected baseline, avx2, avx512 or avx512_bf16" in done.stderr
