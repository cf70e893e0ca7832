# SPDX-License-Identifier: Apache-2.0
"""Which images make up which batch: pure functions of (seed, epoch), so that a position is just (epoch,
step)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
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


class PKBatches:
    """Batches of P identities with K images each, as batch-hard triplet loss needs them.

    As RandomIdentitySampler of the deep-person-reid repository: in an epoch the images of each identity are
    shuffled and cut into groups of K; an identity with fewer than K images is drawn from with replacement to
    make one group; a batch takes one group each from P identities picked at random among those with groups
    left; the epoch ends when fewer than P identities have groups left. Epochs therefore differ in length: ask
    `len_epoch`.

    Args:
        labels: class label of every row, integers.
        p: identities in a batch. k: images of each.
        seed: whole number from 0.
        remainder: what becomes of the images left over when an identity's number of images is no multiple of
            K: "drop" leaves them out of this epoch as the source does; "fill" completes the group with other
                images
            of the identity, so that every group-able image is seen.

    Raises:
        ValueError: with too few identities for one batch, or numbers out of range.
    """

    def __init__(self, labels: Sequence[int], p: int, k: int, seed: int, *, remainder: str = "drop") -> None:
        for name, value, least in (("p", p, 1), ("k", k, 1), ("seed", seed, 0)):
            _whole(type(self).__name__, name, value, least)
        if remainder not in ("drop", "fill"):
            raise ValueError(f"PKBatches: remainder: got {remainder!r}, expected 'drop' or 'fill'")
        values = np.asarray(labels)
        if values.ndim != 1 or (values.size and values.dtype.kind not in "iu"):
            got = f"{values.dtype} of shape {values.shape}"
            raise ValueError(f"PKBatches: labels: got {got}, expected one integer for each image")
        rows: dict[int, list[int]] = defaultdict(list)
        for row, label in enumerate(values.tolist()):
            rows[label].append(row)
        if len(rows) < p:
            raise ValueError(
                f"PKBatches: p: got {p} identities in a batch, expected at most {len(rows)}, the number of "
                f"identities among the {values.size} images; lower p (and raise k to keep the batch size)"
            )
        self.p, self.k, self.seed, self.remainder = p, k, seed, remainder
        self._rows = [np.array(rows[label]) for label in sorted(rows)]
        self._length: tuple[int, int] | None = None

    def epoch(self, epoch: int) -> list[list[int]]:
        """The batches of one epoch; each lists the K rows of its first identity, then of its second, and so
        on."""
        rng = _generator(self.seed, epoch)
        groups = [self._groups(rows, rng) for rows in self._rows]
        left = list(range(len(groups)))
        batches = []
        while len(left) >= self.p:
            picked = rng.choice(len(left), self.p, replace=False).tolist()
            batches.append([row for place in picked for row in groups[left[place]].pop()])
            left = [identity for identity in left if groups[identity]]
        self._length = (epoch, len(batches))
        return batches

    def _groups(self, rows: np.ndarray, rng: np.random.Generator) -> list[list[int]]:
        if len(rows) < self.k:
            return [rng.choice(rows, self.k, replace=True).tolist()]
        order = rng.permutation(rows)
        groups = [
            order[start : start + self.k].tolist() for start in range(0, len(order) - self.k + 1, self.k)
        ]
        over = len(order) % self.k
        if over and self.remainder == "fill":
            others = rng.choice(order[:-over], self.k - over, replace=False)
            groups.append([*order[-over:].tolist(), *others.tolist()])
        return groups

    def len_epoch(self, epoch: int) -> int:
        """Number of batches of this epoch."""
        if self._length is None or self._length[0] != epoch:
            self.epoch(epoch)
        return self._length[1]


class ShuffledBatches:
    """Every image once in an epoch, in random order, for losses that need no pairs.

    Args:
        count: number of images. batch_size: images in a batch. seed: whole number from 0.
        drop_last: leave out the images that do not fill a batch.

    Raises:
        ValueError: for numbers out of range, or when `drop_last` would leave no batch at all.
    """

    def __init__(self, count: int, batch_size: int, seed: int, *, drop_last: bool = True) -> None:
        for name, value, least in (("count", count, 1), ("batch_size", batch_size, 1), ("seed", seed, 0)):
            _whole(type(self).__name__, name, value, least)
        if drop_last and count < batch_size:
            raise ValueError(
                f"ShuffledBatches: batch_size: got {batch_size}, expected at most {count}, all images"
            )
        self.count, self.batch_size, self.seed, self.drop_last = count, batch_size, seed, drop_last

    def epoch(self, epoch: int) -> list[list[int]]:
        """The batches of one epoch as row numbers."""
        order = _generator(self.seed, epoch).permutation(self.count).tolist()
        stop = self.len_epoch(epoch) * self.batch_size
        return [order[start : start + self.batch_size] for start in range(0, stop, self.batch_size)]

    def len_epoch(self, epoch: int) -> int:
        """Number of batches of any epoch."""
        whole, over = divmod(self.count, self.batch_size)
        return whole if self.drop_last or not over else whole + 1


def _whole(owner: str, name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{owner}: {name}: got {value!r}, expected a whole number from {least}")


def _generator(seed: int, epoch: int) -> np.random.Generator:
    _whole("epoch", "epoch", epoch, 0)
    # The last word keeps this stream apart from the loaders' [seed, epoch, step, slot]: SeedSequence pads
    # with zeros.
    return np.random.default_rng(np.random.SeedSequence([int(seed), int(epoch), 2**32 - 1]))
