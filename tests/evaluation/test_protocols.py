# SPDX-License-Identifier: Apache-2.0
"""Protocols are data: complete, checked, printed, and found by name."""

import dataclasses
import itertools
import json
import math

import pytest

from fastreid_ops.evaluation import FAMILIES, PROTOCOLS, Protocol, protocol, protocols
from fastreid_ops.ops.ranking import AP_RULES, CAMERA_RULES, CLOTHES_RULES, CMC_RULES, INVALID_RULES


def test_the_table_names_its_entries():
    assert {"market1501", "no_camera"} <= PROTOCOLS.keys()
    assert all(name == entry.name for name, entry in PROTOCOLS.items())
    market = PROTOCOLS["market1501"]
    assert (market.ap, market.ties, market.camera_rule, market.max_rank) == (
        "step",
        "gallery_index",
        "same_pid",
        50,
    )
    assert PROTOCOLS["no_camera"] == dataclasses.replace(market, name="no_camera", camera_rule="none")


def test_every_choice_of_the_op_is_a_protocol():
    choices = {
        "ap": AP_RULES,
        "camera_rule": CAMERA_RULES,
        "clothes_rule": CLOTHES_RULES,
        "cmc": CMC_RULES,
        "invalid": INVALID_RULES,
    }
    made = [
        Protocol("x", **dict(zip(choices, values, strict=True)))
        for values in itertools.product(*choices.values())
    ]
    lines = {entry.describe() for entry in made}
    assert len(lines) == len(made) == math.prod(map(len, choices.values()))


OTHERS = {
    "name": "other",
    "ap": "trapezoid",
    "camera_rule": "none",
    "max_rank": 20,
    "clothes_rule": "cross",
    "cmc": "all_hits",
    "repeats": 5,
    "seed": 9,
    "invalid": "zero",
    "junk_pids": (-1, 0),
    "camera_aliases": ((3, 2), (4, 1)),
    "query_modality": "visible",
    "gallery_modality": "infrared",
    "query_cameras": (1, 2),
    "gallery_cameras": (0,),
    "camera_column": "tracklet",
    "query_draw": "pid_camera",
    "gallery_draw": "pid_camera",
    "shots": 10,
    "trials": 10,
    "draw_seeding": "official",
    "draw_seed": 3,
    "tracklets": "max",
    "normalise_tracklets": True,
    "ranking": 200,
    "splits": 10,
}
# What a field needs beside it to be allowed.
BESIDE = {
    "cmc": {"repeats": 0},
    **{key: {"gallery_draw": "pid_camera"} for key in ("shots", "trials", "draw_seeding", "draw_seed")},
    "normalise_tracklets": {"tracklets": "mean"},
}


def test_describe_shows_every_field():
    plain = Protocol("plain", cmc="single_gallery_shot", repeats=1)
    assert OTHERS.keys() | {"ties"} == {field.name for field in dataclasses.fields(Protocol)}
    for field, value in OTHERS.items():
        base = dataclasses.replace(plain, **BESIDE.get(field, {}))
        assert dataclasses.replace(base, **{field: value}).describe() != base.describe(), field
    assert "ties by gallery index" in plain.describe()


SELECTION = set(list(OTHERS)[list(OTHERS).index("query_modality") :])


def test_rows_as_given_keeps_the_rules_and_nothing_else():
    made = Protocol(**{**OTHERS, "cmc": "single_gallery_shot", "query_draw": "all"})
    bare = made.rows_as_given()
    assert bare.rules() == made.rules()
    assert (bare.ranking, bare.splits) == (200, 10)
    default = Protocol("x")
    for field in SELECTION - {"ranking", "splits"}:
        assert getattr(made, field) != getattr(default, field) or field == "query_draw"
        assert getattr(bare, field) == getattr(default, field), field


def test_the_op_gets_every_rule():
    made = Protocol("x", cmc="single_gallery_shot", repeats=4, seed=2, junk_pids=(5,))
    rules = made.rules()
    assert rules.keys() == OTHERS.keys() - {"name", "camera_aliases"} - SELECTION
    assert (rules["repeats"], rules["junk_pids"], rules["seed"]) == (4, (5,), 2)
    assert Protocol("y").rules()["repeats"] is None


def test_round_trip_of_every_protocol_through_json():
    extra = {**OTHERS, "cmc": "single_gallery_shot"}
    drawn = [Protocol(**{**extra, side: "all"}) for side in ("query_draw", "gallery_draw")]
    for entry in (*PROTOCOLS.values(), *drawn):
        values = json.loads(json.dumps(entry.to_dict()))
        assert Protocol.from_dict(values) == entry


def test_files_older_than_a_field_have_its_default():
    old = {
        "name": "market1501",
        "ap": "step",
        "ties": "gallery_index",
        "camera_rule": "same_pid",
        "max_rank": 50,
    }
    assert Protocol.from_dict(old) == PROTOCOLS["market1501"]


