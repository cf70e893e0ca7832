# SPDX-License-Identifier: Apache-2.0
"""Protocols are data: complete, checked, printed, and found by name."""

import dataclasses
import itertools
import json
import math

import pytest

from fastreid_ops.evaluation import PROTOCOLS, Protocol, protocol
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
}


def test_describe_shows_every_field():
    plain = Protocol("plain", cmc="single_gallery_shot", repeats=1)
    assert OTHERS.keys() | {"ties"} == {field.name for field in dataclasses.fields(Protocol)}
    for field, value in OTHERS.items():
        base = dataclasses.replace(plain, repeats=0) if field == "cmc" else plain
        assert dataclasses.replace(base, **{field: value}).describe() != base.describe(), field
    assert "ties by gallery index" in plain.describe()


def test_the_op_gets_every_rule():
    made = Protocol("x", cmc="single_gallery_shot", repeats=4, seed=2, junk_pids=(5,))
    rules = made.rules()
    assert rules.keys() == OTHERS.keys() - {"name", "camera_aliases"}
    assert (rules["repeats"], rules["junk_pids"], rules["seed"]) == (4, (5,), 2)
    assert Protocol("y").rules()["repeats"] is None


def test_round_trip_of_every_protocol_through_json():
    extra = {**OTHERS, "cmc": "single_gallery_shot"}
    for entry in (*PROTOCOLS.values(), Protocol(**extra)):
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
        (TypeError, {"name": ""}),
        (TypeError, {"name": None}),
    ],
)
def test_refuses(error, changes):
    (field,) = changes
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
