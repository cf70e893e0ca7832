# SPDX-License-Identifier: Apache-2.0
"""What may stand for an identity, a camera or a frame, in memory and in a CSV cell alike."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

SPLITS = ("train", "query", "gallery")
_WHOLE = re.compile(r"-?(?:0|[1-9][0-9]*)", re.ASCII)
_DECIMAL = re.compile(r"[-+]?[0-9]+\.[0-9]*(?:[eE][-+]?[0-9]+)?", re.ASCII)
_MISSING = {"nan", "na", "n/a", "none", "null", "<na>"}
_INT64 = 2**63


def text(value: object) -> str:
    """A non-empty string without spaces around it and without NUL; ValueError says which rule is broken."""
    if not isinstance(value, str):
        raise TypeError(f"got {value!r} ({type(value).__name__}), expected text")
    if not value.strip():
        raise ValueError("got nothing, expected a value")
    if value != value.strip():
        raise ValueError(f"got {value!r} with spaces around it, expected {value.strip()!r}")
    if "\0" in value:
        raise ValueError(f"got {value!r}, expected text without NUL bytes")
    return value


def whole(value: object) -> int:
    """An integer 0 or above that fits 64 bits, from an int, a NumPy integer or its plain decimal text."""
    if isinstance(value, str):
        if not _WHOLE.fullmatch(text(value)):
            raise ValueError(f"got {value!r}, expected a whole number such as 0 or 3")
        value = int(value) if len(value) < 25 else _INT64
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"got {value!r} ({type(value).__name__}), expected a whole number")
    if not 0 <= value < _INT64:
        raise ValueError(f"got {value}, expected a whole number from 0 to 2**63 - 1")
    return int(value)


def identity(value: object) -> int | str:
    """An id of any kind: plain decimal text is that number, so `7` and `"7"` are one id; all other text stays
    text.

    `"007"` stays text. Refused: negative numbers (Market-1501 marks junk boxes with -1), `1.0` and words that
    spreadsheets write for a missing value, since each of them is more often an accident than an id.
    """
    if not isinstance(value, str):
        return whole(value)
    if _WHOLE.fullmatch(text(value)):
        return whole(value)
    if _DECIMAL.fullmatch(value):
        raise ValueError(f"got {value!r}, expected a whole number or a name, not a decimal number")
    if value.lower() in _MISSING:
        raise ValueError(f"got {value!r}, which reads like a missing value, expected an id")
    return value


def split_name(value: object) -> str:
    """One of train, query and gallery, exactly."""
    if value not in SPLITS:
        hint = (
            ", which are the two halves of a test set"
            if str(value).strip().lower() in ("test", "val")
            else ""
        )
        raise ValueError(f"got {value!r}, expected 'train', 'query' or 'gallery'{hint}")
    return str(value)


def in_order(values: Iterable[int | str]) -> list[int | str]:
    """The distinct ids, numbers first and by value, then text by code point."""
    return sorted(set(values), key=lambda value: (isinstance(value, str), value))
