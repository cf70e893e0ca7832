# SPDX-License-Identifier: Apache-2.0
"""Capsules of heads with hair and hats, and of bags."""

from __future__ import annotations

from .body import Body
from .clothes import Outfit
from .pose import Pose
from .shapes import Builder, Part


def add_head(out: Builder, body: Body, outfit: Outfit, pose: Pose, size: float) -> None:
    head = pose.head
    out.add(
        Part.HEAD,
        head + [0, 0.25 * size, 0],
        head - [0, 0.3 * size, -0.12 * size],
        size,
        0.72 * size,
        stretch=(0.84, 1, 1),
    )
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
        out.add(
            Part.HAIR,
            head + [0, 0.35 * size, -1.15 * size],
            head + [0, -1.5 * size, -1.3 * size],
            0.34 * size,
            0.2 * size,
        )
    if style == "bun":
        bun = head + [0, 0.95 * size, -0.75 * size]
        out.add(Part.HAIR, bun, bun, 0.48 * size, 0.48 * size)
    if outfit.hat == "cap":
        out.add(
            Part.HAT,
            head + [0, 0.55 * size, -0.1 * size],
            head + [0, 0.5 * size, 0],
            1.06 * size,
            1.06 * size,
            stretch=(0.88, 0.75, 1.02),
            low=head[1] + 0.42 * size,
        )
        out.add(
            Part.HAT,
            head + [0, 0.5 * size, 0.7 * size],
            head + [0, 0.42 * size, 1.35 * size],
            0.6 * size,
            0.5 * size,
            stretch=(1, 0.16, 0.7),
        )
    if outfit.hat == "beanie":
        out.add(
            Part.HAT,
            head + [0, 0.4 * size, -0.1 * size],
            head + [0, 0.75 * size, -0.15 * size],
            1.08 * size,
            0.92 * size,
            stretch=(0.88, 1, 1.04),
            low=head[1] + 0.2 * size,
        )


def add_bag(out: Builder, body: Body, outfit: Outfit, pose: Pose, slack: float) -> None:
    h, side = body.height, outfit.bag_side
    hand = 0 if side > 0 else 1
    if outfit.bag == "backpack":
        back = 0.062 * h * (0.75 + 0.25 * body.girth) + slack
        low, high = (
            pose.waist + [0, 0.005 * h, -back - 0.03 * h],
            pose.chest + [0, 0.045 * h, -back - 0.022 * h],
        )
        for x in (0.028 * h, -0.028 * h):
            out.add(Part.BAG, low + [x, 0, 0], high + [x, 0, 0], 0.062 * h, 0.055 * h, stretch=(1, 0.8, 0.85))
        out.add(
            Part.BAG,
            low + [0, 0.015 * h, -0.035 * h],
            low + [0, 0.05 * h, -0.035 * h],
            0.055 * h,
            0.055 * h,
            stretch=(1, 0.6, 0.6),
        )
    if outfit.bag == "side":
        hip = pose.pelvis + [side * (0.085 * h * body.hips + slack + 0.03 * h), 0.0, -0.01 * h]
        for z in (0.02 * h, -0.025 * h):
            out.add(
                Part.BAG,
                hip + [0, 0.02 * h, z],
                hip + [0, -0.045 * h, z],
                0.05 * h,
                0.054 * h,
                stretch=(0.6, 0.8, 1.0),
            )
    if outfit.bag == "hand":
        grip = pose.wrists[hand] + 0.035 * h * (pose.wrists[hand] - pose.elbows[hand]) / (0.145 * h)
        for z in (0.028 * h, -0.028 * h):
            out.add(Part.STRAP, grip, grip + [0.0, -0.055 * h, z], 0.007 * h, 0.007 * h)
            out.add(
                Part.BAG,
                grip + [0, -0.085 * h, z],
                grip + [0, -0.125 * h, 1.15 * z],
                0.036 * h,
                0.042 * h,
                stretch=(0.6, 0.8, 1),
            )
