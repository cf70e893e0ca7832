# SPDX-License-Identifier: Apache-2.0
"""rank_metrics: ties, NaN, layouts, sizes, torch's transforms, and what went wrong in its predecessors."""

from __future__ import annotations

import fastreid_ops.numpy as door
import pytest
import torch
from spec_ranking import FLOATING, ISAS_HERE, clothes, equal, native_arguments, outputs, problem

from fastreid_ops import _C, rank_metrics
from fastreid_ops.ops.ranking import ABSENT_PID, SAME_CAMERA_ONLY, VALID, reference

# Ties, NaN, Inf


@pytest.mark.usefixtures("restore_isa")
@pytest.mark.parametrize("isa", ISAS_HERE)
def test_ties_go_by_gallery_index(isa):
    """A collapsed model (all distances equal): the order is the gallery's, and 0.0 and -0.0 are the same
    distance."""
    _C.set_isa(isa)
    for dtype in FLOATING:
        distance = torch.zeros(2, 4, dtype=dtype)
        distance[1] = torch.tensor([0.0, -0.0, 0.0, -0.0])
        got = rank_metrics(distance, torch.tensor([1, 3]), torch.tensor([0, 1, 2, 3]), camera_rule="none")
        assert got.first_rank.tolist() == [2, 4]


@pytest.mark.usefixtures("restore_isa")
@pytest.mark.parametrize("isa", ISAS_HERE)
def test_infinities_and_nan_when_not_checked(isa):
    _C.set_isa(isa)
    for dtype in FLOATING:
        row = torch.tensor([[torch.nan, torch.inf, 3.0, -torch.inf, torch.nan, -1.0]], dtype=dtype)
        negative = torch.tensor([[-torch.nan]], dtype=dtype)
        row = torch.cat([torch.copysign(negative, torch.tensor(-1.0, dtype=dtype)), row], 1)
        order = [4, 6, 3, 2, 0, 1, 5]  # -Inf, -1, 3, Inf, then the NaNs (either sign) by index
        for rank, g in enumerate(order, start=1):
            got = rank_metrics(
                row, torch.tensor([g]), torch.arange(7), camera_rule="none", check_finite=False
            )
            assert got.first_rank.item() == rank
            assert (
                got.first_rank.item()
                == reference(row, torch.tensor([g]), torch.arange(7), camera_rule="none").first_rank
            )
        with pytest.raises(ValueError, match="3 NaN and 2 Inf in 1 row"):
            rank_metrics(row, torch.tensor([3]), torch.arange(7), camera_rule="none")


@pytest.mark.usefixtures("restore_isa")
@pytest.mark.parametrize("isa", ISAS_HERE)
def test_extreme_values_keep_their_order(isa):
    _C.set_isa(isa)
    for dtype in FLOATING:
        info = torch.finfo(dtype)
        values = [
            info.min,
            -1.0,
            -info.tiny,
            -info.smallest_normal / 2,
            0.0,
            info.smallest_normal / 2,
            info.tiny,
            1.0,
            info.max,
        ]
        row = torch.tensor([values], dtype=dtype)
        got = [
            rank_metrics(row, torch.tensor([g]), torch.arange(9), camera_rule="none").first_rank.item()
            for g in range(9)
        ]
        want = [
            reference(row, torch.tensor([g]), torch.arange(9), camera_rule="none").first_rank.item()
            for g in range(9)
        ]
        assert got == want


# What went wrong elsewhere


def test_fewer_kept_entries_than_max_rank():
    """torchreid issue 424, reid-strong-baseline issue 92: ragged CMC rows. Past the kept length the CMC stays
    at 1."""
    distance = torch.tensor([[0.1, 0.2, 0.3], [0.3, 0.1, 0.2]])
    q_pids, g_pids = torch.tensor([1, 2]), torch.tensor([1, 1, 2])
    q_cams, g_cams = torch.tensor([0, 0]), torch.tensor([0, 1, 1])
    got = rank_metrics(distance, q_pids, g_pids, q_cams, g_cams, max_rank=6)
    assert got.first_rank.tolist() == [1, 2]
    assert got.cmc.tolist() == [0.5, 1, 1, 1, 1, 1]


def test_no_stale_values_from_the_query_before():
    """The Cython evaluators read the CMC of the previous query past the kept length; order must not matter
    here."""
    q_pids, g_pids = torch.tensor([1, 2]), torch.tensor([1, 2, 1])
    q_cams, g_cams = torch.tensor([0, 0]), torch.tensor([1, 1, 0])
    distance = torch.tensor([[0.3, 0.1, 0.2], [0.1, 0.2, 0.3]])
    forward = rank_metrics(distance, q_pids, g_pids, q_cams, g_cams, max_rank=4)
    backward = rank_metrics(distance.flip(0), q_pids.flip(0), g_pids, q_cams.flip(0), g_cams, max_rank=4)
    assert forward.cmc.tolist() == backward.cmc.tolist() == [0, 1, 1, 1]


