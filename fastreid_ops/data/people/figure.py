# SPDX-License-Identifier: Apache-2.0
"""From body, outfit and pose to about thirty tapered capsules, and the lengths that painting them needs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from .body import Body
from .clothes import Outfit
from .pose import Pose

FREE = 1e3


class Part(IntEnum):
    """Which rule paints a capsule."""

    TORSO = 0
    ARM = 1
    HAND = 2
    LEG = 3
    FOOT = 4
    HEAD = 5
    HAIR = 6
    SKIRT = 7
    BAG = 8
    STRAP = 9
    HAT = 10
    HOOD = 11


@dataclass
class Capsules:
    """Spheres swept from ``a`` to ``b`` with radii ``ra`` to ``rb``, stretched by ``stretch`` along the body's axes.

    Float64 arrays in metres: a, b, stretch (n, 3); ra, rb, low, high, along (n, 2); part (n,) int. A point is
    kept where low <= y <= high; ``along`` is the length along a limb at both ends.
    """

    a: np.ndarray
    b: np.ndarray
    ra: np.ndarray
    rb: np.ndarray
    stretch: np.ndarray
    low: np.ndarray
    high: np.ndarray
    along: np.ndarray
    part: np.ndarray


@dataclass(frozen=True)
class Cut:
    """Heights and lengths of the garments on this body in this pose, metres."""

    top_hem: float
    skirt_hem: float
    sleeve: float
    leg_cover: float
    collar: float
    shoulder: float
    head: np.ndarray
    head_size: float
    covered: bool


class _Builder:
    def __init__(self) -> None:
        self.rows: list[tuple] = []

    def add(self, part, a, b, ra, rb, *, stretch=(1.0, 1.0, 1.0), low=-FREE, high=FREE, along=(0.0, 0.0)) -> None:
        self.rows.append((*a, *b, ra, rb, *stretch, low, high, *along, int(part)))

    def build(self) -> Capsules:
        t = np.array(self.rows, dtype=np.float64)
        return Capsules(
            t[:, 0:3], t[:, 3:6], t[:, 6], t[:, 7], t[:, 8:11], t[:, 11], t[:, 12], t[:, 13:15], t[:, 15].astype(np.intp)
        )


def build_figure(body: Body, outfit: Outfit, pose: Pose) -> tuple[Capsules, Cut]:
    """Capsules of a dressed person in its own frame, and where its garments end."""
    h = body.height
    size = 0.059 * h * body.head
    crotch = float(pose.pelvis[1])
    leg = crotch
    skirted = outfit.bottom == "skirt"
    long_top = outfit.top == "coat"
    skirt_hem = -FREE
    if skirted:
        skirt_hem = crotch - leg * (0.26 + 0.32 * outfit.hem)
    if long_top:
        skirt_hem = crotch - leg * (0.18 + 0.36 * outfit.hem)
    sleeve = {"tshirt": 0.11 * h, "long": 0.30 * h}.get(outfit.top, 0.315 * h) * body.arms
    cover = {"shorts": (0.17 + 0.1 * outfit.hem) * h, "skirt": 0.0}.get(outfit.bottom, FREE)
    cut = Cut(
        top_hem=crotch + {"tshirt": -0.01, "long": -0.005, "jacket": 0.012, "hoodie": -0.01}.get(outfit.top, 0.0) * h,
        skirt_hem=skirt_hem,
        sleeve=sleeve,
        leg_cover=cover,
        collar=float(pose.neck[1]) + (0.012 if outfit.top in ("tshirt", "long") else 0.03) * h,
        shoulder=float(pose.shoulders[0][1]),
        head=pose.head,
        head_size=size,
        covered=skirted or long_top,
    )
    out = _Builder()
    _torso(out, body, outfit, pose, cut)
    _legs(out, body, outfit, pose, cut)
    _arms(out, body, outfit, pose)
    _head(out, body, outfit, pose, size)
    _bag(out, body, outfit, pose)
    return out.build(), cut


def _ease(outfit: Outfit) -> float:
    """How far the top stands off the body, metres."""
    return {"tshirt": 0.006, "long": 0.004, "jacket": 0.018, "hoodie": 0.02, "coat": 0.024}[outfit.top]


def _torso(out: _Builder, body: Body, outfit: Outfit, pose: Pose, cut: Cut) -> None:
    h, g, ease = body.height, body.girth, _ease(outfit)
    hip = 0.098 * h * body.hips * (0.6 + 0.4 * g)
    waist = 0.083 * h * (0.35 + 0.65 * g) + ease
    chest = 0.09 * h * body.shoulders * (0.6 + 0.4 * g) + ease
    # Flat caps: a torso is an oval cylinder, not a row of balls.
    oval = (1.0, 0.42, 0.66 * (0.75 + 0.25 * g))
    out.add(Part.TORSO, pose.pelvis + [0, 0.035 * h, 0], pose.waist, hip, waist, stretch=oval)
    out.add(Part.TORSO, pose.waist, pose.chest, waist, chest, stretch=oval)
    out.add(Part.TORSO, pose.chest, pose.neck - [0, 0.035 * h, 0], chest, 0.85 * chest, stretch=oval)
    left, right = pose.shoulders
    out.add(Part.TORSO, left, right, 0.03 * h + 0.6 * ease, 0.03 * h + 0.6 * ease)
    for shoulder in pose.shoulders:
        slope = pose.neck + 0.85 * (shoulder - pose.neck)
        out.add(Part.TORSO, pose.neck + [0, 0.012 * h, 0], slope, 0.03 * h, 0.026 * h + 0.6 * ease)
    out.add(Part.TORSO, pose.neck - [0, 0.02 * h, 0], pose.head - [0, 0.02 * h, 0.004 * h], 0.033 * h, 0.029 * h)
    if outfit.top == "hoodie":
        hood = pose.neck + [0, 0.012 * h, -0.035 * h]
        out.add(Part.HOOD, hood + [0.03 * h, 0, 0], hood - [0.03 * h, 0, 0], 0.036 * h, 0.036 * h, stretch=(1, 1, 0.8))


def _at_height(joints: tuple, y: float) -> np.ndarray:
    """Point of the polyline hip, knee, ankle at a height; its end where the leg does not reach as far down."""
    for top, bottom in zip(joints[:-1], joints[1:], strict=True):
        if bottom[1] <= y <= top[1]:
            return bottom + (y - bottom[1]) / (top[1] - bottom[1]) * (top - bottom)
    return joints[-1] if y < joints[-1][1] else joints[0]


def _legs(out: _Builder, body: Body, outfit: Outfit, pose: Pose, cut: Cut) -> None:
    h, g = body.height, 0.45 + 0.55 * body.girth
    bare = outfit.bottom != "trousers"
    thigh, knee, calf, ankle = 0.047 * h * g, 0.034 * h * g, 0.033 * h * g, 0.019 * h * g
    if not bare:
        loose = 0.004 * h + 0.006 * h * outfit.hem
        thigh, knee, calf, ankle = (r + e for r, e in zip((thigh, knee, calf, ankle), (0.002, loose, loose, 2 * loose)))
    # Legs end where a skirt or coat begins: nothing can poke through it from inside, whatever the stride.
    high = cut.skirt_hem + 0.03 * h if cut.covered else FREE
    length = 0.245 * h * body.legs
    for i in (0, 1):
        hip, joint, foot, toe = pose.hips[i], pose.knees[i], pose.ankles[i], pose.toes[i]
        low_end = 0.48 * h * body.legs
        middle = joint + 0.35 * (foot - joint)
        out.add(Part.LEG, hip, joint, thigh, knee, high=high, along=(0.0, length))
        out.add(Part.LEG, joint, middle, knee, calf, high=high, along=(length, length + 0.35 * (low_end - length)))
        out.add(Part.LEG, middle, foot, calf, ankle, high=high, along=(length + 0.35 * (low_end - length), low_end))
        heel = foot + [0, -0.016 * h, -0.012 * h]
        out.add(Part.FOOT, heel, toe, 0.026 * h, 0.021 * h, stretch=(1, 0.85, 1))
    if outfit.bottom == "shorts":
        for i in (0, 1):
            end = pose.hips[i] + cut.leg_cover / length * (pose.knees[i] - pose.hips[i])
            high_end = high if cut.covered else FREE
            out.add(Part.LEG, pose.hips[i], end, thigh + 0.01, thigh + 0.012, high=high_end, low=float(end[1]))
    if cut.covered:
        _skirt(out, body, outfit, pose, cut)


def _skirt(out: _Builder, body: Body, outfit: Outfit, pose: Pose, cut: Cut) -> None:
    """Cloth from the waist to the hem as five cones fanned out between the two legs, wide enough to hold both."""
    h, g = body.height, 0.45 + 0.55 * body.girth
    hem = cut.skirt_hem
    legs = [_at_height((pose.hips[i], pose.knees[i], pose.ankles[i]), hem) for i in (0, 1)]
    start = 0.098 * h * body.hips * (0.6 + 0.4 * body.girth) + (_ease(outfit) if outfit.top == "coat" else 0.006)
    flare = 0.006 * h + 0.022 * h * outfit.period
    around = 0.047 * h * g + 0.012 * h + flare
    top = pose.pelvis + [0, 0.035 * h, 0]
    depth = 0.72
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        end = legs[0] + share * (legs[1] - legs[0])
        # Halfway between the legs the cloth spans both; at either leg it wraps that one and part of the other.
        width = around + abs(end[0] - legs[0][0]) * abs(end[0] - legs[1][0]) / max(1e-3, abs(legs[0][0] - legs[1][0]))
        end = np.array([0.75 * end[0], hem, end[2]])
        out.add(Part.SKIRT, top, end, start, width + 0.02 * h, stretch=(1.0, 0.5, depth), low=hem)


def _arms(out: _Builder, body: Body, outfit: Outfit, pose: Pose) -> None:
    h, g, ease = body.height, 0.5 + 0.5 * body.girth, _ease(outfit)
    upper, elbow, wrist = 0.03 * h * g, 0.025 * h * g, 0.019 * h * g
    if outfit.top not in ("tshirt",):
        upper, elbow, wrist = upper + 0.5 * ease, elbow + 0.6 * ease, wrist + 0.7 * ease
    first, second = 0.165 * h * body.arms, 0.145 * h * body.arms
    for i in (0, 1):
        shoulder, joint, hand = pose.shoulders[i], pose.elbows[i], pose.wrists[i]
        out.add(Part.ARM, shoulder, joint, upper + 0.002 * h, elbow, along=(0.0, first))
        out.add(Part.ARM, joint, hand, elbow, wrist, along=(first, first + second))
        reach = (hand - joint) / second
        out.add(Part.HAND, hand + 0.01 * h * reach, hand + 0.045 * h * reach, 0.021 * h, 0.017 * h, stretch=(0.85, 1, 1))
        if outfit.top == "tshirt":
            end = shoulder + 0.11 * h / first * (joint - shoulder)
            out.add(Part.ARM, shoulder, end, upper + 0.005 * h, upper + 0.006 * h, along=(0.0, 0.1 * h))


def _head(out: _Builder, body: Body, outfit: Outfit, pose: Pose, size: float) -> None:
    head = pose.head
    out.add(Part.HEAD, head + [0, 0.25 * size, 0], head - [0, 0.3 * size, -0.12 * size], size, 0.72 * size, stretch=(0.84, 1, 1))
    style = body.hair_style
    if style != "bald":
        puff = {"afro": 1.3, "short": 1.0, "medium": 1.07}.get(style, 1.05)
        crown = head + [0, 0.36 * size, -0.16 * size]
        back = head + [0, 0.0, -0.22 * size]
        out.add(Part.HAIR, crown, back, puff * size, 0.92 * puff * size, stretch=(0.86, 1, 1))
    if style == "long":
        for x, z, end in ((0.0, -0.55, -2.3), (0.5, -0.35, -2.0), (-0.5, -0.35, -2.0)):
            out.add(
                Part.HAIR, head + [x * size, 0.2 * size, z * size], head + [1.2 * x * size, end * size, 1.1 * z * size],
                0.55 * size, 0.42 * size,
            )  # fmt: skip
    if style == "medium":
        for x in (0.45, -0.45):
            out.add(
                Part.HAIR, head + [x * size, 0.2 * size, -0.35 * size], head + [x * size, -0.85 * size, -0.4 * size],
                0.58 * size, 0.5 * size,
            )  # fmt: skip
    if style == "ponytail":
        out.add(Part.HAIR, head + [0, 0.35 * size, -1.15 * size], head + [0, -1.5 * size, -1.3 * size], 0.34 * size, 0.2 * size)
    if style == "bun":
        bun = head + [0, 0.95 * size, -0.75 * size]
        out.add(Part.HAIR, bun, bun, 0.48 * size, 0.48 * size)
    if outfit.hat == "cap":
        out.add(Part.HAT, head + [0, 0.55 * size, -0.1 * size], head + [0, 0.5 * size, 0], 1.06 * size, 1.06 * size, stretch=(0.88, 0.75, 1.02), low=head[1] + 0.42 * size)
        out.add(Part.HAT, head + [0, 0.5 * size, 0.7 * size], head + [0, 0.42 * size, 1.35 * size], 0.6 * size, 0.5 * size, stretch=(1, 0.16, 0.7))
    if outfit.hat == "beanie":
        out.add(Part.HAT, head + [0, 0.4 * size, -0.1 * size], head + [0, 0.75 * size, -0.15 * size], 1.08 * size, 0.92 * size, stretch=(0.88, 1, 1.04), low=head[1] + 0.2 * size)


def _bag(out: _Builder, body: Body, outfit: Outfit, pose: Pose) -> None:
    h, side = body.height, outfit.bag_side
    hand = 0 if side > 0 else 1
    if outfit.bag == "backpack":
        back = 0.062 * h * (0.75 + 0.25 * body.girth) + _ease(outfit)
        low, high = pose.waist + [0, 0.005 * h, -back - 0.03 * h], pose.chest + [0, 0.045 * h, -back - 0.022 * h]
        for x in (0.028 * h, -0.028 * h):
            out.add(Part.BAG, low + [x, 0, 0], high + [x, 0, 0], 0.062 * h, 0.055 * h, stretch=(1, 0.8, 0.85))
        out.add(Part.BAG, low + [0, 0.015 * h, -0.035 * h], low + [0, 0.05 * h, -0.035 * h], 0.055 * h, 0.055 * h, stretch=(1, 0.6, 0.6))
    if outfit.bag == "side":
        hip = pose.pelvis + [side * (0.085 * h * body.hips + _ease(outfit) + 0.03 * h), 0.0, -0.01 * h]
        for z in (0.02 * h, -0.025 * h):
            out.add(Part.BAG, hip + [0, 0.02 * h, z], hip + [0, -0.045 * h, z], 0.05 * h, 0.054 * h, stretch=(0.6, 0.8, 1.0))
    if outfit.bag == "hand":
        grip = pose.wrists[hand] + 0.035 * h * (pose.wrists[hand] - pose.elbows[hand]) / (0.145 * h)
        for z in (0.028 * h, -0.028 * h):
            out.add(Part.STRAP, grip, grip + [0.0, -0.055 * h, z], 0.007 * h, 0.007 * h)
            out.add(Part.BAG, grip + [0, -0.085 * h, z], grip + [0, -0.125 * h, 1.15 * z], 0.036 * h, 0.042 * h, stretch=(0.6, 0.8, 1))
