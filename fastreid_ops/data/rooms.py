# SPDX-License-Identifier: Apache-2.0
"""Memory that a loader's workers write batches into and the calling process reads them from, without a copy.

Fresh shared memory is handed out by the system page by page, at about a microsecond for 4 KiB: for a batch of images
that takes longer than to normalise them. Here a few rooms are made at the start and used again and again.
"""

from __future__ import annotations

import math
import weakref

import torch


def shared(size: tuple[int, ...]) -> torch.Tensor:
    """float32 of this size, not filled, in memory that processes can share."""
    return torch.empty(0).set_(torch.UntypedStorage._new_shared(4 * math.prod(size)), 0, size)


class Rooms:
    """Rooms for as many batches as are under way at once.

    A room is free again when nothing refers to the batch that lay there any more, slices and views of it included: a
    caller who keeps batches keeps their rooms, and gets the next ones elsewhere.

    Attributes:
        tensors: of all rooms; what the workers write into.

    Raises:
        RuntimeError: the system has no shared memory for them, as in a container with a small /dev/shm.
    """

    def __init__(self, count: int, size: tuple[int, ...]) -> None:
        try:
            self.tensors = [shared(size) for _ in range(count)]
        except RuntimeError as error:
            wanted = f"{count * 4 * math.prod(size) / 2**20:.0f} MiB for {count} batches"
            raise RuntimeError(
                f"loader: workers: got {error}, expected shared memory (/dev/shm) of {wanted}: give the container more "
                "(docker run --shm-size), or take fewer workers, smaller batches or --data.workers 0"
            ) from error
        self._free = list(range(count))

    def take(self) -> int | None:
        """The number of a free room, which is then taken; None where there is none."""
        return self._free.pop() if self._free else None

    def hand_out(self, room: int, rows: int) -> torch.Tensor:
        """The first rows of a room, for the caller of the loader; the room is free when they are let go of."""
        # The storage of a tensor made from an array holds that array, and so do all its views.
        array = self.tensors[room].numpy()[:rows]
        weakref.finalize(array, self._free.append, room).atexit = False
        return torch.from_numpy(array)