def test_one_camera_is_explained():
    """torchreid issues 207 and 348: "all query identities do not appear in gallery" said neither why nor what
    to do."""
    distance = torch.rand(5, 4)
    q_pids, g_pids = torch.tensor([1, 2, 3, 8, 9]), torch.tensor([1, 2, 3, 1])
    cams = torch.zeros(5, dtype=torch.int64)
    with pytest.raises(ValueError, match="5 queries") as caught:
        rank_metrics(distance, q_pids, g_pids, cams, cams[:4])
    text = str(caught.value)
    assert "2 have a pid that is not in the gallery" in text
    assert "3 have theirs only under their own camera" in text
    assert 'camera_rule="none"' in text
    assert '"no_camera"' in text
    got = rank_metrics(distance, q_pids, g_pids, camera_rule="none")
    assert got.status.tolist() == [0, 0, 0, ABSENT_PID, ABSENT_PID]
    with pytest.raises(ValueError, match="2 have a pid that is not in the gallery") as caught:
        rank_metrics(distance[3:], q_pids[3:], g_pids, camera_rule="none")
    assert "no_camera" not in str(caught.value)


def test_two_definitions_of_ap_are_two_names():
    """fast-reid issue 18, light-reid issue 6: the trapezoidal AP is lower; each has its name here."""
    arguments = problem(50, 500, 10, 4, seed=4)
    step, trapezoid = (rank_metrics(*arguments, ap=ap) for ap in ("step", "trapezoid"))
    assert (trapezoid.ap < step.ap).all()
    assert torch.equal(step.cmc, trapezoid.cmc)


def test_invalid_queries_are_the_same_everywhere():
    """fast-reid pull request 153: the fast path counted invalid queries as zeros, the slow one left them
    out."""
    arguments = problem(30, 40, 25, 1, seed=6)
    cams = arguments[3], torch.arange(40) % 2
    arguments = (*arguments[:3], *cams)
    got = rank_metrics(*arguments)
    assert set(got.status.tolist()) == {VALID, ABSENT_PID, SAME_CAMERA_ONLY}
    assert equal(got, reference(*arguments))
    valid = got.status == VALID
    assert got.mAP.item() == pytest.approx(got.ap[valid].mean().item())
    from_numpy = door.rank_metrics(*(a.numpy() for a in arguments))
    for name, value in outputs(got).items():
        assert torch.equal(torch.as_tensor(getattr(from_numpy, name), dtype=value.dtype), value), name


# Shapes, layouts, dtypes


def test_no_queries():
    got = rank_metrics(
        torch.rand(0, 3), torch.zeros(0, dtype=torch.int64), torch.arange(3), camera_rule="none", max_rank=2
    )
    assert got.cmc.tolist() == [0, 0]
    assert (got.mAP.item(), got.mINP.item()) == (0, 0)
    assert [value.shape for value in got[3:]] == [(0,)] * 6
    assert equal(
        got,
        reference(
            torch.rand(0, 3),
            torch.zeros(0, dtype=torch.int64),
            torch.arange(3),
            camera_rule="none",
            max_rank=2,
        ),
    )


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.uint64]
)
def test_labels_of_any_integer_dtype(dtype):
    arguments = problem(9, 50, 5, 3, seed=1)
    got = rank_metrics(arguments[0], *(labels.to(dtype) for labels in arguments[1:]))
    assert equal(got, rank_metrics(*arguments))


def test_labels_of_any_value():
    arguments = problem(9, 50, 5, 3, seed=1)
    want = rank_metrics(*arguments)
    values = torch.tensor([-(2**63), -1, 0, 7, 2**63 - 1])
    moved = [values[labels] for labels in arguments[1:]]
    assert equal(rank_metrics(arguments[0], *moved), want)


@pytest.mark.parametrize("dtype", FLOATING)
def test_layouts(dtype):
    distance, *labels = problem(8, 40, 4, 3, seed=9, dtype=dtype, ties=True)
    want = reference(distance, *labels)
    wide = torch.full((8, 90), torch.nan, dtype=dtype)
    wide[:, 5:85:2] = distance
    for view in (distance.mT.contiguous().mT, wide[:, 5:85:2]):
        before = view.clone()
        assert equal(rank_metrics(view, *labels), want)
        assert torch.equal(view, before)
    expanded = distance[2:3].expand(8, 40)
    assert expanded.stride(0) == 0
    assert equal(rank_metrics(expanded, *labels), reference(expanded.contiguous(), *labels))
    column = distance[:, 3:4].expand(8, 40)
    assert equal(rank_metrics(column, *labels), reference(column.contiguous(), *labels))


