# SPDX-License-Identifier: Apache-2.0
"""Batches of identities that show each of them in several outfits."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from ._common import grouped, integers, same_length
from .identity import PKBatches


class ClothesBatches(PKBatches):
    """Batches of P identities with K images each, the K images spread over the identity's outfits.

    The public systems (CAL, cloth-changing re-ID) draw P x K without looking at clothes: that is `PKBatches`.
    It leaves groups in a single outfit, in which a clothes-adversarial or a cross-clothes term has nothing to
    work on. Here every group of K holds min(K, outfits) outfits of its identity, each of them K // outfits or
    one more times. No source fixes how; this is ours.

    As in `PKBatches` an identity with n images makes max(1, n // K) groups in an epoch, a batch takes one
    group each from P identities picked at random among those with groups left, and the epoch ends when fewer
    than P have any. Within an epoch an outfit's images come in shuffled order, all of them before any comes
    again.

    Args:
        labels: class label of every row, integers.
        clothes: outfit of every row, compared within an identity only.
        p, k, seed: as in `PKBatches`.

    Raises:
        ValueError: with too few identities for one batch, no identity in two outfits, or arguments out of
            range.
    """

    def __init__(self, labels: Sequence[int], clothes: Sequence[Hashable], p: int, k: int, seed: int) -> None:
        values = integers("ClothesBatches", labels)
        same_length("ClothesBatches", values, "clothes", clothes)
        super().__init__(values, p, k, seed)
        if all(len({clothes[row] for row in rows}) < 2 for rows in self._rows):
            raise ValueError(
                "ClothesBatches: clothes: got one outfit for every identity, expected some identity with two; "
                "without a change of clothes sample with PKBatches"
            )
        self._outfits = [
            [rows[places] for places in map(np.array, grouped([clothes[row] for row in rows]).values())]
            for rows in self._rows
        ]

    def _all_groups(self, rng: np.random.Generator) -> list[list[list[int]]]:
        return [self._spread(outfits, rng) for outfits in self._outfits]

    def _spread(self, outfits: list[np.ndarray], rng: np.random.Generator) -> list[list[int]]:
        left: list[list[int]] = [[] for _ in outfits]
        groups = []
        for _ in range(max(1, sum(map(len, outfits)) // self.k)):
            turn = rng.permutation(len(outfits)).tolist()
            group = []
            for place in range(self.k):
                outfit = turn[place % len(turn)]
                if not left[outfit]:
                    left[outfit] = rng.permutation(outfits[outfit]).tolist()
                group.append(left[outfit].pop())
            groups.append(group)
        return groups
