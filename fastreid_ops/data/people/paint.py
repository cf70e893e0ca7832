# SPDX-License-Identifier: Apache-2.0
"""Which material every visible point is made of: garments, patterns and prints in body coordinates.

Patterns are functions of the point on the body, so they turn with it: a chest print is seen from the front alone.
"""

from __future__ import annotations

import numpy as np

from .body import Body
from .clothes import Outfit
from .figure import Cut
from .palette import Material
from .raster import Surface
from .shapes import Capsules, Part


def paint(surface: Surface, capsules: Capsules, body: Body, outfit: Outfit, cut: Cut) -> np.ndarray:
    """Material index per visible point, intp (n,)."""
    parts = capsules.part[surface.capsule]
    material = np.empty(len(parts), dtype=np.intp)
    rules = {
        Part.TORSO: _torso,
        Part.ARM: _arm,
        Part.HAND: _hand,
        Part.LEG: _leg,
        Part.FOOT: _foot,
        Part.HEAD: _head,
        Part.HAIR: _hair,
        Part.SKIRT: _skirt,
        Part.BAG: _bag,
        Part.STRAP: _strap,
        Part.HAT: _hat,
        Part.HOOD: _hood,
    }
    for part in np.unique(parts):
        chosen = np.flatnonzero(parts == part)
        points, normals = surface.points[chosen], surface.normals[chosen]
        material[chosen] = rules[Part(part)](points, normals, surface.along[chosen], body, outfit, cut)
    return material


def _pattern(outfit: Outfit, around: np.ndarray, height: np.ndarray) -> np.ndarray:
    """True where the second colour of the top shows; ``around`` and ``height`` in metres of cloth."""
    rows = (height / outfit.period + outfit.phase) % 1.0 < 0.5
    if outfit.pattern == "rows":
        return rows
    columns = (around / (0.8 * outfit.period) + outfit.phase) % 1.0 < 0.5
    if outfit.pattern == "columns":
        return columns
    if outfit.pattern == "checks":
        return rows ^ columns
    return np.zeros(height.shape, dtype=bool)


def _torso(points, normals, along, body: Body, outfit: Outfit, cut: Cut) -> np.ndarray:
    x, y, z = points.T
    material = np.full(len(y), Material.TOP, dtype=np.intp)
    down = cut.shoulder - y
    second = _pattern(outfit, 0.16 * np.arctan2(x, z), down)
    if outfit.pattern == "halves":
        # The seam lies between a third and the half of the way down to the hip.
        second |= down > (0.1 + 0.09 * outfit.phase) * body.height
    material[second] = Material.TOP_SECOND
    front = normals[:, 2] > 0.25
    if outfit.pattern in ("chest", "back"):
        width, height = outfit.print_size
        u, v = x / width, (down - 0.11 * body.height) / height
        inside = (u * u + v * v < 1.15) if outfit.print_round else (np.maximum(abs(u), abs(v)) < 0.9)
        material[inside & (front if outfit.pattern == "chest" else normals[:, 2] < -0.25)] = Material.PRINT
    if outfit.top in ("jacket", "coat", "hoodie"):
        _opening(material, x, y, front, body, outfit)
    _straps(material, x, down, normals, body, outfit)
    if outfit.top != "coat":
        material[y < cut.top_hem] = Material.BOTTOM
    material[y > cut.collar] = Material.SKIN
    # A neckline: lower in front.
    open_neck = 0.04 if outfit.top == "tshirt" else 0.02
    neckline = cut.collar - open_neck * body.height * np.exp(-((x / (0.03 * body.height)) ** 2))
    material[(y > neckline) & (normals[:, 2] > 0.0)] = Material.SKIN
    return material


def _opening(material, x, y, front, body: Body, outfit: Outfit) -> None:
    if outfit.open_front:
        material[front & (abs(x) < 0.03 * body.height)] = Material.INNER
    elif outfit.top != "hoodie" or outfit.phase < 0.5:
        material[front & (abs(x) < 0.005 * body.height)] = Material.SOLE


