# SPDX-License-Identifier: Apache-2.0
"""evaluate() against rank_metrics and by hand; ranked_lists() against sorting everything."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ranking_by_definition import by_definition, drops

from fastreid_ops.evaluation import PROTOCOLS, Labels, Protocol, evaluate, ranked_lists


def problem(seed=0, queries=12, gallery=40, ties=True, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    distance = torch.rand(queries, gallery, generator=generator)
    if ties:
        distance = (distance * 6 - 3).round()  # with -0.0 among them

    def labels(count):
        return Labels(*(torch.randint(kinds, (count,), generator=generator) for kinds in (5, 3, 2)))

    return distance.to(dtype), labels(queries), labels(gallery)


def renamed(camids, made):
    aliases = dict(made.camera_aliases)
    return torch.tensor([aliases.get(camid, camid) for camid in camids.tolist()])


OWN = Protocol(
    "own",
    ap="trapezoid",
    clothes_rule="same",
    cmc="all_hits",
    invalid="zero",
    junk_pids=(1, 3),
    camera_aliases=((0, 7), (2, 1)),
    max_rank=90,
)


# The galleries that others are drawn from a generator: `test_random_galleries`.
EXACT = [name for name, made in PROTOCOLS.items() if not made.repeats]


@pytest.mark.parametrize("rules", [*EXACT, OWN])
def test_is_what_the_definition_says(rules):
    distance, query, gallery = problem()
    result = evaluate(distance, query, gallery, rules)
    made = result.protocol
    want = by_definition(
        distance,
        query.pids,
        gallery.pids,
        renamed(query.camids, made),
        renamed(gallery.camids, made),
        query_clothes=query.clothes,
        gallery_clothes=gallery.clothes,
        camera_rule=made.camera_rule,
        clothes_rule=made.clothes_rule,
        junk_pids=made.junk_pids,
        ap=made.ap,
        cmc=made.cmc,
        invalid=made.invalid,
        max_rank=made.max_rank,
    )
    assert (result.mAP, result.mINP) == pytest.approx((want["mAP"].item(), want["mINP"].item()), abs=1e-14)
    for name in ("cmc", "ap", "inp"):
        assert getattr(result, name) == pytest.approx(want[name].tolist(), abs=1e-14)
    for name in ("first_rank", "cmc_rank", "num_relevant", "status"):
        assert getattr(result, name) == want[name].tolist()
    assert result.rank(1) == result.cmc[0]


def test_random_galleries():
    """As many as one asks for, the same ones for the same seed, around the expectation."""
    distance, query, gallery = problem(7, 30, 60, ties=False)
    exact = evaluate(distance, query, gallery, "cuhk03")
    drawn = dataclasses.replace(PROTOCOLS["cuhk03"], repeats=400, seed=3)
    once, again = (evaluate(distance, query, gallery, drawn) for _ in range(2))
    assert once == again
    assert once.cmc != evaluate(distance, query, gallery, dataclasses.replace(drawn, seed=4)).cmc
    assert max(abs(a - b) for a, b in zip(once.cmc, exact.cmc, strict=True)) < 0.02  # 12,000 galleries
    assert once.ap == exact.ap


def test_by_hand():
    """Query 0: its own camera's copy is dropped, then hit, miss, hit. Query 1: only its own camera. Query 2:
    unknown."""
    distance = torch.tensor([[0.0, 0.1, 0.2, 0.3], [0.5, 0.6, 0.1, 0.7], [0.1, 0.2, 0.3, 0.4]])
    query = Labels(torch.tensor([1, 2, 3]), torch.tensor([0, 0, 0]))
    gallery = Labels(torch.tensor([1, 1, 2, 1]), torch.tensor([0, 1, 0, 2]))
    result = evaluate(distance, query, gallery)
    assert result.ap == [(1 / 1 + 2 / 3) / 2, 0, 0]
    assert result.inp == [2 / 3, 0, 0]
    assert result.mAP == result.ap[0]
    assert result.status == [0, 2, 1]
    assert result.counts == {"queries": 3, "gallery": 4, "valid": 1, "absent_pid": 1, "same_camera_only": 1}
    assert result.cmc == [1.0] * 50
    assert ranked_lists(distance, query, gallery, k=3) == [[1, 2, 3], [0, 1, 3], [0, 1, 2]]


def test_no_camera_needs_no_cameras():
    distance, query, gallery = problem()
    bare = [Labels(side.pids) for side in (query, gallery)]
    assert evaluate(distance, *bare, "no_camera") == evaluate(distance, query, gallery, "no_camera")
    assert ranked_lists(distance, *bare, "no_camera") == ranked_lists(distance, query, gallery, "no_camera")
    with pytest.raises(TypeError, match="query_camids: got None"):
        evaluate(distance, *bare)
    with pytest.raises(TypeError, match=r"query\.camids: got NoneType"):
        ranked_lists(distance, *bare)


def test_clothes_that_are_not_given_are_asked_for():
    distance, query, gallery = problem()
    bare = [side._replace(clothes=None) for side in (query, gallery)]
    with pytest.raises(TypeError, match="query_clothes: got None"):
        evaluate(distance, *bare, "clothes_changing")
    with pytest.raises(TypeError, match=r"query\.clothes: got NoneType"):
        ranked_lists(distance, *bare, "same_clothes")
    assert evaluate(distance, *bare) == evaluate(distance, query, gallery)


def test_one_camera_names_the_way_out():
    distance, query, gallery = problem()
    one = [Labels(side.pids, torch.zeros_like(side.pids)) for side in (query, gallery)]
    with pytest.raises(ValueError, match=r'12 have theirs only under their own camera.*protocol "no_camera"'):
        evaluate(distance, *one)
    assert evaluate(distance, *one, "no_camera").counts["valid"] == 12


def by_sorting(distance, query, gallery, made, k):
    labels = [
        [side.pids.tolist(), renamed(side.camids, made).tolist(), side.clothes.tolist()]
        for side in (query, gallery)
    ]
    rules = made.camera_rule, made.clothes_rule, made.junk_pids
    lists = []
    for q, row in enumerate(distance.double().tolist()):
        kept = [g for g in range(len(row)) if not drops(q, g, *labels, *rules)]
        lists.append(sorted(kept, key=lambda g: (row[g], g))[:k])
    return lists


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 50),
    st.integers(1, 60),
    st.booleans(),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    st.sampled_from(sorted(PROTOCOLS)),
)
def test_ranked_lists_are_the_total_order(seed, gallery_size, k, ties, dtype, name):
    distance, query, gallery = problem(seed, 4, gallery_size, ties, dtype)
    got = ranked_lists(distance, query, gallery, name, k)
    assert got == by_sorting(distance, query, gallery, PROTOCOLS[name], k)


def test_ranked_lists_agree_with_the_figures():
    distance, query, gallery = problem(3)
    result = evaluate(distance, query, gallery)
    for q, entries in enumerate(ranked_lists(distance, query, gallery, k=40)):
        hits = [rank for rank, g in enumerate(entries, start=1) if gallery.pids[g] == query.pids[q]]
        assert len(hits) == result.num_relevant[q]
        assert (hits[0] if hits else 0) == result.first_rank[q]


def test_ranked_lists_when_everything_is_dropped():
    labels = Labels(torch.tensor([1]), torch.tensor([1]))
    assert ranked_lists(torch.rand(1, 1), labels, labels) == [[]]
    assert (
        ranked_lists(torch.rand(0, 1), Labels(torch.tensor([], dtype=torch.int64)), labels, "no_camera") == []
    )


@pytest.mark.parametrize(
    ("error", "pattern", "changes"),
    [
        (ValueError, "k: got 0", {"k": 0}),
        (TypeError, "k: got float", {"k": 1.0}),
        (TypeError, "distance: got list", {"distance": [[1.0]]}),
        (TypeError, "distance: got int64", {"distance": torch.ones(12, 40, dtype=torch.int64)}),
        (ValueError, "distance: got shape", {"distance": torch.ones(12)}),
        (
            ValueError,
            "distance: got 12 NaN",
            {"distance": torch.rand(12, 40).index_fill_(1, torch.tensor([3]), torch.nan)},
        ),
        (ValueError, r"query\.pids: got shape", {"query": Labels(torch.arange(3), torch.arange(3))}),
        (TypeError, r"gallery\.camids: got float32", {"gallery": Labels(torch.arange(40), torch.ones(40))}),
        (ValueError, "protocol: name: got 'x'", {"protocol": "x"}),
    ],
)
def test_ranked_lists_refuse(error, pattern, changes):
    distance, query, gallery = problem()
    good = {"distance": distance, "query": query, "gallery": gallery, "protocol": "market1501", "k": 5}
    with pytest.raises(error, match=pattern):
        ranked_lists(**{**good, **changes})
