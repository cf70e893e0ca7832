# SPDX-License-Identifier: Apache-2.0
"""Every protocol by its name, as data; docs/protocols.md has where each comes from and what other code does."""

from __future__ import annotations

import difflib
from dataclasses import replace
from typing import Any

from fastreid_ops.evaluation._protocol import Protocol

__all__ = ["FAMILIES", "PROTOCOLS", "Protocol", "protocol", "protocols"]

# Camids count from 0: camera 1 of a paper is 0 here.
_MARKET = Protocol("market1501")
_CUHK03 = Protocol("cuhk03", cmc="single_gallery_shot")
_CROSS = Protocol("clothes_changing", clothes_rule="cross")
_SAME = Protocol("same_clothes", clothes_rule="same")
# Query: everything infrared (cameras 3 and 6). Cameras 2 and 3 stand in one place.
_SYSU = Protocol(
    "sysu_mm01",
    camera_rule="same_camera",
    camera_aliases=((2, 1),),
    cmc="unique_pid",
    max_rank=20,
    query_modality="infrared",
    gallery_modality="visible",
    gallery_draw="pid_camera",
    trials=10,
    draw_seeding="official",
)
_LLCM = Protocol(
    "llcm_vis2nir",
    cmc="unique_pid",
    max_rank=20,
    query_modality="visible",
    gallery_modality="infrared",
    gallery_draw="pid_camera",
    trials=10,
)
_REGDB = Protocol(
    "regdb_visible2thermal",
    camera_rule="none",
    max_rank=20,
    query_modality="visible",
    gallery_modality="infrared",
    splits=10,
)
# Gallery: camera A. Query: camera B in the same clothes, camera C in others.
_PRCC = Protocol("prcc_same_clothes", query_cameras=(1,), gallery_cameras=(0,))
_PRCC_CROSS = replace(_PRCC, name="prcc_cross_clothes", query_cameras=(2,))
# One gallery image of each pid, ten times, from one stream of numbers.
_SINGLE_SHOT = {"gallery_draw": "pid", "trials": 10, "draw_seeding": "once", "draw_seed": 3}
_MARS = Protocol("mars", tracklets="mean")
_NAIC = Protocol("naic_undivided", camera_rule="none", ranking=200)
_RANDOM_GALLERY = Protocol("random_gallery", camera_rule="none", gallery_draw="pid_rest_query", trials=10)

PROTOCOLS = {
    made.name: made
    for made in (
        # torchreid, fast-reid, TransReID and most papers, on any data set with cameras.
        _MARKET,
        replace(_MARKET, name="no_camera", camera_rule="none"),
        # The MATLAB script of Market-1501 and CUHK03-NP and its ports: -1 are boxes that are no person.
        replace(_MARKET, name="market1501_trapezoid", ap="trapezoid", junk_pids=(-1,), invalid="zero"),
        # Classic CUHK03: the expectation over all galleries, and the draws of old and new torchreid.
        _CUHK03,
        replace(_CUHK03, name="cuhk03_100", repeats=100),
        replace(_CUHK03, name="cuhk03_10", repeats=10),
        _SYSU,
        replace(_SYSU, name="sysu_mm01_multishot", shots=10),
        replace(_SYSU, name="sysu_mm01_indoor", gallery_cameras=(0, 1)),
        replace(_SYSU, name="sysu_mm01_indoor_multishot", gallery_cameras=(0, 1), shots=10),
        _LLCM,
        replace(_LLCM, name="llcm_nir2vis", query_modality="infrared", gallery_modality="visible"),
        # What LLCM's own repository computes for VIS to NIR: the drawn NIR images search all VIS images.
        replace(
            _LLCM,
            name="llcm_vis2nir_transposed",
            query_modality="infrared",
            gallery_modality="visible",
            query_draw="pid_camera",
            gallery_draw="all",
        ),
        _REGDB,
        replace(_REGDB, name="regdb_thermal2visible", query_modality="infrared", gallery_modality="visible"),
        # Any data set with clothes: LTCC's and CCVID's two ways to drop entries.
        _CROSS,
        _SAME,
        _PRCC,
        _PRCC_CROSS,
        replace(_PRCC, name="prcc_same_clothes_single", **_SINGLE_SHOT),
        replace(_PRCC_CROSS, name="prcc_cross_clothes_single", **_SINGLE_SHOT),
        replace(_MARKET, name="ltcc_standard"),
        replace(_CROSS, name="ltcc_clothes_changing"),
        # All cameras; cameras 2 and 3, where clothes stay; cameras 3 and 4, where they change.
        replace(_MARKET, name="vcclothes_all"),
        replace(_MARKET, name="vcclothes_same_clothes", query_cameras=(1, 2), gallery_cameras=(1, 2)),
        replace(_MARKET, name="vcclothes_cross_clothes", query_cameras=(2, 3), gallery_cameras=(2, 3)),
        # The sources write the tracklet where the camera belongs, and so does the reader. The second is for manifests
        # with cameras in that place and a column of tracklets.
        replace(_MARKET, name="deepchange"),
        replace(_MARKET, name="deepchange_tracklet_column", camera_column="tracklet"),
        # Video: a tracklet is one entry. CCVID scales the mean of its clips to length one.
        _MARS,
        replace(_MARS, name="ccvid_standard", normalise_tracklets=True),
        replace(_MARS, name="ccvid_clothes_changing", clothes_rule="cross", normalise_tracklets=True),
        # Each lighting half of the test set is ranked within itself.
        _NAIC,
        *(
            replace(_NAIC, name=f"naic_{half}", query_modality=half, gallery_modality=half)
            for half in ("green", "normal")
        ),
        # VehicleID: one random image of each id is the gallery. The second keeps Market-1501's camera rule, for sets
        # with cameras (VeRi).
        _RANDOM_GALLERY,
        replace(_RANDOM_GALLERY, name="random_gallery_cross_camera", camera_rule="same_pid"),
        # Open-ReID, cmc(first_match_break=False), and its cuhk03 preset. Its AP is tie-aware, this is not.
        Protocol("openreid_allshots", cmc="all_hits", max_rank=100),
        Protocol("openreid_cuhk03", camera_rule="same_camera", cmc="single_gallery_shot", max_rank=100),
    )
}

