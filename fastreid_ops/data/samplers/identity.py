# SPDX-License-Identifier: Apache-2.0
"""Batches of identities, and batches of any images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ._common import generator, grouped, integers, one_of, whole


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
            images of the identity, so that every group-able image is seen.

    Raises:
        ValueError: with too few identities for one batch, or numbers out of range.
    """

    def __init__(self, labels: Sequence[int], p: int, k: int, seed: int, *, remainder: str = "drop") -> None:
        for name, value, least in (("p", p, 1), ("k", k, 1), ("seed", seed, 0)):
            whole(type(self).__name__, name, value, least)
        one_of("PKBatches", "remainder", remainder, ("drop", "fill"))
        values = integers("PKBatches", labels)
        rows = grouped(values)
        if len(rows) < p:
            raise ValueError(
                f"PKBatches: p: got {p} identities in a batch, expected at most {len(rows)}, the number of "
                f"identities among the {len(values)} images; lower p (and raise k to keep the batch size)"
            )
        self.p, self.k, self.seed, self.remainder = p, k, seed, remainder
        self._rows = [np.array(rows[label]) for label in sorted(rows)]
        self._length: tuple[int, int] | None = None

    def epoch(self, epoch: int) -> list[list[int]]:
        """The batches of one epoch; each lists the K rows of its first identity, then of its second, and so
        on."""
        rng = generator(self.seed, epoch)
        groups = self._all_groups(rng)
        left = list(range(len(groups)))
        batches = []
        while len(left) >= self.p:
            picked = rng.choice(len(left), self.p, replace=False).tolist()
            batches.append([row for place in picked for row in groups[left[place]].pop()])
            left = [identity for identity in left if groups[identity]]
        self._length = (epoch, len(batches))
        return batches

    def _all_groups(self, rng: np.random.Generator) -> list[list[list[int]]]:
        return [self._groups(rows, rng) for rows in self._rows]

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
            whole(type(self).__name__, name, value, least)
        if drop_last and count < batch_size:
            raise ValueError(
                f"ShuffledBatches: batch_size: got {batch_size}, expected at most {count}, all images"
            )
        self.count, self.batch_size, self.seed, self.drop_last = count, batch_size, seed, drop_last

    def epoch(self, epoch: int) -> list[list[int]]:
        """The batches of one epoch as row numbers."""
        order = generator(self.seed, epoch).permutation(self.count).tolist()
        stop = self.len_epoch(epoch) * self.batch_size
        return [order[start : start + self.batch_size] for start in range(0, stop, self.batch_size)]

    def len_epoch(self, epoch: int) -> int:
        """Number of batches of any epoch."""
        whole, over = divmod(self.count, self.batch_size)
        return whole if self.drop_last or not over else whole + 1
