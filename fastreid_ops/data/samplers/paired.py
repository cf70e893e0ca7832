# SPDX-License-Identifier: Apache-2.0
"""Batches for visible-infrared re-identification: the same people in both halves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ._common import distinct, generator, grouped, integers, one_of, same_length, whole

VISIBLE, INFRARED = 0, 1


class PairedBatches:
    """P identities with K visible and K infrared images each: first all visible images, then all infrared
    ones, the same identities in the same order, so that places j and j + P * K show one person.

    The identities of a batch are different; batches are drawn independently of one another, as in the
    samplers of AGW and DEEN. An epoch has max(visible, infrared images) // (P * K) + 1 batches, DEEN's
    formula; the images it counts are those of the identities that can be drawn.

    Args:
        labels: class label of every row, integers.
        modalities: 0 (visible) or 1 (infrared) of every row. Identities seen in one of them only are never
            drawn; `left_out` holds their labels.
        p: identities in a batch. k: images of each identity in each half.
        seed: whole number from 0.
        images: "replace" draws the K images with replacement as AGW and DEEN do; "distinct" draws different
            ones wherever an identity has K of them (WRIM-Net, whose source does not fix the point).
        batches: batches in an epoch; None for the formula.

    Raises:
        ValueError: with fewer than P identities in both modalities, or arguments out of range.
    """

    def __init__(
        self,
        labels: Sequence[int],
        modalities: Sequence[int],
        p: int,
        k: int,
        seed: int,
        *,
        images: str = "replace",
        batches: int | None = None,
    ) -> None:
        for name, value, least in (("p", p, 1), ("k", k, 1), ("seed", seed, 0)):
            whole("PairedBatches", name, value, least)
        if batches is not None:
            whole("PairedBatches", "batches", batches, 1)
        one_of("PairedBatches", "images", images, ("replace", "distinct"))
        values = integers("PairedBatches", labels)
        same_length("PairedBatches", values, "modalities", modalities)
        wrong = sorted({str(m) for m in modalities if m not in (VISIBLE, INFRARED)})
        if wrong:
            raise ValueError(
                f"PairedBatches: modalities: got {wrong[0]}, expected 0 (visible) or 1 (infrared)"
            )
        rows = grouped(list(zip(values, map(int, modalities), strict=True)))
        people = sorted(set(values))
        both = [label for label in people if (label, VISIBLE) in rows and (label, INFRARED) in rows]
        if len(both) < p:
            raise ValueError(
                f"PairedBatches: p: got {p} identities in a batch, expected at most {len(both)}, the number of "
                f"identities with visible and infrared images ({len(people)} in all); lower p"
            )
        self.p, self.k, self.seed, self.images = p, k, seed, images
        self.left_out = [label for label in people if label not in set(both)]
        self._rows = [[np.array(rows[label, side]) for label in both] for side in (VISIBLE, INFRARED)]
        largest = max(sum(map(len, side)) for side in self._rows)
        self._length = largest // (p * k) + 1 if batches is None else int(batches)

    def epoch(self, epoch: int) -> list[list[int]]:
        """The batches of one epoch: P * K visible rows, K of each identity in turn, then P * K infrared
        ones."""
        rng = generator(self.seed, epoch)
        return [self._batch(rng) for _ in range(self._length)]

    def _batch(self, rng: np.random.Generator) -> list[int]:
        people = rng.choice(len(self._rows[VISIBLE]), self.p, replace=False).tolist()
        return [row for side in self._rows for person in people for row in self._images(side[person], rng)]

    def _images(self, rows: np.ndarray, rng: np.random.Generator) -> list[int]:
        if self.images == "distinct":
            return distinct(rng, rows, self.k)
        return rng.choice(rows, self.k, replace=True).tolist()

    def len_epoch(self, epoch: int) -> int:
        """Number of batches of any epoch."""
        return self._length
