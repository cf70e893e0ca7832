# SPDX-License-Identifier: Apache-2.0
"""Batches with as many images of one domain (a camera, a data set) as of another."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from ._common import generator, grouped, whole


class DomainBatches:
    """Batches of equally many images from each of `count` domains, whatever their identities.

    As RandomDomainSampler (domains are cameras) and RandomDatasetSampler (domains are data sets) of the
    deep-person-reid repository: a batch picks `count` domains at random and takes batch_size / count images
    of each, none of them twice in an epoch; the epoch ends after the batch that left one of its domains with
    too few images for another one, so the smallest domain decides how long it is.

    Args:
        domains: domain of every row: a camera, the number or the name of a data set.
        batch_size: images in a batch, a multiple of `count`.
        seed: whole number from 0.
        count: domains in a batch; None for all of them.

    Raises:
        ValueError: for numbers out of range, or a domain with fewer images than its share of one batch.
    """

    def __init__(
        self, domains: Sequence[Hashable], batch_size: int, seed: int, *, count: int | None = None
    ) -> None:
        whole("DomainBatches", "batch_size", batch_size, 1)
        whole("DomainBatches", "seed", seed, 0)
        rows = grouped(domains)
        self.count = len(rows) if count is None else count
        whole("DomainBatches", "count", self.count, 1)
        if self.count > len(rows):
            raise ValueError(
                f"DomainBatches: count: got {count} domains in a batch, expected at most {len(rows)}, all there "
                "are"
            )
        if batch_size % self.count:
            raise ValueError(
                f"DomainBatches: batch_size: got {batch_size}, expected a multiple of the {self.count} domains "
                "of a batch"
            )
        self.each, self.seed = batch_size // self.count, seed
        # Numbers by value before names, as `data.ids.in_order`: whatever order the rows come in.
        self.domains = sorted(rows, key=lambda domain: (isinstance(domain, str), domain))
        small = [domain for domain in self.domains if len(rows[domain]) < self.each]
        if small:
            raise ValueError(
                f"DomainBatches: batch_size: got {self.each} images of each domain, expected at most "
                f"{len(rows[small[0]])}, all that domain {small[0]!r} has; lower batch_size"
            )
        self._rows = [np.array(rows[domain]) for domain in self.domains]
        self._length: tuple[int, int] | None = None

    def epoch(self, epoch: int) -> list[list[int]]:
        """The batches of one epoch; each lists the images of its first domain, then of its second, and so
        on."""
        rng = generator(self.seed, epoch)
        left = [rng.permutation(rows).tolist() for rows in self._rows]
        batches = []
        while True:
            picked = rng.choice(len(left), self.count, replace=False).tolist()
            batches.append([left[domain].pop() for domain in picked for _ in range(self.each)])
            if min(len(left[domain]) for domain in picked) < self.each:
                self._length = (epoch, len(batches))
                return batches

    def len_epoch(self, epoch: int) -> int:
        """Number of batches of this epoch."""
        if self._length is None or self._length[0] != epoch:
            self.epoch(epoch)
        return self._length[1]
