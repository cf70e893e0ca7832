# SPDX-License-Identifier: Apache-2.0
"""Pictures: reproducible, of the stated size, and showing what they are meant to show."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fastreid_ops.data.people import PeopleOptions, look, render_person, sample_body, sample_outfit
from fastreid_ops.data.people import render as renderer
from fastreid_ops.data.people.figure import build_figure
from fastreid_ops.data.people.paint import paint
from fastreid_ops.data.people.palette import Material
from fastreid_ops.data.people.pose import walking_pose
from fastreid_ops.data.people.raster import View, cast, rotation
from fastreid_ops.data.people.shapes import Capsules, Part

OPTIONS = PeopleOptions()
PLAIN = PeopleOptions(occlusion=0, truncation=0)


def test_shape_and_repetition():
    first = render_person(OPTIONS, 7, 1, 2)
    assert first.shape == (128, 64, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, render_person(PeopleOptions(), 7, 1, 2))
    large = render_person(PeopleOptions(height=256, width=128), 7, 1, 2)
    assert large.shape == (256, 128, 3)


@pytest.mark.parametrize("other", [(8, 1, 2), (7, 2, 2), (7, 1, 3)])
def test_every_part_of_the_name_matters(other):
    assert not np.array_equal(render_person(OPTIONS, 7, 1, 2), render_person(OPTIONS, *other))
    assert not np.array_equal(
        render_person(OPTIONS, 7, 1, 2), render_person(replace(OPTIONS, seed=1), 7, 1, 2)
    )


def test_order_of_rendering_does_not_matter():
    forward = [render_person(OPTIONS, pid, 0, 0) for pid in (3, 4, 5)]
    backward = [render_person(OPTIONS, pid, 0, 0) for pid in (5, 4, 3)][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(forward, backward, strict=True))


def test_body_and_outfit_depend_on_what_they_should():
    assert sample_body(0, 5) == sample_body(0, 5) != sample_body(0, 6)
    assert sample_outfit(0, 5, 0) != sample_outfit(0, 5, 1)
    assert sample_body(0, 5) != sample_body(1, 5)


def test_camera_matrices_stay_within_ten_per_cent():
    for seed in range(20):
        options = PeopleOptions(seed=seed, color_shift=0.10)
        for camera in range(options.cameras):
            shift = np.abs(look(options, camera).matrix - np.eye(3)).max()
            assert 0.05 < shift <= 0.1 + 1e-6
    assert not np.array_equal(look(OPTIONS, 0).matrix, look(OPTIONS, 1).matrix)


def _one_ball(**changed) -> Capsules:
    values = {
        "a": [[0.1, 1.0, 0.2]], "b": [[0.1, 1.0, 0.2]], "ra": [0.3], "rb": [0.3], "stretch": [[1.0, 1.0, 1.0]],
        "low": [-1e3], "high": [1e3], "along": [[0.0, 0.0]], "part": [0],
    }  # fmt: skip
    values.update(changed)
    return Capsules(
        **{name: np.array(v, dtype=np.intp if name == "part" else float) for name, v in values.items()}
    )


def _march(capsules: Capsules, x: float, y: float, turn: np.ndarray) -> float:
    """Greatest view depth on the ray through (x, y) by dense sampling of the swept balls: an independent oracle."""
    s, z = np.linspace(0, 1, 150)[:, None], np.linspace(-2, 2, 801)
    radius = capsules.ra[0] + s * (capsules.rb[0] - capsules.ra[0])
    total = np.zeros((150, 801))
    for i in range(3):
        ray = x * turn[0, i] + y * turn[1, i] + z * turn[2, i]
        centre = capsules.a[0, i] + s * (capsules.b[0, i] - capsules.a[0, i])
        total += ((ray - centre) / capsules.stretch[0, i]) ** 2
    inside = (total <= radius**2).any(axis=0)
    return z[inside].max() if inside.any() else -np.inf


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"b": [[0.5, 1.5, -0.3]], "rb": [0.1]},
        {"b": [[0.5, 1.5, -0.3]], "rb": [0.1], "stretch": [[1.0, 0.5, 0.7]]},
        {"b": [[0.1, 1.0, 1.0]], "rb": [0.2], "stretch": [[0.6, 1.0, 1.4]]},
    ],
)
def test_raster_against_dense_sampling(changed):
    capsules = _one_ball(**changed)
    turn = rotation(0.7, 0.3)
    view = View(turn, left=-1.2, top=2.4, step_x=0.1, step_y=0.1, height=24, width=24)
    surface = cast(capsules, view)
    seen = dict(zip(surface.pixels.tolist(), (surface.points @ turn[2]).tolist(), strict=True))
    checked = 0
    for pixel in range(0, 24 * 24, 3):
        x, y = -1.2 + (pixel % 24 + 0.5) * 0.1, 2.4 - (pixel // 24 + 0.5) * 0.1
        expected = _march(capsules, x, y, turn)
        if pixel in seen:
            # At the very rim the samples may miss what the closed form hits.
            assert abs(seen[pixel] - expected) < 0.03 or expected == -np.inf
            checked += expected > -np.inf
        else:
            # Samples of the sweep lie inside it, so a ray that misses meets none.
            assert expected == -np.inf
    assert checked > 5
    assert np.allclose(np.linalg.norm(surface.normals, axis=1), 1, atol=1e-5)
    assert (surface.facing > -1e-3).all()


def _materials(body, outfit, yaw: float, phase: float = 0.2) -> np.ndarray:
    pose = walking_pose(body, phase)
    capsules, cut = build_figure(body, outfit, pose)
    view = View(rotation(yaw, 0.1), left=-0.7, top=2.1, step_x=0.01, step_y=0.01, height=230, width=140)
    surface = cast(capsules, view)
    return paint(surface, capsules, body, outfit, cut)


def _bare(pattern: str):
    body = sample_body(0, 3)
    outfit = sample_outfit(0, 3)
    return body, replace(
        outfit, top="tshirt", pattern=pattern, bottom="trousers", bag="none", hat="none", open_front=False
    )


def test_prints_are_seen_from_their_side_only():
    for pattern, front, back in (("chest", True, False), ("back", False, True)):
        body, outfit = _bare(pattern)
        assert (np.count_nonzero(_materials(body, outfit, 0.0) == Material.PRINT) > 40) == front
        assert (np.count_nonzero(_materials(body, outfit, np.pi) == Material.PRINT) > 40) == back


def test_backpack_covers_the_back_and_its_straps_the_front():
    body, outfit = _bare("plain")
    outfit = replace(outfit, bag="backpack")
    front, back = _materials(body, outfit, 0.0), _materials(body, outfit, np.pi)
    assert np.count_nonzero(back == Material.BAG) > 4 * max(1, np.count_nonzero(front == Material.BAG))
    assert np.count_nonzero(front == Material.STRAP) > np.count_nonzero(back == Material.STRAP)


@pytest.mark.parametrize(("top", "bottom"), [("coat", "trousers"), ("tshirt", "skirt"), ("coat", "shorts")])
@pytest.mark.parametrize("yaw", [0.0, 0.8, 1.6, 3.1])
def test_no_leg_pokes_through_a_skirt_or_coat(top, bottom, yaw):
    for pid in range(1, 7):
        body = sample_body(0, pid)
        outfit = replace(sample_outfit(0, pid), top=top, bottom=bottom, bag="none")
        for phase in (0.0, 0.25, 0.6, 0.8):
            pose = walking_pose(body, phase)
            capsules, cut = build_figure(body, outfit, pose)
            view = View(
                rotation(yaw, 0.15), left=-0.7, top=2.1, step_x=0.01, step_y=0.01, height=240, width=140
            )
            surface = cast(capsules, view)
            legs = surface.points[capsules.part[surface.capsule] == Part.LEG]
            assert len(legs) > 100
            assert legs[:, 1].max() <= cut.skirt_hem + 0.03 * body.height + 1e-4


def test_clothes_change_keeps_the_body_and_changes_the_colours():
    options = replace(PLAIN, exposure_shift=0.0)
    for pid in (2, 9, 12):
        eye = look(options, 0)
        shot = renderer.sample_shot(options, eye, pid, 0, 0)
        layers = [renderer.figure_layer(options, eye, shot, pid, outfit) for outfit in (0, 1)]
        masks = []
        for layer in layers:
            mask = np.zeros(options.height * options.width, dtype=bool)
            mask[layer.pixels] = True
            masks.append(mask)
        union = np.count_nonzero(masks[0] | masks[1])
        assert np.count_nonzero(masks[0] & masks[1]) / union > 0.6
        colours = [layer.light.mean(axis=0) for layer in layers]
        assert np.abs(colours[0] - colours[1]).max() > 0.02


def test_infrared_is_grey_and_blind_to_colour(monkeypatch):
    options = PeopleOptions(infrared=True, occlusion=0)
    before = [render_person(options, pid, 0, 0, infrared=True) for pid in (3, 4)]
    visible = render_person(options, 3, 0, 0)
    assert all(np.array_equal(p[..., 0], p[..., 1]) and np.array_equal(p[..., 0], p[..., 2]) for p in before)

    def recoloured(*args, **kwargs):
        return replace(sample_outfit(*args, **kwargs), top_color=(255, 0, 255), bottom_color=(0, 255, 0))

    monkeypatch.setattr(renderer, "sample_outfit", recoloured)
    after = [render_person(options, pid, 0, 0, infrared=True) for pid in (3, 4)]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert not np.array_equal(visible, render_person(options, 3, 0, 0))


def test_skin_is_warm_in_infrared():
    from fastreid_ops.data.people.clothes import reflectance_table

    for pid in range(1, 30):
        table = reflectance_table(sample_outfit(0, pid))
        assert table[Material.SKIN] == table.max()


def test_occlusion_and_truncation_change_the_picture():
    plain = render_person(PLAIN, 5, 0, 0)
    for name in ("occlusion", "truncation"):
        changed = render_person(replace(PLAIN, **{name: 1.0}), 5, 0, 0)
        assert np.abs(changed.astype(int) - plain).mean() > 3


@pytest.mark.parametrize(
    "call",
    [
        lambda: render_person(OPTIONS, -1, 0, 0),
        lambda: render_person(OPTIONS, 1, 4, 0),
        lambda: PeopleOptions(cameras=5, infrared=True),
        lambda: PeopleOptions(color_shift=0.2),
        lambda: PeopleOptions(occlusion=float("nan")),
        lambda: PeopleOptions(resolution=(120, 40)),
        lambda: PeopleOptions(test_ids=5000),
    ],
)
def test_bad_values_are_named(call):
    with pytest.raises(ValueError, match=r"got .*expected"):
        call()


def test_wrong_types_are_named():
    with pytest.raises(TypeError, match="PeopleOptions: seed: got '0', expected an integer"):
        PeopleOptions(seed="0")
