# SPDX-License-Identifier: Apache-2.0
"""One picture of one person: figure, light, background, occluders, camera."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .background import plate
from .body import sample_body
from .camera import Look, expose, look
from .clothes import albedo_table, reflectance_table, sample_outfit
from .figure import build_figure
from .occlusion import occlude
from .options import FIRST_PASSERBY_PID, PeopleOptions
from .paint import paint
from .pose import ARM_MODES, walking_pose
from .raster import View, along_axis, cast, extents, rotation
from .seeds import Kind, stream

# Keeps the noise of one tracklet's frames apart from another's.
MOST_FRAMES = 1000


@dataclass(frozen=True)
class Shot:
    """What changes from picture to picture. Angles in radians, box values relative to the person's height."""

    yaw: float
    pitch: float
    phase: float
    vigour: float
    arm_mode: str
    shift: tuple[float, float]
    zoom: float
    keep: tuple[float, float]
    exposure: float
    hidden: bool


def sample_shot(options: PeopleOptions, camera: Look, pid: int, index: int, k: int) -> Shot:
    """Direction, pose and box of picture k of a person under a camera (0-based ``index``)."""
    track = stream(options.seed, Kind.TRACK, pid, index)
    # A person crosses the view of a camera once: the direction is the track's, with small changes on the way.
    course = camera.yaw + np.deg2rad(options.yaw_spread) * track.normal() + np.pi * (track.random() < 0.35)
    habit = ARM_MODES[int(track.choice(len(ARM_MODES), p=(0.66, 0.1, 0.12, 0.12)))]
    standing = track.random() < 0.15
    rng = stream(options.seed, Kind.SHOT, pid, index, k)
    keep = (0.0, 1.0)
    if rng.random() < options.truncation:
        amount = rng.uniform(0.15, 0.35)
        keep = (0.0, 1.0 - amount) if rng.random() < 0.75 else (0.5 * amount, 1.0)
    jitter = options.box_jitter
    return Shot(
        yaw=float(course + rng.normal(0, 0.3)),
        pitch=float(np.clip(camera.pitch + rng.normal(0, 0.04), 0, 0.7)),
        phase=float(rng.random()),
        vigour=float(0.15 if standing else rng.uniform(0.7, 1.0)),
        arm_mode=habit,
        shift=(float(rng.uniform(-jitter, jitter)), float(rng.uniform(-jitter, jitter))),
        zoom=float(1.03 + rng.uniform(-jitter, 1.5 * jitter)),
        keep=keep,
        exposure=float(1 + options.exposure_shift * rng.uniform(-1, 1)),
        hidden=bool(rng.random() < options.occlusion),
    )


@dataclass(frozen=True)
class Layer:
    """A lit figure: flat pixel indices (n,), light (n, channels) float32, and where its feet stand (row, column)."""

    pixels: np.ndarray
    light: np.ndarray
    feet: tuple[float, float]
    spread: float


def figure_layer(
    options: PeopleOptions,
    camera: Look,
    shot: Shot,
    pid: int,
    outfit: int,
    offset: tuple[float, float] = (0.0, 0.0),
) -> Layer:
    """Cast, paint and light a person; ``offset`` moves it right and down by fractions of the picture's size."""
    body = sample_body(options.seed, pid)
    clothes = sample_outfit(options.seed, pid, outfit, shared_colors=options.shared_colors)
    pose = walking_pose(body, shot.phase, vigour=shot.vigour, arm_mode=shot.arm_mode)
    capsules, cut = build_figure(body, clothes, pose)
    turn = rotation(shot.yaw, shot.pitch)
    view = _frame(options, capsules, turn, shot, offset)
    surface = cast(capsules, view)
    material = paint(surface, capsules, body, clothes, cut)
    albedo = reflectance_table(clothes)[:, None] if camera.infrared else albedo_table(body, clothes)
    light = albedo[material] * _shading(surface, camera, turn, clothes.phase)[:, None]
    # The body stands on the origin of its frame, which no rotation moves.
    feet = (view.top / view.step_y, -view.left / view.step_x)
    return Layer(surface.pixels, light.astype(np.float32, copy=False), feet, 0.22 / view.step_x)


def _frame(
    options: PeopleOptions, capsules, turn: np.ndarray, shot: Shot, offset: tuple[float, float]
) -> View:
    box = extents(capsules, turn)
    left, right, bottom, top = box[:, 0].min(), box[:, 1].max(), box[:, 2].min(), box[:, 3].max()
    tall = (top - bottom) * shot.zoom
    # Detectors box the stride too, and storing every box at 1:2 widens the narrow ones; real boxes are
    # about 0.38 as wide as tall.
    wide = float(np.clip((right - left) * shot.zoom, 0.39 * tall, 0.5 * tall))
    centre_x = 0.5 * (left + right) * 0.7 + shot.shift[0] * tall
    centre_y = 0.5 * (top + bottom) + shot.shift[1] * tall
    first, last = shot.keep
    upper = centre_y + tall * (0.5 - first)
    step_x, step_y = wide / options.width, tall * (last - first) / options.height
    return View(
        rotation=turn,
        left=centre_x - wide / 2 - offset[0] * wide,
        top=upper + offset[1] * tall,
        step_x=step_x,
        step_y=step_y,
        height=options.height,
        width=options.width,
    )


