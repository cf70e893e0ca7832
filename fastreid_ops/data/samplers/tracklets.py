# SPDX-License-Identifier: Apache-2.0
"""Batches of sequences: whole tracklets are drawn, then frames of each."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from fastreid_ops.data.frames import frame_positions, tracklet_rows

from ._common import generator, integers, one_of, same_length, whole
from .identity import PKBatches, ShuffledBatches


class TrackletBatches:
    """Batches of sequences of `length` frames, flattened: the frames of one tracklet stand together, so that
    images (B * length, 3, H, W) viewed as (B, length, 3, H, W) are the sequences.

    As the video engine of the deep-person-reid repository, which flattens them for image models and repeats
    the pid for each frame. (Its first version trained on single frames: any sampler over the rows does that.)

    Args:
        labels: class label of every row, integers.
        tracklets: tracklet of every row. frames: number of the frame in its tracklet, which gives the order;
            None for the order of the rows.
        tracklets_in_batch: B.
        length: frames drawn from each tracklet. seed: whole number from 0.
        tracklets_per_id: K draws the tracklets as `PKBatches`, P = B / K identities with K tracklets each;
            None draws them as `ShuffledBatches`.
        frame_choice: "random" or "evenly"; see `frame_positions`.
        remainder: of `PKBatches`.

    Raises:
        ValueError: for a tracklet with two labels, too few tracklets or identities, or arguments out of range.
    """

    def __init__(
        self,
        labels: Sequence[int],
        tracklets: Sequence[Hashable],
        tracklets_in_batch: int,
        length: int,
        seed: int,
        *,
        frames: Sequence[int] | None = None,
        tracklets_per_id: int | None = None,
        frame_choice: str = "random",
        remainder: str = "drop",
    ) -> None:
        for name, value, least in (("tracklets_in_batch", tracklets_in_batch, 1), ("length", length, 1)):
            whole("TrackletBatches", name, value, least)
        one_of("TrackletBatches", "frame_choice", frame_choice, ("random", "evenly"))
        values = integers("TrackletBatches", labels)
        same_length("TrackletBatches", values, "tracklets", tracklets)
        found = tracklet_rows(tracklets, frames)
        mixed = [name for name, rows in found.items() if len({values[row] for row in rows}) > 1]
        if mixed:
            raise ValueError(
                f"TrackletBatches: tracklets: got {len(mixed)} with more than one label (first: {mixed[0]!r}), "
                "expected one person in each"
            )
        self.length, self.seed, self.frame_choice = length, seed, frame_choice
        self._rows = list(found.values())
        own = [values[rows[0]] for rows in self._rows]
        if tracklets_per_id is None:
            self._inner = ShuffledBatches(len(own), tracklets_in_batch, seed)
        else:
            whole("TrackletBatches", "tracklets_per_id", tracklets_per_id, 1)
            if tracklets_in_batch % tracklets_per_id:
                raise ValueError(
                    f"TrackletBatches: tracklets_in_batch: got {tracklets_in_batch}, expected a multiple of "
                    f"tracklets_per_id = {tracklets_per_id}"
                )
            people = tracklets_in_batch // tracklets_per_id
            self._inner = PKBatches(own, people, tracklets_per_id, seed, remainder=remainder)

    def epoch(self, epoch: int) -> list[list[int]]:
        """The batches of one epoch as rows of frames."""
        rng = generator(self.seed, epoch, purpose=1)
        batches = []
        for batch in self._inner.epoch(epoch):
            rows = []
            for tracklet in batch:
                own = self._rows[tracklet]
                rows += [
                    own[place] for place in frame_positions(len(own), self.length, self.frame_choice, rng)
                ]
            batches.append(rows)
        return batches

    def len_epoch(self, epoch: int) -> int:
        """Number of batches of this epoch."""
        return self._inner.len_epoch(epoch)
