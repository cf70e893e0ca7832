# SPDX-License-Identifier: Apache-2.0
"""Arrangements of public data sets: who asks, who answers, which camera is called what; and tracklets."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from fastreid_ops.data.manifest import Manifest
from fastreid_ops.data.people import PeopleOptions, render_dataset, render_person
from fastreid_ops.data.people.dataset import _manifest
from fastreid_ops.data.people.layouts import LAYOUTS
from fastreid_ops.data.people.shots import jobs, pictures

SMALL = PeopleOptions(train_ids=3, test_ids=2, height=32, width=16)


def rows(name: str, **options) -> dict[str, list[tuple]]:
    """Split -> (pid, camid, modality, clothes) of its rows, without rendering a picture."""
    manifest = _manifest(".", replace(SMALL, like=name, **options))
    assert manifest.problems() == []
    found = defaultdict(list)
    for row in range(len(manifest)):
        values = (manifest.pid[row], manifest.camid[row], manifest.modality[row], manifest.clothes[row])
        found[manifest.split[row]].append(values)
    return found


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("tracklet_length", [0, 3])
def test_one_file_for_each_picture_and_no_picture_too_many(name: str, tracklet_length: int):
    options = replace(SMALL, like=name, tracklet_length=tracklet_length, distractors=2)
    every, files = jobs(options), pictures(options)
    assert len({job.path for job in files}) == len(files)
    assert {job.path for job in files} == {job.path for job in every}
    for split in ("train", "query", "gallery"):
        paths = [job.path for job in every if job.split == split]
        assert len(set(paths)) == len(paths) > 0
        assert paths == sorted(paths)
    # One file is one picture: whoever names it means the same.
    looks = defaultdict(set)
    for job in every:
        looks[job.path].add((job.pid, job.camera, job.k, job.t, job.outfit, job.infrared))
    assert all(len(found) == 1 for found in looks.values())
    seen = [(job.pid, job.camera, job.k, job.t, job.outfit) for job in files]
    assert len(set(seen)) == len(seen)


def test_sysu_like():
    found = rows("sysu_mm01")
    assert {(camera, light) for _, camera, light, _ in found["query"]} == {(2, "infrared"), (5, "infrared")}
    gallery = {(camera, light) for _, camera, light, _ in found["gallery"]}
    assert gallery == {(0, "visible"), (1, "visible"), (3, "visible"), (4, "visible")}
    assert len(found["query"]) == 2 * 2 * 3
    assert len(found["gallery"]) == 2 * 4 * 3
    assert Counter(light for _, _, light, _ in found["train"]) == {"visible": 36, "infrared": 18}


@pytest.mark.parametrize(("name", "cameras"), [("regdb", (0, 1)), ("llcm", (0, 1, 2))])
def test_both_directions(name: str, cameras: tuple):
    found = rows(name)
    assert sorted(found["query"]) == sorted(found["gallery"])
    assert {camera for _, camera, _, _ in found["query"]} == set(cameras)
    lights = defaultdict(set)
    for _, camera, light, _ in found["query"]:
        lights[camera].add(light)
    both = {"visible", "infrared"}
    assert lights == ({0: {"visible"}, 1: {"infrared"}} if name == "regdb" else {0: both, 1: both, 2: both})


def test_prcc_like():
    found = rows("prcc", images_per_camera=2)
    assert {(camera, worn) for _, camera, _, worn in found["gallery"]} == {(0, 0)}
    assert {(camera, worn) for _, camera, _, worn in found["query"]} == {(1, 0), (2, 1)}
    assert {(camera, worn) for _, camera, _, worn in found["train"]} == {(0, 0), (1, 0), (2, 1)}


def test_ltcc_and_vcclothes_like():
    """Every query has a match in other clothes and one in the same, both under another camera."""
    found = rows("ltcc")
    for pid, camera, _, worn in found["query"]:
        others = {w for p, c, _, w in found["gallery"] if p == pid and c != camera}
        assert others == {0, 1}, (pid, camera, worn)
    assert {worn for _, _, _, worn in found["query"]} == {0, 1}
    found = rows("vcclothes")
    worn = defaultdict(set)
    for _, camera, _, outfit in [*found["query"], *found["gallery"]]:
        worn[camera].add(outfit)
    assert worn == {0: {0, 1}, 1: {0}, 2: {0}, 3: {1}}


def test_mars_like():
    options = replace(SMALL, like="mars", images_per_camera=2)
    manifest = _manifest(".", options)
    assert options.tracklet_length == 6
    for split in ("train", "query", "gallery"):
        part = manifest.select(split)
        sizes = Counter(part.tracklet)
        assert set(sizes.values()) == {6}
        assert len({*zip(part.tracklet, part.pid, part.camid, strict=True)}) == len(sizes)
        frames = defaultdict(list)
        for name, frame in zip(part.tracklet, part.frame, strict=True):
            frames[name].append(frame)
        assert all(order == list(range(6)) for order in frames.values())
    assert not set(manifest.select("query").tracklet) & set(manifest.select("gallery").tracklet)
    assert len(set(manifest.select("query").tracklet)) == 2 * 4


def test_frames_of_a_tracklet_are_consecutive_and_similar():
    options = PeopleOptions(height=64, width=32, occlusion=0.0)
    near, far, still = [], [], []
    for pid in range(1, 9):
        frames = [render_person(options, pid, 0, 0, t=t).astype(int) for t in range(4)]
        assert np.array_equal(frames[0], render_person(options, pid, 0, 0))
        other = render_person(options, pid, 0, 1).astype(int)
        near += [np.abs(a - b).mean() for a, b in pairwise(frames)]
        still.append(min(near[-3:]))
        far.append(np.abs(frames[0] - other).mean())
    assert min(still) > 1  # no frame is its neighbour again
    assert np.mean(near) < 0.6 * np.mean(far), (np.mean(near), np.mean(far))
    infrared = [render_person(replace(options, infrared=True), 3, 0, 0, infrared=True, t=t) for t in (0, 1)]
    assert not np.array_equal(*infrared)


def test_rendered_rows_are_files(tmp_path):
    for name, options in (
        ("llcm", {"images_per_camera": 1}),
        ("mars", {"images_per_camera": 2, "cameras": 1}),
    ):
        manifest = render_dataset(
            tmp_path / name, replace(SMALL, train_ids=1, test_ids=1, like=name, **options), workers=1
        )
        assert all(manifest.file(row).is_file() for row in range(len(manifest)))
        assert Manifest.read_csv(tmp_path / name / "manifest.csv").columns() == manifest.columns()


def test_what_cannot_be_arranged_is_refused(tmp_path):
    with pytest.raises(ValueError, match="like: got 'sysu', expected one of sysu_mm01, regdb, llcm, prcc"):
        PeopleOptions(like="sysu")
    with pytest.raises(ValueError, match="tracklet_length: got 101, expected 0 to 100"):
        PeopleOptions(tracklet_length=101)
    with pytest.raises(ValueError, match="images_per_camera: got 2, expected at least 3"):
        render_dataset(tmp_path / "set", replace(SMALL, like="ltcc", images_per_camera=2))
    with pytest.raises(ValueError, match="render_person: t: got -1"):
        render_person(SMALL, 1, 0, 0, t=-1)


def test_older_folders_keep_their_options():
    """What a seal of an earlier version holds is what options say that use nothing newer."""
    assert {"like", "tracklet_length"}.isdisjoint(PeopleOptions().to_dict())
    for options in (PeopleOptions(), PeopleOptions(like="regdb"), PeopleOptions(like="mars", cameras=2)):
        assert PeopleOptions(**options.to_dict()) == options