def _shading(surface, camera: Look, turn: np.ndarray, phase: float) -> np.ndarray:
    """Light arriving at every point: lamp, sky from above, less of it where the surface turns away."""
    x, y, z = surface.points.T
    # Creases: cloth is never smooth, and they move with the body.
    creases = 1.0 + 0.07 * np.sin(34.0 * y + 9.0 * np.sin(11.0 * x + 6.3 * phase) + 7.0 * z)
    facing = np.clip(surface.facing, 0.0, 1.0)
    if camera.infrared:
        # The lamp sits beside the lens.
        return ((0.15 + 0.55 * facing) * creases).astype(np.float32)
    # The lamp's direction in the body's frame saves turning every normal.
    lamp = np.maximum(0.25 + 0.75 * along_axis(surface.normals, camera.light @ turn), 0.0)
    sky = 0.75 + 0.25 * along_axis(surface.normals, turn[1])
    rim = 0.55 + 0.45 * facing
    return ((camera.ambient * sky + 0.75 * lamp) * rim * creases).astype(np.float32)


def render_person(
    options: PeopleOptions,
    pid: int,
    camera: int,
    k: int,
    *,
    outfit: int = 0,
    infrared: bool = False,
    t: int = 0,
) -> np.ndarray:
    """Render one picture, before JPEG coding.

    Args:
        pid: any non-negative identity; those of a data set come from ``options.train_pids`` and ``test_pids``.
        camera: 0-based camera.
        k: number of the picture of this identity under this camera.
        outfit: which clothes the person wears; the body stays.
        t: frame of the tracklet that starts with picture k: the person walks on, place and camera stay.
        infrared: picture of infrared camera ``options.cameras + camera`` instead of visible camera ``camera``.

    Returns:
        uint8 (height, width, 3) RGB; infrared pictures have three equal channels. Equal arguments and equal
        versions of numpy and Pillow give equal pixels.
    """
    for name, value in (("pid", pid), ("camera", camera), ("k", k), ("outfit", outfit), ("t", t)):
        if value < 0:
            raise ValueError(f"render_person: {name}: got {value}, expected a non-negative integer")
    index = camera + (options.cameras if infrared else 0)
    if not infrared and camera >= options.cameras:
        raise ValueError(f"render_person: camera: got {camera}, expected 0 to {options.cameras - 1}")
    eye = look(options, index)
    shot = sample_shot(options, eye, pid, index, k)
    sensor, grain = stream(options.seed, Kind.SENSOR, pid, index, k), None
    if t:
        shot = _walked(shot, stream(options.seed, Kind.MOTION, pid, index, k), t)
        grain = stream(options.seed, Kind.FRAME, pid, index, MOST_FRAMES * k + t)
    layer = figure_layer(options, eye, shot, pid, outfit)
    light = _backdrop(options, index, infrared, sensor)
    _shadow(light, layer)
    light.reshape(-1, light.shape[2])[layer.pixels] = layer.light
    if shot.hidden:
        rng = stream(options.seed, Kind.OCCLUDER, pid, index, k)
        _hide(options, eye, index, light, rng, k)
    return expose(light, eye, options, sensor, shot.exposure, grain)


def _walked(shot: Shot, rng: np.random.Generator, t: int) -> Shot:
    """The shot t frames later: an eighth of a step or so further, turned a little, in a box that drifts."""
    turn, right, down, closer = rng.normal(0, 1, 4)
    return replace(
        shot,
        phase=float((shot.phase + t * (0.1 + 0.02 * rng.random())) % 1),
        yaw=float(shot.yaw + 0.02 * turn * t),
        # Sines, so that a long tracklet does not walk out of its box.
        shift=(
            float(shot.shift[0] + 0.015 * np.sin(right * t / 3)),
            float(shot.shift[1] + 0.008 * np.sin(down * t / 3)),
        ),
        zoom=float(shot.zoom * (1 + 0.02 * np.sin(closer * t / 4))),
    )


def _backdrop(options: PeopleOptions, index: int, infrared: bool, rng: np.random.Generator) -> np.ndarray:
    scene = plate(options.seed, index, options.height, options.width, infrared)
    y = int(rng.integers(scene.shape[0] - options.height + 1))
    x = int(rng.integers(scene.shape[1] - options.width + 1))
    return scene[y : y + options.height, x : x + options.width].copy()


def _shadow(light: np.ndarray, layer: Layer) -> None:
    """Darken the ground around the feet."""
    rows = np.arange(light.shape[0], dtype=np.float32)[:, None]
    columns = np.arange(light.shape[1], dtype=np.float32)[None]
    down, across = (
        (rows - layer.feet[0]) / (0.45 * layer.spread),
        (columns - layer.feet[1]) / (1.3 * layer.spread),
    )
    light *= (1.0 - 0.5 * np.exp(-(down * down + across * across)))[:, :, None]


def _hide(
    options: PeopleOptions, eye: Look, index: int, light: np.ndarray, rng: np.random.Generator, k: int
) -> None:
    """Put something in front: a box, a pole, or somebody else."""
    if rng.random() < 0.6:
        occlude(light, rng)
        return
    stranger = FIRST_PASSERBY_PID + int(rng.integers(100_000))
    shot = sample_shot(options, eye, stranger, index, k)
    side = 1.0 if rng.random() < 0.5 else -1.0
    offset = (side * rng.uniform(0.35, 0.6), rng.uniform(0.02, 0.12))
    layer = figure_layer(options, eye, shot, stranger, 0, offset)
    light.reshape(-1, light.shape[2])[layer.pixels] = layer.light


__all__ = ["Layer", "Shot", "figure_layer", "render_person", "sample_shot"]
