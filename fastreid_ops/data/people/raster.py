# SPDX-License-Identifier: Apache-2.0
"""Orthographic ray casting of tapered capsules: depth, normals and body coordinates per pixel.

The intersection is the closed form of Quilez, "Rounded cone - intersection" (iquilezles.org/articles/intersectors),
extended to a ray direction of any length, which is what a capsule stretched along the body's axes needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, sin

import numpy as np

from .shapes import FREE, Capsules


@dataclass(frozen=True)
class View:
    """Box of the picture in the view frame (x right, y up, metres) and the rotation from body to view."""

    rotation: np.ndarray
    left: float
    top: float
    step_x: float
    step_y: float
    height: int
    width: int


@dataclass(frozen=True)
class Surface:
    """The visible points of a figure, n of them, in body coordinates (float32, metres).

    ``pixels`` (n,) are flat indices into the picture, ``capsule`` (n,) which capsule is seen, ``points`` and
    ``normals`` (n, 3), ``along`` (n,) the length along a limb, ``facing`` (n,) the cosine to the viewer.
    """

    pixels: np.ndarray
    capsule: np.ndarray
    points: np.ndarray
    normals: np.ndarray
    along: np.ndarray
    facing: np.ndarray


def rotation(yaw: float, pitch: float) -> np.ndarray:
    """Body to view: turned by ``yaw`` (0 faces the camera), seen from ``pitch`` above; radians."""
    turn = np.array([[cos(yaw), 0.0, sin(yaw)], [0.0, 1.0, 0.0], [-sin(yaw), 0.0, cos(yaw)]])
    tilt = np.array([[1.0, 0.0, 0.0], [0.0, cos(pitch), -sin(pitch)], [0.0, sin(pitch), cos(pitch)]])
    return tilt @ turn


def along_axis(vectors: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """Dot products of float32 (n, 3) with one axis (3,), summed in a fixed order, which a BLAS does not promise."""
    x, y, z = (np.float32(value) for value in axis)
    return vectors[:, 0] * x + vectors[:, 1] * y + vectors[:, 2] * z


def extents(capsules: Capsules, turn: np.ndarray) -> np.ndarray:
    """Bounds of every capsule in the view plane, (n, 4): left, right, bottom, top; clip heights are ignored."""
    reach = np.sqrt(capsules.stretch**2 @ (turn[:2] ** 2).T)
    a, b = capsules.a @ turn[:2].T, capsules.b @ turn[:2].T
    ra, rb = capsules.ra[:, None] * reach, capsules.rb[:, None] * reach
    low, high = np.minimum(a - ra, b - rb), np.maximum(a + ra, b + rb)
    return np.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], axis=1)


def cast(capsules: Capsules, view: View) -> Surface:
    """The nearest surface point behind every pixel that sees the figure."""
    turn = view.rotation
    xs = view.left + (np.arange(view.width) + 0.5) * view.step_x
    ys = view.top - (np.arange(view.height) + 0.5) * view.step_y
    # In the stretched frame of each capsule the ray through (x, y) is x gx + y gy + start + t direction.
    scale = 1.0 / capsules.stretch
    gx, gy, direction = scale * turn[0], scale * turn[1], -scale * turn[2]
    start, axis = -scale * capsules.a, scale * (capsules.b - capsules.a)
    terms = _Terms(capsules, gx, gy, direction, start, axis)
    box = extents(capsules, turn)
    first_x = np.clip(np.floor((box[:, 0] - view.left) / view.step_x - 0.5).astype(int), 0, view.width)
    last_x = np.clip(np.ceil((box[:, 1] - view.left) / view.step_x + 0.5).astype(int), 0, view.width)
    first_y = np.clip(np.floor((view.top - box[:, 3]) / view.step_y - 0.5).astype(int), 0, view.height)
    last_y = np.clip(np.ceil((view.top - box[:, 2]) / view.step_y + 0.5).astype(int), 0, view.height)
    depth = np.full((view.height, view.width), np.inf, dtype=np.float32)
    owner = np.full((view.height, view.width), -1, dtype=np.int16)
    xs32, ys32 = xs.astype(np.float32), ys.astype(np.float32)
    for i in range(len(capsules.ra)):
        rows, columns = slice(first_y[i], last_y[i]), slice(first_x[i], last_x[i])
        if rows.start >= rows.stop or columns.start >= columns.stop:
            continue
        t = terms.depth(i, xs32[columns], ys32[rows, None])
        if capsules.low[i] > -FREE or capsules.high[i] < FREE:
            # Height above the soles of the hit point: the view's y axis and depth both contribute.
            hit = np.where(np.isfinite(t), t, np.float32(0))
            y = np.float32(turn[1, 1]) * ys32[rows, None] - np.float32(turn[2, 1]) * hit
            t = np.where((y >= capsules.low[i]) & (y <= capsules.high[i]), t, np.float32(np.inf))
        nearer = t < depth[rows, columns]
        np.copyto(depth[rows, columns], t, where=nearer)
        np.copyto(owner[rows, columns], np.int16(i), where=nearer)
    return _surface(capsules, terms, turn, xs32, ys32, depth, owner, scale)


class _Terms:
    """Coefficients of the intersection, one row per capsule, as Python floats for cheap use with float32 arrays."""

    def __init__(self, capsules: Capsules, gx, gy, direction, start, axis) -> None:
        def dot(u, v):
            return (u * v).sum(axis=1)

        m0, dd = dot(axis, axis), dot(direction, direction)
        rr = capsules.ra - capsules.rb
        self.m0, self.d2, self.m2, self.rr = m0, m0 - rr * rr, dot(axis, direction), rr
        # axis . o, direction . o and o . o as polynomials in x and y.
        columns = [
            m0, self.d2, self.m2, rr, capsules.ra, capsules.rb, dd,
            dot(axis, gx), dot(axis, gy), dot(axis, start),
            dot(direction, gx), dot(direction, gy), dot(direction, start),
            dot(gx, gx), 2 * dot(gx, gy), dot(gy, gy), 2 * dot(gx, start), 2 * dot(gy, start), dot(start, start),
        ]  # fmt: skip
        self.rows = np.stack(columns, axis=1).tolist()
        self.axis = axis

    def depth(self, i: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Ray parameter of the first hit with capsule i, inf where there is none; float32 (rows, columns)."""
        (m0, d2, m2, rr, ra, rb, dd, ax, ay, a0, dx, dy, d0, qxx, qxy, qyy, qx, qy, q0) = self.rows[i]
        m1 = ax * x + (ay * y + a0)
        m3 = dx * x + (dy * y + d0)
        m5 = (qxx * x + qx) * x + ((qyy * y + qy) * y + q0) + (qxy * x) * y
        far = np.float32(np.inf)
        # Both end balls; of the second one, o - axis replaces o.
        ball = m3 * m3 - dd * (m5 - ra * ra)
        hit = ball >= 0
        np.sqrt(ball, out=ball, where=hit)
        t = np.where(hit, (-m3 - ball) / dd, far)
        if m0 > 1e-12:
            m6 = m3 - m2
            square = m6 * m6 - dd * (m5 - 2.0 * m1 + (m0 - rb * rb))
            hit = square >= 0
            np.sqrt(square, out=square, where=hit)
            t = np.minimum(t, np.where(hit, (-m6 - square) / dd, far))
        if d2 > 1e-9:
            k2 = d2 * dd - m2 * m2
            k1 = d2 * m3 - m2 * m1 + m2 * rr * ra
            k0 = d2 * m5 - m1 * m1 + (2.0 * rr * ra) * m1 - m0 * ra * ra
            square = k1 * k1 - k2 * k0
            if k2 > 1e-9:
                hit = square >= 0
                np.sqrt(square, out=square, where=hit)
                side = (-k1 - square) / k2
                along = m1 + m2 * side - ra * rr
                t = np.where(hit & (along > 0) & (along < d2), side, t)
        return t


