# SPDX-License-Identifier: Apache-2.0
"""Protocols are data: complete, checked, printed, and found by name."""

import dataclasses

import pytest

from fastreid_ops.evaluation import PROTOCOLS, Protocol, protocol
from fastreid_ops.ops.ranking import AP_RULES, CAMERA_RULES


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
    made = [Protocol("x", ap=ap, camera_rule=rule) for ap in AP_RULES for rule in CAMERA_RULES]
    lines = {entry.describe() for entry in made}
    assert len(lines) == len(AP_RULES) * len(CAMERA_RULES)


def test_describe_shows_every_field():
    plain = Protocol("plain")
    for field, value in (("name", "other"), ("ap", "trapezoid"), ("camera_rule", "none"), ("max_rank", 20)):
        changed = dataclasses.replace(plain, **{field: value})
        assert changed.describe() != plain.describe()
    assert "ties by gallery index" in plain.describe()


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
    with pytest.raises(ValueError, match="got 'sysu', expected market1501 or no_camera"):
        protocol("sysu")
    with pytest.raises(TypeError, match="got NoneType"):
        protocol(None)