def test_frozen_and_round_trip():
    entry = Protocol("mine", ap="trapezoid", camera_rule="none", max_rank=7)
    assert Protocol.from_dict(entry.to_dict()) == entry
    with pytest.raises(dataclasses.FrozenInstanceError):
        entry.ap = "step"
    with pytest.raises(ValueError, match="unknown direction"):
        Protocol.from_dict({**entry.to_dict(), "direction": "both"})
    with pytest.raises(ValueError, match="no name"):
        Protocol.from_dict({"ap": "step"})


@pytest.mark.parametrize(
    ("error", "changes"),
    [
        (ValueError, {"ap": "average"}),
        (ValueError, {"ties": "random"}),
        (ValueError, {"camera_rule": None}),
        (ValueError, {"max_rank": 0}),
        (ValueError, {"max_rank": 1.5}),
        (ValueError, {"max_rank": True}),
        (ValueError, {"clothes_rule": "both"}),
        (ValueError, {"cmc": "mean"}),
        (ValueError, {"invalid": "drop"}),
        (ValueError, {"repeats": -1}),
        (ValueError, {"repeats": None}),
        (ValueError, {"repeats": 10}),
        (ValueError, {"seed": -1}),
        (TypeError, {"junk_pids": [-1]}),
        (TypeError, {"junk_pids": (1.0,)}),
        (TypeError, {"camera_aliases": {3: 2}}),
        (TypeError, {"camera_aliases": ((3,),)}),
        (ValueError, {"camera_aliases": ((3, 2), (3, 1))}),
        (ValueError, {"camera_aliases": ((3, 2), (2, 1))}),
        (ValueError, {"query_modality": "thermal"}),
        (TypeError, {"query_cameras": [1]}),
        (ValueError, {"gallery_cameras": (1, 1)}),
        (ValueError, {"gallery_draw": "camera"}),
        (ValueError, {"query_draw": "pid"}),
        (ValueError, {"shots": 0}),
        (ValueError, {"shots": 2}),
        (ValueError, {"trials": 10}),
        (ValueError, {"draw_seed": 3}),
        (ValueError, {"draw_seeding": "once"}),
        (ValueError, {"draw_seeding": "official", "gallery_draw": "pid"}),
        (ValueError, {"query_draw": "pid_camera", "gallery_draw": "pid"}),
        (ValueError, {"tracklets": "median"}),
        (ValueError, {"normalise_tracklets": True}),
        (TypeError, {"normalise_tracklets": 1, "tracklets": "mean"}),
        (ValueError, {"ranking": -1}),
        (ValueError, {"splits": 0}),
        (TypeError, {"name": ""}),
        (TypeError, {"name": None}),
    ],
)
def test_refuses(error, changes):
    field = next(iter(changes))
    with pytest.raises(error, match=f"Protocol: {field}: got .*, expected "):
        Protocol(**{"name": "x", **changes})


def test_by_name():
    assert protocol("no_camera") is PROTOCOLS["no_camera"]
    own = Protocol("own")
    assert protocol(own) is own
    with pytest.raises(ValueError, match="did you mean 'market1501'"):
        protocol("market1502")
    with pytest.raises(ValueError, match="got 'sysu', expected market1501 or no_camera or "):
        protocol("sysu")
    with pytest.raises(TypeError, match="got NoneType"):
        protocol(None)


def test_families():
    assert not FAMILIES.keys() & PROTOCOLS.keys()
    for name, members in FAMILIES.items():
        assert protocols(name) == tuple(PROTOCOLS[member] for member in members)
        assert len({PROTOCOLS[member].describe().partition(":")[2] for member in members}) == len(members)
    assert protocols("market1501") == (PROTOCOLS["market1501"],)
    with pytest.raises(
        ValueError, match=r"got 'llcm', a family of several, expected llcm_vis2nir or llcm_nir2vis"
    ):
        protocol("llcm")


def test_changed_fields():
    made = protocols("llcm", trials=2, draw_seed=7)
    assert [each.name for each in made] == [f"{name} (draw_seed=7, trials=2)" for name in FAMILIES["llcm"]]
    assert (
        dataclasses.replace(made[0], name="llcm_vis2nir", trials=10, draw_seed=0) == PROTOCOLS["llcm_vis2nir"]
    )
    assert protocols("market1501", junk_pids=[-1, 0])[0].junk_pids == (-1, 0)
    with pytest.raises(ValueError, match="trials: got 2, expected 1 where nothing is drawn"):
        protocols("market1501", trials=2)
    with pytest.raises(ValueError, match="unknown trial"):
        protocols("llcm", trial=2)
    with pytest.raises(ValueError, match="changes: got name="):
        protocols("llcm", name="mine")