def _straps(material, x, down, normals, body: Body, outfit: Outfit) -> None:
    if outfit.bag == "backpack":
        band = abs(abs(x) - 0.055 * body.height) < 0.014 * body.height
        material[band & (normals[:, 2] > -0.2) & (down < 0.17 * body.height)] = Material.STRAP
    if outfit.bag == "side":
        # From the shoulder opposite to the bag, across chest and back.
        line = x + outfit.bag_side * (0.07 * body.height - 0.5 * down)
        material[abs(line) < 0.012 * body.height] = Material.STRAP


def _arm(points, normals, along, body: Body, outfit: Outfit, cut: Cut) -> np.ndarray:
    material = np.full(len(along), Material.TOP, dtype=np.intp)
    around = 0.05 * np.arctan2(normals[:, 0], normals[:, 2])
    second = _pattern(outfit, around, along)
    if outfit.pattern == "sleeves":
        second[:] = True
    if outfit.pattern == "halves":
        second |= along > (0.1 + 0.09 * outfit.phase) * body.height
    material[second] = Material.TOP_SECOND
    material[along > cut.sleeve] = Material.SKIN
    return material


def _leg(points, normals, along, body: Body, outfit: Outfit, cut: Cut) -> np.ndarray:
    material = np.full(len(along), Material.BOTTOM, dtype=np.intp)
    if outfit.bottom_stripe:
        material[abs(normals[:, 0]) > 0.93] = Material.BOTTOM_SECOND
    material[along > cut.leg_cover] = Material.SKIN
    return material


def _skirt(points, normals, along, body: Body, outfit: Outfit, cut: Cut) -> np.ndarray:
    x, y, z = points.T
    if outfit.top != "coat":
        material = np.full(len(y), Material.BOTTOM, dtype=np.intp)
        material[y > cut.top_hem] = Material.TOP
        return material
    material = np.full(len(y), Material.TOP, dtype=np.intp)
    second = _pattern(outfit, 0.16 * np.arctan2(x, z), cut.shoulder - y)
    second |= outfit.pattern == "halves"
    material[second] = Material.TOP_SECOND
    if not outfit.open_front:
        material[(normals[:, 2] > 0.25) & (abs(x) < 0.005 * body.height)] = Material.SOLE
    return material


def _head(points, normals, along, body: Body, outfit: Outfit, cut: Cut) -> np.ndarray:
    x, y, z = ((points - cut.head) / cut.head_size).T
    material = np.full(len(y), Material.SKIN, dtype=np.intp)
    front = z > 0.3
    # Eyes and mouth are a few pixels at most; as shades they tell front from back.
    material[front & (abs(y - 0.2) < 0.1) & (abs(abs(x) - 0.33) < 0.16)] = Material.SKIN_DARK
    material[front & (abs(y + 0.5) < 0.06) & (abs(x) < 0.25)] = Material.SKIN_DARK
    if body.beard:
        material[(y < -0.38 + 0.1 * abs(x)) & (z > -0.1)] = Material.HAIR
    if body.hair_style != "bald":
        material[y > 0.02 + 0.62 * z] = Material.HAIR
    return material


def _constant(material: Material):
    def rule(points, normals, along, body: Body, outfit: Outfit, cut: Cut) -> np.ndarray:
        return np.full(len(along), material, dtype=np.intp)

    return rule


_hand = _constant(Material.SKIN)
_hair = _constant(Material.HAIR)
_strap = _constant(Material.STRAP)
_hat = _constant(Material.HAT)
_bag = _constant(Material.BAG)


def _foot(points, normals, along, body: Body, outfit: Outfit, cut: Cut) -> np.ndarray:
    return np.where(normals[:, 1] < -0.25, np.intp(Material.SOLE), np.intp(Material.SHOES))


def _hood(points, normals, along, body: Body, outfit: Outfit, cut: Cut) -> np.ndarray:
    worn = Material.TOP_SECOND if outfit.pattern == "sleeves" else Material.TOP
    return np.full(len(along), worn, dtype=np.intp)
