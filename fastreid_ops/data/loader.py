# SPDX-License-Identifier: Apache-2.0
"""Batches of tensors from a manifest: the same bytes for any number of workers and from any starting step.

The augmentation of an item is drawn from `SeedSequence([seed, epoch, step, slot])` and from nothing else.
Workers send images or the reason why there is none; counting, refusing and listing happen in the calling
process.
"""

from __future__ import annotations

import copy
import traceback
from collections.abc import Callable, Hashable, Iterator, Sequence

import torch
from torch.utils.data import DataLoader

from fastreid_ops.data.batch import Batch
from fastreid_ops.data.by_modality import ByModality
from fastreid_ops.data.columns import clothes_labels, tracklet_numbers
from fastreid_ops.data.images import BadImageError, BadImagePolicy
from fastreid_ops.data.manifest import Manifest
from fastreid_ops.data.reader import Reader, Result, Task
from fastreid_ops.data.rooms import Rooms
from fastreid_ops.data.samplers import Batches, TrackletBatches
from fastreid_ops.data.transforms import EvalTransform
from fastreid_ops.data.worker_signals import leave_to_the_parent

# Seconds without a batch from a worker before the loader gives up with the names of the files it waits for.
TIMEOUT = 300.0
# Batches that each worker has been told to make; torch's default.
PREFETCHED = 2


class _Loader:
    """What both loaders share: tasks in, results out, in order."""

    def __init__(
        self,
        manifest: Manifest,
        reader: Reader,
        workers: int,
        policy: BadImagePolicy | None,
        cache_images: bool,
    ) -> None:
        owner = type(self).__name__
        if isinstance(workers, bool) or not isinstance(workers, int) or workers < 0:
            raise ValueError(f"{owner}: workers: got {workers!r}, expected a whole number from 0")
        if not len(manifest):
            raise ValueError(f"{owner}: manifest: got no rows, expected at least one")
        self.manifest, self.workers = manifest, workers
        self.policy = policy if policy is not None else BadImagePolicy()
        self.cache_images = cache_images
        self._reader = reader
        self._columns = [
            None if column is None else torch.tensor(column, dtype=torch.int64)
            for column in (reader.modality, clothes_labels(manifest), tracklet_numbers(manifest))
        ]

    def _run(self, tasks: Sequence[Task], finish: Callable[[Task, Result], Batch]) -> Iterator[Batch]:
        if self.cache_images and self._reader.cache is None:
            self._reader.fill_cache(max(self.workers, 1))
        rooms = self._rooms(tasks)
        results = map(self._reader.__getitem__, tasks)
        if rooms is not None:
            results = iter(self._data_loader(tasks, rooms))
        try:
            for task in tasks:
                # Under no name here: the caller's batch would live on while the next one is made.
                yield finish(task, self._next(results, task, rooms))
        finally:
            # The last reference must go here. Left to the cyclic garbage collector, the iterator loses its
            # queues before it can tell its workers to stop, and then waits five seconds for each of them.
            results = None

    def _rooms(self, tasks: Sequence[Task]) -> Rooms | None:
        """For every batch that the workers have been told to make, the one asked for and the one before it."""
        if not self.workers:
            return None
        rows = max((len(task.rows) for task in tasks), default=0)
        count = min(len(tasks), self.workers * PREFETCHED + 2)
        return Rooms(count if rows else 0, self._reader.size(rows))

    def _next(self, results: Iterator[Result], task: Task, rooms: Rooms | None) -> Result:
        try:
            result = next(results)
            if rooms is None or result.room is None:
                return result
            return result._replace(images=rooms.hand_out(result.room, len(result.rows)))
        except RuntimeError as error:
            if self.workers:
                _forget_frames(error)
            raise self._failure(task, error) from error

    def _data_loader(self, tasks: Sequence[Task], rooms: Rooms) -> DataLoader:
        reader = copy.copy(self._reader)
        reader.rooms = rooms.tensors
        # A batch is one item of the data set, so that torch neither collates nor reorders anything.
        return DataLoader(
            reader,
            batch_size=None,
            # Asked for a task when a worker gets it: by then rooms are free again.
            sampler=(task._replace(room=rooms.take()) for task in tasks),
            num_workers=self.workers,
            prefetch_factor=PREFETCHED,
            collate_fn=_as_it_is,
            timeout=TIMEOUT,
            worker_init_fn=leave_to_the_parent,
            # A generator of its own: the default would draw from, and so change, torch's global random state.
            generator=torch.Generator(),
        )

    def _failure(self, task: Task, error: RuntimeError) -> RuntimeError:
        names = ", ".join(str(self._reader.files[row]) for row in task.rows[:4])
        more = f" and {len(task.rows) - 4} more" if len(task.rows) > 4 else ""
        return RuntimeError(f"{type(self).__name__}: failed while loading {names}{more}: {error}")

    def _batch(self, result: Result, labels: Sequence[int] | None) -> Batch:
        rows = result.rows
        return Batch(
            result.images,
            None if labels is None else torch.tensor([labels[row] for row in rows], dtype=torch.int64),
            torch.tensor([self.manifest.camid[row] for row in rows], dtype=torch.int64),
            torch.tensor(rows, dtype=torch.int64),
            [self.manifest.path[row] for row in rows],
            *(None if column is None else column[rows] for column in self._columns),
        )


