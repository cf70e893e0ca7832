# SPDX-License-Identifier: Apache-2.0
"""Protocols as data: everything that two papers may do differently is a field, and is printed with every
result."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

_CHOICES = {
    "ap": ("step", "trapezoid"),
    "ties": ("gallery_index",),
    "camera_rule": ("same_pid", "none", "same_camera"),
    "clothes_rule": ("any", "cross", "same"),
    "cmc": ("first_hit", "unique_pid", "all_hits", "single_gallery_shot"),
    "invalid": ("skip", "zero"),
}
_WORDS = {
    "ap": {"step": "AP = mean of n/r_n", "trapezoid": "AP by trapezoids"},
    "ties": {"gallery_index": "ties by gallery index"},
    "camera_rule": {
        "same_pid": "same pid under the same camera is dropped",
        "none": "nothing is dropped for its camera",
        "same_camera": "everything under the same camera is dropped",
    },
    "clothes_rule": {
        "any": "clothes are not looked at",
        "cross": "same pid in the same clothes is dropped",
        "same": "same pid in other clothes is dropped",
    },
    "cmc": {
        "first_hit": "CMC of the first match",
        "unique_pid": "CMC of the first match among distinct pids",
        "all_hits": "CMC of every match, 1/P each",
        "single_gallery_shot": "CMC of galleries with one image of each pid",
    },
    "invalid": {"skip": "queries without a match are left out", "zero": "queries without a match count as 0"},
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
        camera_rule: "same_pid" drops gallery entries with the query's pid and the query's camid,
            "same_camera" those with the query's camid whatever their pid, "none" nothing.
        max_rank: length of the CMC.
        clothes_rule: of the entries with the query's pid, "cross" drops those in the query's clothes, "same"
            those in other clothes, "any" nothing.
        cmc: "first_hit", "unique_pid", "all_hits" or "single_gallery_shot"; see `fastreid_ops.rank_metrics`.
        repeats: random galleries for each query with "single_gallery_shot"; 0 for the expectation over all.
        seed: of those galleries.
        invalid: what queries without a match are: "skip" leaves them out of the means, "zero" counts them.
        junk_pids: pids whose gallery entries are dropped for every query.
        camera_aliases: (from, to) pairs: these camids of either side are renamed before the rule is applied.

    Raises:
        ValueError, TypeError: a field that is none of these, named.
    """

    name: str
    ap: str = "step"
    ties: str = "gallery_index"
    camera_rule: str = "same_pid"
    max_rank: int = 50
    clothes_rule: str = "any"
    cmc: str = "first_hit"
    repeats: int = 0
    seed: int = 0
    invalid: str = "skip"
    junk_pids: tuple[int, ...] = ()
    camera_aliases: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise TypeError(f"Protocol: name: got {self.name!r}, expected a non-empty string")
        for field, choices in _CHOICES.items():
            value = getattr(self, field)
            if value not in choices:
                expected = " or ".join(repr(choice) for choice in choices)
                raise ValueError(f"Protocol: {field}: got {value!r}, expected {expected}")
        for field, least in (("max_rank", 1), ("repeats", 0), ("seed", 0)):
            value = getattr(self, field)
            if not _integers([value]) or value < least:
                raise ValueError(f"Protocol: {field}: got {value!r}, expected an int of at least {least}")
        if self.repeats and self.cmc != "single_gallery_shot":
            raise ValueError(
                f"Protocol: repeats: got {self.repeats}, expected 0 for cmc={self.cmc!r}, which draws nothing"
            )
        if not isinstance(self.junk_pids, tuple) or not _integers(self.junk_pids):
            raise TypeError(f"Protocol: junk_pids: got {self.junk_pids!r}, expected a tuple of ints")
        pairs = self.camera_aliases
        if not isinstance(pairs, tuple) or not all(
            isinstance(pair, tuple) and len(pair) == 2 and _integers(pair) for pair in pairs
        ):
            raise TypeError(
                f"Protocol: camera_aliases: got {pairs!r}, expected a tuple of (camid, camid) tuples"
            )
        names = [old for old, _ in pairs]
        if len(set(names)) != len(names) or {new for _, new in pairs} & set(names):
            raise ValueError(
                f"Protocol: camera_aliases: got {pairs!r}, expected each camid renamed once, to one that is not"
            )

    @property
    def needs_cameras(self) -> bool:
        return self.camera_rule != "none"

    @property
    def needs_clothes(self) -> bool:
        return self.clothes_rule != "any"

    def rules(self) -> dict[str, Any]:
        """The keyword arguments of `fastreid_ops.rank_metrics`, all but the clothes. Aliases of cameras are the
        caller's."""
        kept = ("camera_rule", "clothes_rule", "junk_pids", "ap", "cmc", "seed", "invalid", "max_rank")
        return {**{name: getattr(self, name) for name in kept}, "repeats": self.repeats or None}

    def describe(self) -> str:
        """One line with every field, for logs, tables and figures; fields that do nothing are left out."""
        always = ("camera_rule", "ap", "ties")
        words = [_WORDS[field][getattr(self, field)] for field in always]
        defaults = {field.name: field.default for field in fields(self)}
        for field in ("clothes_rule", "invalid", "cmc"):
            if getattr(self, field) != defaults[field]:
                words.append(_WORDS[field][getattr(self, field)])
        if self.cmc == "single_gallery_shot":
            drawn = f"{self.repeats} random ones, seed {self.seed}" if self.repeats else "all of them"
            words[-1] += f" ({drawn})"
        elif self.seed:
            words.append(f"seed {self.seed}")
        if self.junk_pids:
            words.append(f"pids {', '.join(map(str, self.junk_pids))} are dropped")
        words.extend(f"camera {old} counts as {new}" for old, new in self.camera_aliases)
        return f"protocol {self.name}: {', '.join(words)}, CMC to rank {self.max_rank}"

    def to_dict(self) -> dict[str, Any]:
        """Plain strings, numbers and lists."""
        values = asdict(self)
        pairs = [list(pair) for pair in self.camera_aliases]
        return {**values, "junk_pids": list(self.junk_pids), "camera_aliases": pairs}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Protocol:
        """The inverse of `to_dict`. Missing fields have their defaults, as in files older than the field; unknown
        fields are errors, since a result read without them would be another one."""
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown or "name" not in values:
            got = f"unknown {', '.join(unknown)}" if unknown else "no name"
            raise ValueError(f"Protocol: fields: got {got}, expected {', '.join(known)}")
        values = dict(values)
        if isinstance(values.get("junk_pids"), list):
            values["junk_pids"] = tuple(values["junk_pids"])
        if isinstance(values.get("camera_aliases"), list):
            pairs = values["camera_aliases"]
            values["camera_aliases"] = tuple(
                tuple(pair) if isinstance(pair, list) else pair for pair in pairs
            )
        return cls(**values)


