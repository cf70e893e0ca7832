# SPDX-License-Identifier: Apache-2.0
"""Walking poses: joints of a body in its own frame (x to its left, y up, z forward; metres; soles at y = 0)."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np

from .body import Body

# A walking cycle is a phase in [0, 1).
ARM_MODES = ("swing", "phone", "pockets", "hold")


@dataclass(frozen=True)
class Pose:
    """Joints as (x, y, z) arrays, left and right in this order where there are two."""

    pelvis: np.ndarray
    waist: np.ndarray
    chest: np.ndarray
    neck: np.ndarray
    head: np.ndarray
    shoulders: tuple[np.ndarray, np.ndarray]
    elbows: tuple[np.ndarray, np.ndarray]
    wrists: tuple[np.ndarray, np.ndarray]
    hips: tuple[np.ndarray, np.ndarray]
    knees: tuple[np.ndarray, np.ndarray]
    ankles: tuple[np.ndarray, np.ndarray]
    toes: tuple[np.ndarray, np.ndarray]


def walking_pose(body: Body, phase: float, *, vigour: float = 1.0, arm_mode: str = "swing") -> Pose:
    """Pose at a phase of the walking cycle.

    Args:
        phase: position in the cycle, 0 to 1.
        vigour: 1 for a full stride, 0 for standing.
        arm_mode: one of ``ARM_MODES``; "phone" lifts the left forearm, "hold" keeps the right arm down.
    """
    h = body.height
    thigh, shin, ankle_height = 0.245 * h * body.legs, 0.235 * h * body.legs, 0.04 * h
    hip_width, shoulder_width = 0.05 * h * body.hips, 0.094 * h * body.shoulders
    hips, knees, ankles, toes = [], [], [], []
    for side, offset in ((1.0, 0.0), (-1.0, pi)):
        swing = 2 * pi * phase + offset
        lift = vigour * body.stride * sin(swing)
        # The knee bends while the leg swings forward.
        bend = vigour * (0.12 + 0.75 * max(0.0, cos(swing)) ** 2)
        hip = np.array([side * hip_width, 0.0, 0.0])
        knee = hip + thigh * _down(lift + 0.35 * bend, side * 0.02)
        ankle = knee + shin * _down(lift - 0.65 * bend, 0.0)
        pitch = lift - 0.65 * bend
        toe = ankle + 0.085 * h * np.array([side * 0.15, sin(0.55 * pitch) - 0.22, cos(0.55 * pitch)])
        hips.append(hip), knees.append(knee), ankles.append(ankle), toes.append(toe)
    # The lower foot carries: put it on the ground.
    ground = min(min(a[1] - ankle_height, t[1] - 0.02 * h) for a, t in zip(ankles, toes, strict=True))
    up = np.array([0.0, -ground, 0.0])
    hips, knees, ankles, toes = (tuple(p + up for p in joints) for joints in (hips, knees, ankles, toes))
    pelvis = (hips[0] + hips[1]) / 2
    waist = pelvis + [0.0, 0.10 * h, 0.004 * h]
    chest = pelvis + [0.0, 0.20 * h, 0.012 * h]
    neck = pelvis + [0.0, 0.30 * h, 0.004 * h]
    head = neck + [0.0, 0.085 * h * body.head, 0.016 * h]
    shoulders = tuple(neck + [s * shoulder_width, -0.032 * h, -0.005 * h] for s in (1.0, -1.0))
    elbows, wrists = [], []
    for i, side in enumerate((1.0, -1.0)):
        lift, bend, inward = _arm(body, arm_mode, i, 2 * pi * phase + (pi if i == 0 else 0.0), vigour)
        elbow = shoulders[i] + 0.165 * h * body.arms * _down(lift, side * body.arm_spread)
        wrist = elbow + 0.145 * h * body.arms * _down(lift + bend, side * (body.arm_spread * 0.5 - inward))
        elbows.append(elbow), wrists.append(wrist)
    return Pose(
        pelvis, waist, chest, neck, head, shoulders, tuple(elbows), tuple(wrists), hips, knees, ankles, toes
    )


def _down(forward: float, outward: float) -> np.ndarray:
    """Unit vector pointing down, tilted forward and outward by angles in radians."""
    return np.array([sin(outward), -cos(forward) * cos(outward), sin(forward) * cos(outward)])


def _arm(body: Body, mode: str, index: int, swing: float, vigour: float) -> tuple[float, float, float]:
    """Forward angle of the upper arm, bend of the elbow and inward angle of the forearm."""
    if mode == "phone" and index == 0:
        return 0.35, 1.5, 0.35
    if mode == "pockets":
        return -0.25, 0.55, 0.1
    if mode == "hold" and index == 1:
        return 0.05, 0.12, 0.0
    lift = vigour * body.arm_swing * sin(swing)
    return lift, 0.22 + 0.5 * max(0.0, lift), 0.05
