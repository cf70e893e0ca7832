# SPDX-License-Identifier: Apache-2.0
"""What a protocol is made of: everything that two papers may do differently is a field, and is printed with every
result."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

# The last two are the lighting halves of NAIC's test set.
_MODALITIES = ("visible", "infrared", "green", "normal")
_CHOICES = {
    "ap": ("step", "trapezoid"),
    "ties": ("gallery_index",),
    "camera_rule": ("same_pid", "none", "same_camera"),
    "clothes_rule": ("any", "cross", "same"),
    "cmc": ("first_hit", "unique_pid", "all_hits", "single_gallery_shot"),
    "invalid": ("skip", "zero"),
    "query_modality": ("", *_MODALITIES),
    "gallery_modality": ("", *_MODALITIES),
    "camera_column": ("camid", "tracklet"),
    "query_draw": ("all", "pid_camera"),
    "gallery_draw": ("all", "pid_camera", "pid", "pid_rest_query"),
    "draw_seeding": ("each_trial", "once", "official"),
    "tracklets": ("frames", "mean", "max"),
}
# Which rows stand on which side. A matrix or plain features with labels come without: their rows are taken as given.
_SELECTION = (
    "query_modality",
    "gallery_modality",
    "query_cameras",
    "gallery_cameras",
    "camera_column",
    "query_draw",
    "gallery_draw",
    "shots",
    "trials",
    "draw_seeding",
    "draw_seed",
    "tracklets",
    "normalise_tracklets",
)
_LEAST = {
    "max_rank": 1,
    "repeats": 0,
    "seed": 0,
    "shots": 1,
    "trials": 1,
    "draw_seed": 0,
    "ranking": 0,
    "splits": 1,
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
        query_modality, gallery_modality: "visible", "infrared", or "green", "normal" (the halves of NAIC's test
            set): the rows of that modality; "" all of them.
        query_cameras, gallery_cameras: the rows of these camids (from 0, before any alias); () all of them. Draws
            go through the cameras in this order.
        camera_column: what the camera rule calls a camera: "camid", or "tracklet" where the sources put the tracklet
            in its place (DeepChange).
        gallery_draw: "all" rows; or, at random, ``shots`` images of each pid under each camera ("pid_camera"), of
            each pid ("pid"), or of each pid with all that was not drawn as the queries ("pid_rest_query").
        query_draw: "pid_camera" draws the queries instead, as LLCM's own script does in one direction.
        shots: images of a draw; fewer where there are fewer.
        trials: draws, whose figures are averaged.
        draw_seeding: "each_trial" is Python's ``random.seed(draw_seed + trial)`` before each trial, "once"
            ``random.seed(draw_seed)`` before the first one; "official" takes the data set's own table of
            permutations and becomes "each_trial" where none is handed over, so that a result says which it was.
        draw_seed: see draw_seeding.
        tracklets: "frames" are images of their own; "mean" or "max" makes one feature of each tracklet.
        normalise_tracklets: scale those to length one.
        ranking: gallery names listed for each query in a ranking file (NAIC: 200); 0 for no such file.
        splits: published splits, each with a model of its own, whose mean papers report; one evaluation is one.

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
    query_modality: str = ""
    gallery_modality: str = ""
    query_cameras: tuple[int, ...] = ()
    gallery_cameras: tuple[int, ...] = ()
    camera_column: str = "camid"
    query_draw: str = "all"
    gallery_draw: str = "all"
    shots: int = 1
    trials: int = 1
    draw_seeding: str = "each_trial"
    draw_seed: int = 0
    tracklets: str = "frames"
    normalise_tracklets: bool = False
    ranking: int = 0
    splits: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise TypeError(f"Protocol: name: got {self.name!r}, expected a non-empty string")
        for field, choices in _CHOICES.items():
            value = getattr(self, field)
            if value not in choices:
                expected = " or ".join(repr(choice) for choice in choices)
                raise ValueError(f"Protocol: {field}: got {value!r}, expected {expected}")
        for field, least in _LEAST.items():
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
        self._check_selection()
        names = [old for old, _ in pairs]
        if len(set(names)) != len(names) or {new for _, new in pairs} & set(names):
            raise ValueError(
                f"Protocol: camera_aliases: got {pairs!r}, expected each camid renamed once, to one that is not"
            )

    def _check_selection(self) -> None:
        for field in ("query_cameras", "gallery_cameras"):
            value = getattr(self, field)
            if not isinstance(value, tuple) or not _integers(value):
                raise TypeError(f"Protocol: {field}: got {value!r}, expected a tuple of ints")
            if len(set(value)) != len(value):
                raise ValueError(f"Protocol: {field}: got {value!r}, expected each camid once")
        if self.query_draw != "all" and self.gallery_draw != "all":
            raise ValueError(
                f"Protocol: query_draw: got {self.query_draw!r}, expected 'all' where gallery_draw is "
                f"{self.gallery_draw!r}"
            )
        defaults = {field.name: field.default for field in fields(self)}
        if not self.draws:
            for field in ("shots", "trials", "draw_seeding", "draw_seed"):
                if getattr(self, field) != defaults[field]:
                    raise ValueError(
                        f"Protocol: {field}: got {getattr(self, field)!r}, expected {defaults[field]!r} where "
                        "nothing is drawn (gallery_draw and query_draw are 'all')"
                    )
        if self.draw_seeding == "official" and "pid_camera" not in (self.gallery_draw, self.query_draw):
            raise ValueError(
                "Protocol: draw_seeding: got 'official', expected a draw by 'pid_camera', as those tables are"
            )
        if not isinstance(self.normalise_tracklets, bool):
            raise TypeError(
                f"Protocol: normalise_tracklets: got {self.normalise_tracklets!r}, expected True or False"
            )
        if self.normalise_tracklets and self.tracklets == "frames":
            raise ValueError("Protocol: normalise_tracklets: got True, expected False for tracklets='frames'")

    @property
    def draws(self) -> bool:
        return self.query_draw != "all" or self.gallery_draw != "all"

    def rows_as_given(self) -> Protocol:
        """The same rules for rows that somebody else has selected, drawn and pooled."""
        defaults = {field.name: field.default for field in fields(self)}
        return replace(self, **{name: defaults[name] for name in _SELECTION})

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
        words.extend(self._selection())
        return f"protocol {self.name}: {', '.join(words)}, CMC to rank {self.max_rank}"

    def _selection(self) -> list[str]:
        """What is said of the rows, the draws and the files; nothing where nothing is chosen."""
        words = []
        for side in ("query", "gallery"):
            modality, cameras = getattr(self, f"{side}_modality"), getattr(self, f"{side}_cameras")
            if modality or cameras:
                under = f"camids {', '.join(map(str, cameras))}" if cameras else ""
                words.append(f"{side}: {' under '.join(part for part in (modality, under) if part)}")
        if self.camera_column != "camid":
            words.append(f"the {self.camera_column} counts as the camera")
        if self.draws:
            side = "query" if self.query_draw != "all" else "gallery"
            each = "pid and camera" if "pid_camera" in (self.query_draw, self.gallery_draw) else "pid"
            rest = ", the others are the queries" if self.gallery_draw == "pid_rest_query" else ""
            size = f"{self.shots} image{'s' if self.shots > 1 else ''}"
            how = {
                "each_trial": f"random.seed({self.draw_seed} + trial)",
                "once": f"random.seed({self.draw_seed}) once",
                "official": f"the official permutations (else seed {self.draw_seed} + trial)",
            }[self.draw_seeding]
            words.append(f"{side}: {size} of each {each}{rest}, drawn by {how}")
            words.append(f"{self.trials} trial{'s' if self.trials > 1 else ''}")
        if self.tracklets != "frames":
            words.append(f"features of a tracklet pooled by {self.tracklets}")
        if self.normalise_tracklets:
            words.append("and scaled to length one")
        if self.ranking:
            words.append(f"ranking file of {self.ranking} names")
        if self.splits > 1:
            words.append(f"one of {self.splits} splits with a model each")
        return words

    def to_dict(self) -> dict[str, Any]:
        """Plain strings, numbers and lists."""
        return {
            name: [list(item) if isinstance(item, tuple) else item for item in value]
            if isinstance(value, tuple)
            else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Protocol:
        """The inverse of `to_dict`. Missing fields have their defaults, as in files older than the field; unknown
        fields are errors, since a result read without them would be another one."""
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown or "name" not in values:
            got = f"unknown {', '.join(unknown)}" if unknown else "no name"
            raise ValueError(f"Protocol: fields: got {got}, expected {', '.join(known)}")
        return cls(
            **{
                name: tuple(tuple(item) if isinstance(item, list) else item for item in value)
                if isinstance(value, list)
                else value
                for name, value in values.items()
            }
        )


def _integers(values: Iterable[object]) -> bool:
    return all(isinstance(value, int) and not isinstance(value, bool) for value in values)