def _integers(values: Iterable[object]) -> bool:
    return all(isinstance(value, int) and not isinstance(value, bool) for value in values)


PROTOCOLS = {
    made.name: made
    for made in (
        # torchreid, fast-reid, TransReID and most papers, on any data set with cameras.
        Protocol("market1501"),
        Protocol("no_camera", camera_rule="none"),
        # The MATLAB script of Market-1501 and CUHK03-NP and its ports: -1 are boxes that are no person.
        Protocol("market1501_trapezoid", ap="trapezoid", junk_pids=(-1,), invalid="zero"),
        # Classic CUHK03 as torchreid and fast-reid do it; theirs draw 10 galleries, this is their expectation.
        Protocol("cuhk03", cmc="single_gallery_shot"),
        # LTCC and CCVID, clothes-changing and same-clothes.
        Protocol("clothes_changing", clothes_rule="cross"),
        Protocol("same_clothes", clothes_rule="same"),
        # PRCC: gallery camera A; queries camera B in the same, camera C in other clothes: the lists say which.
        Protocol("prcc"),
        # Cameras 2 and 3 stand in one place.
        Protocol(
            "sysu_mm01",
            camera_rule="same_camera",
            camera_aliases=((3, 2),),
            cmc="unique_pid",
            max_rank=20,
        ),
        Protocol("llcm", cmc="unique_pid", max_rank=20),
        Protocol("regdb", camera_rule="none", max_rank=20),
        # Open-ReID, cmc(first_match_break=False), and its cuhk03 preset. Its AP is tie-aware, this is not.
        Protocol("openreid_allshots", cmc="all_hits", max_rank=100),
        Protocol("openreid_cuhk03", camera_rule="same_camera", cmc="single_gallery_shot", max_rank=100),
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