def _surface(capsules, terms, turn, xs, ys, depth, owner, scale) -> Surface:
    pixels = np.flatnonzero(owner.ravel() >= 0)
    which = owner.ravel()[pixels].astype(np.intp)
    x, y = xs[pixels % len(xs)], ys[pixels // len(xs)]
    z = -depth.ravel()[pixels]
    points = np.stack([x * c[0] + y * c[1] + z * c[2] for c in turn.T.astype(np.float32)], axis=1)
    scale32 = scale.astype(np.float32)[which]
    offset = (points - capsules.a.astype(np.float32)[which]) * scale32
    axis = terms.axis.astype(np.float32)[which]
    d2 = np.maximum(terms.d2, 1e-9).astype(np.float32)[which]
    along = (axis * offset).sum(axis=1) - (capsules.ra * terms.rr).astype(np.float32)[which]
    share = np.clip(along / d2, 0.0, 1.0)
    # The ball that the point lies on has its centre at this share of the axis; the normal leads away from it.
    normals = (offset - axis * share[:, None]) * scale32
    normals /= np.sqrt((normals * normals).sum(axis=1, keepdims=True)) + np.float32(1e-12)
    ends = capsules.along.astype(np.float32)[which]
    length = ends[:, 0] + share * (ends[:, 1] - ends[:, 0])
    facing = along_axis(normals, turn[2])
    return Surface(pixels, which, points, normals, length, facing)
