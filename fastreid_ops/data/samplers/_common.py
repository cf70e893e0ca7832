# SPDX-License-Identifier: Apache-2.0
"""What every sampler needs: arguments checked, rows grouped, one random stream for each epoch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import Protocol

import numpy as np


class Batches(Protocol):
    """What a loader asks of a sampler."""

    def epoch(self, epoch: int) -> list[list[int]]:
        """The batches of one epoch as row numbers; the same for the same seed and epoch, whatever came
        before."""
        ...

    def len_epoch(self, epoch: int) -> int:
        """How many batches `epoch(epoch)` has."""
        ...


def whole(owner: str, name: str, value: object, least: int) -> None:
    """ValueError unless `value` is an integer from `least` on."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{owner}: {name}: got {value!r}, expected a whole number from {least}")


def one_of(owner: str, name: str, value: object, choices: Sequence[str]) -> None:
    """ValueError unless `value` is one of the words."""
    if value not in choices:
        words = " or ".join(map(repr, choices))
        raise ValueError(f"{owner}: {name}: got {value!r}, expected {words}")


def same_length(owner: str, labels: Sequence, name: str, values: Sequence) -> None:
    """ValueError unless there is one value for each label."""
    if len(values) != len(labels):
        raise ValueError(
            f"{owner}: {name}: got {len(values)} values, expected {len(labels)}, one for each label"
        )


def integers(owner: str, labels: Sequence[int]) -> list[int]:
    """Class labels as Python ints. ValueError for anything but a one-dimensional sequence of integers."""
    values = np.asarray(labels)
    if values.ndim != 1 or (values.size and values.dtype.kind not in "iu"):
        got = f"{values.dtype} of shape {values.shape}"
        raise ValueError(f"{owner}: labels: got {got}, expected one integer for each image")
    return values.tolist()


def grouped(keys: Sequence[Hashable]) -> dict[Hashable, list[int]]:
    """Key -> its row numbers, both in order of appearance."""
    rows: dict[Hashable, list[int]] = defaultdict(list)
    for row, key in enumerate(keys):
        rows[key].append(row)
    return dict(rows)


def generator(seed: int, epoch: int, purpose: int = 0) -> np.random.Generator:
    """The stream of one epoch; `purpose` keeps several streams of one sampler apart."""
    whole("epoch", "epoch", epoch, 0)
    # The last word keeps this stream apart from the loaders' [seed, epoch, step, slot]: SeedSequence pads
    # with zeros.
    return np.random.default_rng(np.random.SeedSequence([int(seed), int(epoch), 2**32 - 1 - purpose]))


def distinct(rng: np.random.Generator, rows: np.ndarray, count: int) -> list[int]:
    """`count` of the rows: different ones where there are enough, drawn with replacement where not."""
    return rng.choice(rows, count, replace=len(rows) < count).tolist()
