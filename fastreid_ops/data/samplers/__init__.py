# SPDX-License-Identifier: Apache-2.0
"""Which images make up which batch: pure functions of (seed, epoch), so that a position is just (epoch,
step)."""

from ._common import Batches
from .clothes import ClothesBatches
from .domains import DomainBatches
from .identity import PKBatches, ShuffledBatches
from .paired import PairedBatches
from .tracklets import TrackletBatches

__all__ = [
    "Batches",
    "ClothesBatches",
    "DomainBatches",
    "PKBatches",
    "PairedBatches",
    "ShuffledBatches",
    "TrackletBatches",
]
