# SPDX-License-Identifier: Apache-2.0
"""What a loader hands out."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Batch(NamedTuple):
    """Images with their labels.

    Attributes:
        images: (B, 3, H, W) float32.
        pids: (B,) int64 class labels, or None where the loader was given none.
        camids: (B,) int64.
        index: (B,) int64 row of the manifest each image was read from.
        paths: the B file names as the manifest writes them.
        modality: (B,) int64, 0 visible and 1 infrared; None where the manifest has no such column, as the next.
        clothes: (B,) int64 clothes label, see `columns.clothes_labels`.
        tracklet: (B,) int64 number of the tracklet in the manifest.
    """

    images: torch.Tensor
    pids: torch.Tensor | None
    camids: torch.Tensor
    index: torch.Tensor
    paths: list[str]
    modality: torch.Tensor | None = None
    clothes: torch.Tensor | None = None
    tracklet: torch.Tensor | None = None

    def sequences(self, length: int) -> torch.Tensor:
        """The images of a batch of tracklets as (B / length, length, 3, H, W), without a copy.

        Raises:
            ValueError: if B is no multiple of `length`.
        """
        if length < 1 or len(self.images) % length:
            raise ValueError(
                f"Batch.sequences: length: got {length}, expected a divisor of the {len(self.images)} images"
            )
        return self.images.unflatten(0, (-1, length))
