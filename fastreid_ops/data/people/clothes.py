# SPDX-License-Identifier: Apache-2.0
"""Outfits: garments, patterns, bags, hats and shoes.

About one identity in five (``PeopleOptions.shared_colors``) shares part of its outfit with its neighbour: the very
shade of a garment, or everything but a pattern, or everything but a bag. These are the pairs that a colour histogram
cannot tell apart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .body import Body, sample_body
from .options import PeopleOptions
from .palette import BOTTOM_SHADES, TOP_SHADES, Material, distance, linear, sample_shade
from .seeds import Kind, stream

TOPS = ("tshirt", "long", "jacket", "hoodie", "coat")
BOTTOMS = ("trousers", "shorts", "skirt")
PATTERNS = ("plain", "rows", "columns", "checks", "chest", "back", "halves", "sleeves")
BAGS = ("none", "backpack", "side", "hand")
HATS = ("none", "cap", "beanie")

Color = tuple[int, int, int]


@dataclass(frozen=True)
class Outfit:
    """What a person wears; colours are RGB in 0..255, lengths are metres unless said otherwise."""

    top: str
    top_color: Color
    pattern: str
    second_color: Color
    period: float
    phase: float
    print_size: tuple[float, float]
    print_round: bool
    inner_color: Color
    open_front: bool
    bottom: str
    bottom_color: Color
    bottom_stripe: bool
    hem: float
    shoes: Color
    soles: Color
    bag: str
    bag_color: Color
    bag_side: int
    hat: str
    hat_color: Color
    reflectance: tuple[float, ...]


def sample_outfit(
    seed: int, pid: int, outfit: int = 0, *, shared_colors: float = PeopleOptions.shared_colors
) -> Outfit:
    """The clothes of an identity: a function of (seed, pid, outfit) and of the share of shared colours.

    Args:
        outfit: 0 for the usual clothes, 1, 2, ... for other ones of the same person.
        shared_colors: share of identities in pairs (2j - 1, 2j) with a common colour.
    """
    own = _sample(seed, pid, outfit)
    # Both of a pair share, so this many of the pairs do.
    pair = stream(seed, Kind.PAIR, (pid + 1) // 2, 0, outfit)
    if pair.random() >= shared_colors or pid % 2:
        return own
    return _borrow(pair, own, _sample(seed, pid - 1, outfit), sample_body(seed, pid))


def _sample(seed: int, pid: int, outfit: int) -> Outfit:
    rng = stream(seed, Kind.OUTFIT, pid, 0, outfit)
    body = sample_body(seed, pid)
    top = _pick(rng, TOPS, (0.28, 0.2, 0.24, 0.14, 0.14))
    bottom = _pick(rng, BOTTOMS, (0.6, 0.12, 0.28) if body.slim else (0.8, 0.2, 0.0))
    top_color = sample_shade(rng, TOP_SHADES)
    worn = {
        "top": top,
        "top_color": top_color,
        **_pattern(rng, top, top_color),
        "inner_color": _contrasting(rng, top_color, 70),
        "open_front": bool(top in ("jacket", "coat") and rng.random() < 0.4),
        "bottom": bottom,
        "bottom_color": sample_shade(rng, BOTTOM_SHADES),
        "bottom_stripe": bool(bottom == "trousers" and rng.random() < 0.1),
        # Fraction of the leg that a skirt, shorts or a coat leaves free is told by this one length factor.
        "hem": float(rng.uniform(0.0, 1.0)),
        "shoes": ((28, 26, 26), (225, 222, 216), (92, 60, 40), (60, 66, 84), (170, 40, 44))[
            int(rng.choice(5, p=(0.42, 0.26, 0.16, 0.1, 0.06)))
        ],
        "soles": ((20, 20, 20), (230, 230, 226))[int(rng.integers(2))],
        "bag": _pick(rng, BAGS, (0.42, 0.28, 0.16, 0.14)),
        "bag_color": _contrasting(rng, top_color, 60),
        "bag_side": int(rng.choice((-1, 1))),
        "hat": _pick(rng, HATS, (0.8, 0.1, 0.1)),
        "hat_color": sample_shade(rng, TOP_SHADES),
    }
    # Infrared light sees fibres, not dyes: drawn apart from every colour.
    return Outfit(**worn, reflectance=tuple(float(v) for v in rng.uniform(0.16, 0.85, size=len(Material))))


def _pattern(rng: np.random.Generator, top: str, top_color: Color) -> dict:
    weights = (0.34, 0.13, 0.06, 0.08, 0.14, 0.08, 0.09, 0.08)
    if top in ("jacket", "coat"):
        weights = (0.62, 0.05, 0.0, 0.08, 0.04, 0.05, 0.08, 0.08)
    return {
        "pattern": _pick(rng, PATTERNS, weights),
        "second_color": _contrasting(rng, top_color, 85),
        "period": float(rng.uniform(0.10, 0.22)),
        "phase": float(rng.random()),
        "print_size": (float(rng.uniform(0.07, 0.12)), float(rng.uniform(0.05, 0.11))),
        "print_round": bool(rng.random() < 0.5),
    }


def _borrow(rng: np.random.Generator, own: Outfit, other: Outfit, body: Body) -> Outfit:
    kind = _pick(rng, ("top", "bottom", "pattern", "bag"), (0.32, 0.32, 0.18, 0.18))
    if kind == "top":
        return replace(own, top_color=other.top_color, second_color=other.second_color)
    if kind == "bottom":
        return replace(own, bottom_color=other.bottom_color)
    # Hard pairs wear the same; a skirt would sit on a body that was not built for it only in name.
    if kind == "pattern":
        choices = [name for name in PATTERNS[1:] if name != other.pattern]
        pattern = choices[int(rng.integers(len(choices)))]
        return replace(
            other, pattern=pattern, hat=own.hat, hat_color=own.hat_color, reflectance=own.reflectance
        )
    bag = "none" if other.bag != "none" and rng.random() < 0.4 else _pick(rng, BAGS[1:], (0.5, 0.25, 0.25))
    color = (
        own.bag_color
        if distance(own.bag_color, other.bag_color) > 60
        else _contrasting(rng, other.bag_color, 60)
    )
    return replace(other, bag=bag, bag_color=color, bag_side=own.bag_side, reflectance=own.reflectance)


def _pick(rng: np.random.Generator, names, weights) -> str:
    return names[int(rng.choice(len(names), p=np.asarray(weights) / np.sum(weights)))]


def _contrasting(rng: np.random.Generator, color: Color, least: float) -> Color:
    """A shade that the eye tells from ``color``; after eight misses the opposite grey."""
    for _ in range(8):
        shade = sample_shade(rng, TOP_SHADES)
        if distance(shade, color) >= least:
            return shade
    return (236, 234, 230) if sum(color) < 384 else (18, 18, 20)


def albedo_table(body: Body, outfit: Outfit) -> np.ndarray:
    """Linear reflectance of every material in visible light, float32 (materials, 3)."""
    shadowed = tuple(0.72 * c for c in body.skin)
    colors = {
        Material.SKIN: body.skin,
        Material.SKIN_DARK: shadowed,
        Material.HAIR: body.hair,
        Material.TOP: outfit.top_color,
        Material.TOP_SECOND: outfit.second_color,
        Material.PRINT: outfit.second_color,
        Material.INNER: outfit.inner_color,
        Material.BOTTOM: outfit.bottom_color,
        Material.BOTTOM_SECOND: (226, 226, 222) if sum(outfit.bottom_color) < 384 else (24, 24, 28),
        Material.SHOES: outfit.shoes,
        Material.SOLE: outfit.soles,
        Material.BAG: outfit.bag_color,
        Material.STRAP: tuple(0.7 * c for c in outfit.bag_color),
        Material.HAT: outfit.hat_color,
    }
    return np.stack([linear(colors[m]) for m in Material]).astype(np.float32)


def reflectance_table(outfit: Outfit) -> np.ndarray:
    """Infrared response of every material, float32 (materials,): warm skin, fabrics by fibre, prints almost gone."""
    values = np.array(outfit.reflectance, dtype=np.float32)
    values[Material.SKIN] = 0.92
    values[Material.SKIN_DARK] = 0.84
    values[Material.HAIR] = 0.22 + 0.15 * values[Material.HAIR]
    values[Material.TOP_SECOND] = 0.9 * values[Material.TOP]
    values[Material.PRINT] = 0.75 * values[Material.TOP]
    values[Material.BOTTOM_SECOND] = 0.9 * values[Material.BOTTOM]
    values[Material.SHOES] = 0.15 + 0.3 * values[Material.SHOES]
    values[Material.STRAP] = 0.8 * values[Material.BAG]
    return values
