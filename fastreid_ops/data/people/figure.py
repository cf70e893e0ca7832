# SPDX-License-Identifier: Apache-2.0
"""From body, outfit and pose to about thirty tapered capsules, and the lengths that painting them needs."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .accessories import add_bag, add_head
from .body import Body
from .clothes import Outfit
from .pose import Pose
from .shapes import FREE, Builder, Capsules, Part


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
        top_hem=crotch
        + {"tshirt": -0.01, "long": -0.005, "jacket": 0.012, "hoodie": -0.01}.get(outfit.top, 0.0) * h,
        skirt_hem=skirt_hem,
        sleeve=sleeve,
        leg_cover=cover,
        collar=float(pose.neck[1]) + (0.012 if outfit.top in ("tshirt", "long") else 0.03) * h,
        shoulder=float(pose.shoulders[0][1]),
        head=pose.head,
        head_size=size,
        covered=skirted or long_top,
    )
    out = Builder()
    _torso(out, body, outfit, pose, cut)
    _legs(out, body, outfit, pose, cut)
    _arms(out, body, outfit, pose)
    add_head(out, body, outfit, pose, size)
    add_bag(out, body, outfit, pose, ease(outfit))
    return out.build(), cut


def ease(outfit: Outfit) -> float:
    """How far the top stands off the body, metres."""
    return {"tshirt": 0.006, "long": 0.004, "jacket": 0.018, "hoodie": 0.02, "coat": 0.024}[outfit.top]


def _torso(out: Builder, body: Body, outfit: Outfit, pose: Pose, cut: Cut) -> None:
    h, g, slack = body.height, body.girth, ease(outfit)
    hip = 0.098 * h * body.hips * (0.6 + 0.4 * g)
    waist = 0.083 * h * (0.35 + 0.65 * g) + slack
    chest = 0.09 * h * body.shoulders * (0.6 + 0.4 * g) + slack
    # Flat caps: a torso is an oval cylinder, not a row of balls.
    oval = (1.0, 0.42, 0.66 * (0.75 + 0.25 * g))
    out.add(Part.TORSO, pose.pelvis + [0, 0.035 * h, 0], pose.waist, hip, waist, stretch=oval)
    out.add(Part.TORSO, pose.waist, pose.chest, waist, chest, stretch=oval)
    out.add(Part.TORSO, pose.chest, pose.neck - [0, 0.035 * h, 0], chest, 0.85 * chest, stretch=oval)
    left, right = pose.shoulders
    out.add(Part.TORSO, left, right, 0.03 * h + 0.6 * slack, 0.03 * h + 0.6 * slack)
    for shoulder in pose.shoulders:
        slope = pose.neck + 0.85 * (shoulder - pose.neck)
        out.add(Part.TORSO, pose.neck + [0, 0.012 * h, 0], slope, 0.03 * h, 0.026 * h + 0.6 * slack)
    out.add(
        Part.TORSO, pose.neck - [0, 0.02 * h, 0], pose.head - [0, 0.02 * h, 0.004 * h], 0.033 * h, 0.029 * h
    )
    if outfit.top == "hoodie":
        hood = pose.neck + [0, 0.012 * h, -0.035 * h]
        out.add(
            Part.HOOD,
            hood + [0.03 * h, 0, 0],
            hood - [0.03 * h, 0, 0],
            0.036 * h,
            0.036 * h,
            stretch=(1, 1, 0.8),
        )


def _at_height(joints: tuple, y: float) -> np.ndarray:
    """Point of the polyline hip, knee, ankle at a height; its end where the leg does not reach as far down."""
    for top, bottom in pairwise(joints):
        if bottom[1] <= y <= top[1]:
            return bottom + (y - bottom[1]) / (top[1] - bottom[1]) * (top - bottom)
    return joints[-1] if y < joints[-1][1] else joints[0]


def _legs(out: Builder, body: Body, outfit: Outfit, pose: Pose, cut: Cut) -> None:
    h, g = body.height, 0.45 + 0.55 * body.girth
    bare = outfit.bottom != "trousers"
    thigh, knee, calf, ankle = 0.047 * h * g, 0.034 * h * g, 0.033 * h * g, 0.019 * h * g
    if not bare:
        loose = 0.004 * h + 0.006 * h * outfit.hem
        thigh, knee, calf, ankle = (
            r + e for r, e in zip((thigh, knee, calf, ankle), (0.002, loose, loose, 2 * loose), strict=True)
        )
    # Legs end where a skirt or coat begins: nothing can poke through it from inside, whatever the stride.
    high = cut.skirt_hem + 0.03 * h if cut.covered else FREE
    length = 0.245 * h * body.legs
    for i in (0, 1):
        hip, joint, foot, toe = pose.hips[i], pose.knees[i], pose.ankles[i], pose.toes[i]
        low_end = 0.48 * h * body.legs
        middle = joint + 0.35 * (foot - joint)
        out.add(Part.LEG, hip, joint, thigh, knee, high=high, along=(0.0, length))
        out.add(
            Part.LEG, joint, middle, knee, calf, high=high, along=(length, length + 0.35 * (low_end - length))
        )
        out.add(
            Part.LEG,
            middle,
            foot,
            calf,
            ankle,
            high=high,
            along=(length + 0.35 * (low_end - length), low_end),
        )
        heel = foot + [0, -0.016 * h, -0.012 * h]
        out.add(Part.FOOT, heel, toe, 0.026 * h, 0.021 * h, stretch=(1, 0.85, 1))
    if outfit.bottom == "shorts":
        for i in (0, 1):
            end = pose.hips[i] + cut.leg_cover / length * (pose.knees[i] - pose.hips[i])
            high_end = high if cut.covered else FREE
            out.add(
                Part.LEG, pose.hips[i], end, thigh + 0.01, thigh + 0.012, high=high_end, low=float(end[1])
            )
    if cut.covered:
        _skirt(out, body, outfit, pose, cut)


def _skirt(out: Builder, body: Body, outfit: Outfit, pose: Pose, cut: Cut) -> None:
    """Cloth from the waist to the hem as five cones fanned out between the two legs, wide enough to hold both."""
    h, g = body.height, 0.45 + 0.55 * body.girth
    hem = cut.skirt_hem
    legs = [_at_height((pose.hips[i], pose.knees[i], pose.ankles[i]), hem) for i in (0, 1)]
    start = 0.098 * h * body.hips * (0.6 + 0.4 * body.girth) + (
        ease(outfit) if outfit.top == "coat" else 0.006
    )
    flare = 0.006 * h + 0.022 * h * outfit.period
    around = 0.047 * h * g + 0.012 * h + flare
    top = pose.pelvis + [0, 0.035 * h, 0]
    depth = 0.72
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        end = legs[0] + share * (legs[1] - legs[0])
        # Halfway between the legs the cloth spans both; at either leg it wraps that one and part of the other.
        width = around + abs(end[0] - legs[0][0]) * abs(end[0] - legs[1][0]) / max(
            1e-3, abs(legs[0][0] - legs[1][0])
        )
        end = np.array([0.75 * end[0], hem, end[2]])
        out.add(Part.SKIRT, top, end, start, width + 0.02 * h, stretch=(1.0, 0.5, depth), low=hem)


def _arms(out: Builder, body: Body, outfit: Outfit, pose: Pose) -> None:
    h, g, slack = body.height, 0.5 + 0.5 * body.girth, ease(outfit)
    upper, elbow, wrist = 0.03 * h * g, 0.025 * h * g, 0.019 * h * g
    if outfit.top not in ("tshirt",):
        upper, elbow, wrist = upper + 0.5 * slack, elbow + 0.6 * slack, wrist + 0.7 * slack
    first, second = 0.165 * h * body.arms, 0.145 * h * body.arms
    for i in (0, 1):
        shoulder, joint, hand = pose.shoulders[i], pose.elbows[i], pose.wrists[i]
        out.add(Part.ARM, shoulder, joint, upper + 0.002 * h, elbow, along=(0.0, first))
        out.add(Part.ARM, joint, hand, elbow, wrist, along=(first, first + second))
        reach = (hand - joint) / second
        out.add(
            Part.HAND,
            hand + 0.01 * h * reach,
            hand + 0.045 * h * reach,
            0.021 * h,
            0.017 * h,
            stretch=(0.85, 1, 1),
        )
        if outfit.top == "tshirt":
            end = shoulder + 0.11 * h / first * (joint - shoulder)
            out.add(Part.ARM, shoulder, end, upper + 0.005 * h, upper + 0.006 * h, along=(0.0, 0.1 * h))