# What a paper reports side by side.
FAMILIES = {
    "sysu_mm01_family": (
        "sysu_mm01",
        "sysu_mm01_multishot",
        "sysu_mm01_indoor",
        "sysu_mm01_indoor_multishot",
    ),
    "llcm": ("llcm_vis2nir", "llcm_nir2vis"),
    "regdb": ("regdb_visible2thermal", "regdb_thermal2visible"),
    "prcc": ("prcc_same_clothes", "prcc_cross_clothes"),
    "ltcc": ("ltcc_standard", "ltcc_clothes_changing"),
    "vcclothes": ("vcclothes_all", "vcclothes_same_clothes", "vcclothes_cross_clothes"),
    "naic": ("naic_green", "naic_normal"),
    "ccvid": ("ccvid_standard", "ccvid_clothes_changing"),
}


def protocol(name: str | Protocol) -> Protocol:
    """The protocol of that name; a Protocol is returned as it is.

    Raises:
        ValueError: no such name; the message has the nearest one, or the members of a family.
    """
    if isinstance(name, Protocol):
        return name
    if not isinstance(name, str):
        raise TypeError(f"protocol: name: got {type(name).__name__}, expected a name or a Protocol")
    if name in FAMILIES:
        members = " or ".join(FAMILIES[name])
        raise ValueError(f"protocol: name: got {name!r}, a family of several, expected {members}")
    if name not in PROTOCOLS:
        near = difflib.get_close_matches(name, [*PROTOCOLS, *FAMILIES], n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"protocol: name: got {name!r}, expected {' or '.join(PROTOCOLS)}{hint}")
    return PROTOCOLS[name]


def protocols(name: str | Protocol, /, **changes: Any) -> tuple[Protocol, ...]:
    """The protocols of a family, or the one of that name.

    Args:
        changes: fields of `Protocol` to have otherwise, lists for tuples; the name of a changed protocol says so.

    Raises:
        ValueError, TypeError: no such name; a field that is none, or a value that it does not take.
    """
    known = isinstance(name, str) and name in FAMILIES
    found = [PROTOCOLS[member] for member in FAMILIES[name]] if known else [protocol(name)]
    if not changes:
        return tuple(found)
    words = ", ".join(f"{field}={value}" for field, value in sorted(changes.items()))
    if "name" in changes:
        raise ValueError(f"protocols: changes: got name={changes['name']!r}, expected other fields")
    return tuple(
        Protocol.from_dict({**made.to_dict(), **changes, "name": f"{made.name} ({words})"}) for made in found
    )