class TrainLoader(_Loader):
    """Augmented training batches.

    Args:
        manifest: rows to train on.
        labels: class label of every row, 0 ... n-1.
        batches: a sampler such as `PKBatches` over the same rows.
        transform: such as `TrainTransform`, called as transform(image, rng, out=place in the batch), or a
            `ByModality` of two.
        seed: whole number from 0; with the epoch, the step and the place in the batch it fixes every
            augmentation.
        workers: processes that read ahead; 0 reads in this process. Changes the speed and nothing else.
        policy: what to do about bad images; "raise" by default. Under "skip" and "replace" the slot goes to
            another image of the same identity (and modality; and tracklet where sequences are drawn), drawn
            from the slot's own generator, so a batch keeps its size.
        cache_images: decode and resize every image once and keep rows x height x width x 3 bytes in memory.
        slots: the places of a batch of n images that this process reads, slots(n); None for all. An image is
            augmented as it is in the whole batch, only patches come from what this process has read.

    Raises:
        ValueError: for arguments out of range.
        BadImageError (while iterating): for a bad image under "raise", and for an identity without a readable
        image. RuntimeError (while iterating): for a worker that died or a transform that failed, naming the
        files.
    """

    def __init__(
        self,
        manifest: Manifest,
        labels: Sequence[int],
        batches: Batches,
        transform: EvalTransform | ByModality,
        seed: int,
        workers: int = 0,
        policy: BadImagePolicy | None = None,
        *,
        cache_images: bool = False,
        slots: Callable[[int], Sequence[int]] | None = None,
    ) -> None:
        self.labels = [int(label) for label in labels]
        if len(self.labels) != len(manifest):
            got = f"{len(self.labels)} labels"
            raise ValueError(f"TrainLoader: labels: got {got}, expected {len(manifest)}, one for each row")
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ValueError(f"TrainLoader: seed: got {seed!r}, expected a whole number from 0")
        self.batches, self.seed = batches, seed
        self._slots = range if slots is None else slots
        stand_ins = list(zip(self.labels, *self._alike(manifest, batches), strict=True))
        reader = Reader(manifest, transform, stand_ins=stand_ins, keep=False)
        super().__init__(manifest, reader, workers, policy, cache_images)

    @staticmethod
    def _alike(manifest: Manifest, batches: Batches) -> list[Sequence[Hashable]]:
        """What an image that takes another's place must share with it beside the identity."""
        columns = [manifest.modality]
        if isinstance(batches, TrackletBatches):
            columns.append(tracklet_numbers(manifest))
        return [column for column in columns if column is not None]

    def len_epoch(self, epoch: int) -> int:
        """Number of batches of this epoch."""
        return self.batches.len_epoch(epoch)

    def iterate(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The batches of one epoch from `start_step` on; those left out are never read.

        Raises:
            ValueError: if `start_step` is outside 0 ... len_epoch(epoch), or a batch names a row that is not
                there.
        """
        batches = self.batches.epoch(epoch)
        if not 0 <= start_step <= len(batches):
            raise ValueError(
                f"TrainLoader.iterate: start_step: got {start_step}, expected 0 to {len(batches)}"
            )
        outside = [row for batch in batches for row in batch if not 0 <= row < len(self.manifest)]
        if outside:
            most = len(self.manifest) - 1
            raise ValueError(f"TrainLoader.iterate: batches: got row {outside[0]}, expected 0 to {most}")
        tasks = []
        for step in range(start_step, len(batches)):
            slots = self._slots(len(batches[step]))
            seeds = [(self.seed, epoch, step, slot) for slot in slots]
            tasks.append(Task([batches[step][slot] for slot in slots], seeds))
        return self._run(tasks, self._finish)

    def _finish(self, task: Task, result: Result) -> Batch:
        for path, reason in result.bad:
            self.policy.record(path, reason)
        if len(result.rows) != len(task.rows):
            path, reason = result.bad[-1]
            raise BadImageError(
                path, f"{reason}; no image of its identity can be read, so the batch cannot be filled"
            )
        return self._batch(result, self.labels)


class EvalLoader(_Loader):
    """Every row once, in order, without chance; the last batch may be smaller.

    Args:
        manifest: rows to read. transform: such as `EvalTransform`. batch_size: images in a batch.
        workers, cache_images: as in `TrainLoader`.
        policy: "skip" leaves bad images out, so that `Batch.index` has gaps; "replace" gives zeros, the mean
            colour.
        labels: class label of every row; without it `Batch.pids` is None, since labels made from one part of
            a data set (its queries, say) must not be compared with those of another.
    """

    def __init__(
        self,
        manifest: Manifest,
        transform: EvalTransform,
        batch_size: int,
        workers: int = 0,
        policy: BadImagePolicy | None = None,
        *,
        labels: Sequence[int] | None = None,
        cache_images: bool = False,
    ) -> None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"EvalLoader: batch_size: got {batch_size!r}, expected a whole number from 1")
        if labels is not None and len(labels) != len(manifest):
            raise ValueError(
                f"EvalLoader: labels: got {len(labels)}, expected {len(manifest)}, one for each row"
            )
        keep = policy is not None and policy.mode == "replace"
        super().__init__(manifest, Reader(manifest, transform, None, keep), workers, policy, cache_images)
        self.batch_size = batch_size
        self.labels = None if labels is None else [int(label) for label in labels]

    def __len__(self) -> int:
        """Number of batches when no image is bad."""
        return -(-len(self.manifest) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        return self.part(0, 1)

    def part(self, number: int, parts: int) -> Iterator[Batch]:
        """One of `parts` equal stretches of the batches, which are the same ones for any number of parts."""
        count, batches = len(self.manifest), len(self)
        begin, end = (batches * edge // parts for edge in (number, number + 1))
        starts = range(begin * self.batch_size, min(end * self.batch_size, count), self.batch_size)
        tasks = [Task(list(range(start, min(start + self.batch_size, count))), None) for start in starts]
        # Not a loop, whose variable would keep each batch until the next one is there.
        yield from filter(_has_images, self._run(tasks, self._finish))

    def _finish(self, task: Task, result: Result) -> Batch:
        for path, reason in result.bad:
            self.policy.record(path, reason)
        return self._batch(result, self.labels)


def _forget_frames(error: BaseException | None) -> None:
    # Torch's frames refer to its iterator, and one of them to the error itself: a cycle that would outlive
    # `finally`.
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _has_images(batch: Batch) -> bool:
    return len(batch.paths) > 0


def _as_it_is(result: Result) -> Result:
    return result