@pytest.mark.parametrize("size", [46340, 46341])
def test_more_than_two_to_the_31_entries(size):
    """On both sides of the square root of 2**31, behind one stored row; each query has one match, itself."""
    row = torch.randperm(size, generator=torch.Generator().manual_seed(0)).to(torch.float32)
    pids = torch.arange(size)
    got = rank_metrics(row.expand(size, size), pids, pids, camera_rule="none", max_rank=1)
    assert torch.equal(got.first_rank, row.to(torch.int64) + 1)
    assert got.cmc.item() == 1 / size


def test_offsets_beyond_two_to_the_31():
    """Strides of 2**31 elements, in 4 GiB of address space of which a few pages are touched."""
    far = torch.empty(2**31 + 64, dtype=torch.float16)
    for shape, strides in (((2, 8), (2**31, 1)), ((8, 2), (1, 2**31))):
        view = far.as_strided(shape, strides).copy_(torch.arange(16).view(8, 2).view(shape))
        pids = torch.arange(shape[1])
        got = rank_metrics(view, torch.full((shape[0],), shape[1] - 1), pids, camera_rule="none")
        assert got.first_rank.tolist() == [shape[1]] * shape[0]


# Under torch


def test_no_gradient():
    arguments = problem(4, 20, 3, 2, seed=2)
    distance = arguments[0].requires_grad_()
    assert not any(value.requires_grad for value in rank_metrics(distance, *arguments[1:]))


def test_compile_and_export():
    arguments = problem(6, 30, 3, 2, seed=3)

    def metrics(*tensors):
        return tuple(rank_metrics(*tensors, max_rank=5))

    class Module(torch.nn.Module):
        def forward(self, *tensors):
            return metrics(*tensors)

    want = metrics(*arguments)
    compiled = torch.compile(metrics, backend="aot_eager", fullgraph=True, dynamic=True)
    exported = torch.export.export(Module(), arguments).module()
    for call in (compiled, exported):
        assert all(torch.equal(a, b) for a, b in zip(call(*arguments), want, strict=True))


@pytest.mark.parametrize(
    "rules",
    [
        {"cmc": "unique_pid", "clothes_rule": "cross"},
        {"cmc": "all_hits", "junk_pids": (1,), "invalid": "zero"},
        {"cmc": "single_gallery_shot", "repeats": 3},
        {"camera_rule": "same_camera"},
    ],
    ids=str,
)
def test_compile_with_other_rules(rules):
    """same_camera has as many rows of bits as there are cameras, which only the values say: the graph is broken
    there."""
    distance, *labels = problem(6, 70, 3, 2, seed=3)
    worn = clothes(6, 70)

    def metrics(*tensors):
        return tuple(rank_metrics(*tensors, **rules, **worn))

    whole = rules.get("camera_rule") != "same_camera"
    compiled = torch.compile(metrics, backend="aot_eager", fullgraph=whole, dynamic=True)
    want = metrics(distance, *labels)
    assert all(torch.equal(a, b) for a, b in zip(compiled(distance, *labels), want, strict=True))


def test_meta_tensors_have_shapes():
    got = rank_metrics(*(value.to("meta") for value in problem(6, 30, 3, 2)), max_rank=5)
    assert [tuple(value.shape) for value in got] == [(5,), (), (), *[(6,)] * 6]


def test_autocast_changes_nothing():
    arguments = problem(6, 30, 3, 2, seed=3, dtype=torch.float64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert equal(rank_metrics(*arguments), reference(*arguments))


def test_direct_calls_stay_inside_their_memory():
    arguments = problem(3, 8, 2, 2)
    given = {"clothes_rule": "cross", "camera_rule": "same_pid", "junk_pids": (7,), "cmc": "unique_pid"}
    good = dict(enumerate(native_arguments(arguments, **given, **clothes(3, 8))))
    distance, members, begin, end, q_cams, g_cams, _, _, row, bits, identity = list(good.values())[:11]
    op = torch.ops.fastreid.rank_metrics.default
    op(*good.values())
    wrong = {
        0: [distance[0], distance.int()],
        1: [members + 1, members - 1, members[:7], members.int(), torch.arange(16)[::2]],
        2: [begin - 1, end + 9],
        3: [end + 9, begin - 1],
        4: [None, g_cams],
        5: [None, q_cams],
        6: [None, g_cams],
        7: [None, q_cams],
        8: [None, row + 1, row - 1, row[:2]],
        9: [bits[0], bits[:, :0], bits.int(), bits - 2**63, bits | 256],
        10: [None, identity + 8, identity - 1, identity[:7]],
        11: [2, -1],
        12: [3],
        13: [-1],
        14: [4],
        15: [2],
        16: [0],
        17: [-1],
    }
    for place, value in ((place, value) for place, values in wrong.items() for value in values):
        with pytest.raises((ValueError, RuntimeError), match="rank_metrics"):
            op(*{**good, place: value}.values())
