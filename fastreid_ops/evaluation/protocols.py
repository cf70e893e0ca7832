# SPDX-License-Identifier: Apache-2.0
"""Protocols as data: everything that two papers may do differently is a field, and is printed with every
result."""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass, fields
from typing import Any

_CHOICES = {
    "ap": ("step", "trapezoid"),
    "ties": ("gallery_index",),
    "camera_rule": ("same_pid", "none"),
}
_WORDS = {
    "step": "AP = mean of n/r_n",
    "trapezoid": "AP by trapezoids",
    "gallery_index": "ties by gallery index",
    "same_pid": "same pid under the same camera is dropped",
    "none": "nothing is dropped",
}


@dataclass(frozen=True)
class Protocol:
    """How a distance matrix becomes figures.

    Attributes:
        name: what it is called in configurations and results.
        ap: average precision as "step" (n/r_n at each match; torchreid, fast-reid and most papers) or
            "trapezoid" (the scripts of Market-1501 and CUHK03-NP, up to 1 point lower on Market-1501, up to 3
            on CUHK03-NP).
        ties: order of equal distances; "gallery_index".
        camera_rule: "same_pid" drops gallery entries with the query's pid and the query's camid, "none"
            nothing.
        max_rank: length of the CMC.

    Raises:
        ValueError, TypeError: a field that is none of these, named.
    """

    name: str
    ap: str = "step"
    ties: str = "gallery_index"
    camera_rule: str = "same_pid"
    max_rank: int = 50

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise TypeError(f"Protocol: name: got {self.name!r}, expected a non-empty string")
        for field, choices in _CHOICES.items():
            value = getattr(self, field)
            if value not in choices:
                expected = " or ".join(repr(choice) for choice in choices)
                raise ValueError(f"Protocol: {field}: got {value!r}, expected {expected}")
        if isinstance(self.max_rank, bool) or not isinstance(self.max_rank, int) or self.max_rank < 1:
            raise ValueError(f"Protocol: max_rank: got {self.max_rank!r}, expected an int of at least 1")

    def describe(self) -> str:
        """One line with every field, for logs, tables and figures."""
        rules = ", ".join(_WORDS[value] for value in (self.camera_rule, self.ap, self.ties))
        return f"protocol {self.name}: {rules}, CMC to rank {self.max_rank}"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Protocol:
        """The inverse of `to_dict`; unknown fields are errors, since a result read without them would be
        another one."""
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown or "name" not in values:
            got = f"unknown {', '.join(unknown)}" if unknown else "no name"
            raise ValueError(f"Protocol: fields: got {got}, expected {', '.join(known)}")
        return cls(**values)


PROTOCOLS = {
    made.name: made
    for made in (
        Protocol("market1501"),
        Protocol("no_camera", camera_rule="none"),
    )
}


def protocol(name: str | Protocol) -> Protocol:
    """The protocol of that name; a Protocol is returned as it is.

    Raises:
        ValueError: no such name; the message has the nearest one.
    """
    if isinstance(name, Protocol):
        return name
    if not isinstance(name, str):
        raise TypeError(f"protocol: name: got {type(name).__name__}, expected a name or a Protocol")
    if name not in PROTOCOLS:
        near = difflib.get_close_matches(name, PROTOCOLS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"protocol: name: got {name!r}, expected {' or '.join(PROTOCOLS)}{hint}")
    return PROTOCOLS[name]
