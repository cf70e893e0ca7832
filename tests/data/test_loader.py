# SPDX-License-Identifier: Apache-2.0
"""Loaders: the same bytes for any number of workers and any starting step; bad files and dead workers are
named."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastreid_ops.data import loader as loader_module
from fastreid_ops.data import reader as reader_module
from fastreid_ops.data import rooms as rooms_module
from fastreid_ops.data.images import BadImageError, BadImagePolicy, read_image
from fastreid_ops.data.loader import EvalLoader, TrainLoader
from fastreid_ops.data.manifest import Manifest
from fastreid_ops.data.rooms import Rooms
from fastreid_ops.data.samplers import PKBatches, ShuffledBatches
from fastreid_ops.data.transforms import EvalTransform, TrainTransform

IDS, EACH = 6, 5
TRANSFORM = TrainTransform(32, 16, crop_padding=2, brightness=0.2, contrast=0.15)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    rng = np.random.default_rng(0)
    names = [f"{pid:02d}_{image}.png" for pid in range(IDS) for image in range(EACH)]
    for name in names:
        Image.fromarray(rng.integers(0, 256, (40, 20, 3), dtype=np.uint8)).save(tmp_path / name)
    return Manifest(
        root=tmp_path,
        path=names,
        pid=[f"person {name[:2]}" for name in names],
        camid=[row % 3 for row in range(len(names))],
        split=["train"] * len(names),
    )


def train(manifest: Manifest, **options) -> TrainLoader:
    labels = manifest.labels(manifest.label_map())
    options = {"transform": TRANSFORM, "seed": 11, **options}
    return TrainLoader(manifest, labels, PKBatches(labels, 3, 2, seed=11), **options)


def digest(batches) -> list[str]:
    parts = []
    for batch in batches:
        labels = [tensor.numpy().tobytes() for tensor in batch[:4] if tensor is not None]
        parts.append(hashlib.sha256(b"".join([*labels, *map(str.encode, batch.paths)])).hexdigest())
    return parts


def test_a_batch_holds_what_it_says(manifest: Manifest):
    loader = train(manifest)
    batches = list(loader.iterate(0))
    assert len(batches) == loader.len_epoch(0) > 1
    for step, (batch, rows) in enumerate(zip(batches, loader.batches.epoch(0), strict=True)):
        assert batch.images.shape == (6, 3, 32, 16)
        assert batch.images.dtype == torch.float32
        assert batch.images.is_contiguous()
        assert batch.index.tolist() == rows
        assert batch.paths == [manifest.path[row] for row in rows]
        assert batch.pids.tolist() == [row // EACH for row in rows]
        assert batch.camids.tolist() == [row % 3 for row in rows]
        assert batch.pids.dtype == batch.camids.dtype == batch.index.dtype == torch.int64
        for slot, row in enumerate(rows):
            rng = np.random.default_rng(np.random.SeedSequence([11, 0, step, slot]))
            assert np.array_equal(batch.images[slot].numpy(), TRANSFORM(read_image(manifest.file(row)), rng))


def test_workers_and_cache_change_no_byte(manifest: Manifest):
    expected = digest(train(manifest).iterate(3))
    assert digest(train(manifest).iterate(4)) != expected
    for workers in (1, 2):
        assert digest(train(manifest, workers=workers).iterate(3)) == expected
    for workers in (0, 2):
        assert digest(train(manifest, workers=workers, cache_images=True).iterate(3)) == expected


def test_a_resumed_epoch_continues_with_the_same_bytes(manifest: Manifest):
    expected = digest(train(manifest).iterate(1))
    for start in range(len(expected) + 1):
        assert digest(train(manifest, workers=start % 2).iterate(1, start)) == expected[start:]
    for start in (-1, len(expected) + 1):
        with pytest.raises(ValueError, match=f"start_step: got {start}, expected 0 to {len(expected)}"):
            train(manifest).iterate(1, start)


def test_files_before_the_starting_step_are_not_read(manifest: Manifest):
    loader = train(manifest)
    for batch in loader.batches.epoch(1)[:1]:
        for row in set(batch) - {row for later in loader.batches.epoch(1)[1:] for row in later}:
            manifest.file(row).write_bytes(b"")
    assert len(list(loader.iterate(1, 1))) == loader.len_epoch(1) - 1


def test_global_random_states_are_neither_used_nor_changed(manifest: Manifest):
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    for workers in (0, 1):
        list(train(manifest, workers=workers).iterate(0))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])


def test_the_cache_decodes_each_image_once(manifest: Manifest, monkeypatch: pytest.MonkeyPatch):
    reads = []
    monkeypatch.setattr(reader_module, "read_image", lambda path: reads.append(path) or read_image(path))
    loader = train(manifest, cache_images=True)
    for epoch in range(3):
        list(loader.iterate(epoch))
    assert sorted(reads) == sorted(manifest.file(row) for row in range(len(manifest)))


def run(loader: TrainLoader, epochs: int) -> None:
    for epoch in range(epochs):
        list(loader.iterate(epoch))


def broken(manifest: Manifest, rows) -> set[str]:
    for row in rows:
        manifest.file(row).write_bytes(manifest.file(row).read_bytes()[:200])
    return {str(manifest.file(row)) for row in rows}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("cached", [False, True])
def test_a_bad_image_stops_training_by_default_and_is_named(manifest: Manifest, workers: int, cached: bool):
    name = next(iter(broken(manifest, [7])))
    loader = train(manifest, workers=workers, cache_images=cached)
    with pytest.raises(BadImageError) as caught:
        run(loader, epochs=20)
    assert caught.value.path == name


@pytest.mark.parametrize("mode", ["skip", "replace"])
def test_bad_images_are_replaced_by_the_same_identity_and_listed(manifest: Manifest, mode: str):
    bad = broken(manifest, [7, 8, 20])
    results = []
    for workers in (0, 2):
        policy = BadImagePolicy(mode)
        loader = train(manifest, workers=workers, policy=policy)
        batches = [batch for epoch in range(6) for batch in loader.iterate(epoch)]
        assert set(policy.files) == bad
        assert policy.uses >= 3
        for batch in batches:
            assert batch.images.shape == (6, 3, 32, 16)
            assert not {7, 8, 20} & set(batch.index.tolist())
            assert batch.pids.tolist() == [row // EACH for row in batch.index.tolist()]
            assert len(set(batch.pids.tolist())) == 3
            assert batch.images.flatten(1).std(dim=1).min() > 0.1
        results.append((digest(batches), policy.files, policy.uses))
    assert results[0] == results[1]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_identity_without_a_readable_image_stops_training(manifest: Manifest, workers: int):
    broken(manifest, range(5, 10))
    loader = train(manifest, workers=workers, policy=BadImagePolicy("skip"))
    with pytest.raises(BadImageError, match="no image of its identity can be read"):
        run(loader, epochs=20)


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_reads_every_row_once_in_order(manifest: Manifest, workers: int):
    transform = EvalTransform(32, 16)
    loader = EvalLoader(manifest, transform, 7, workers)
    batches = list(loader)
    assert len(loader) == len(batches) == 5
    assert torch.cat([batch.index for batch in batches]).tolist() == list(range(30))
    assert batches[0].pids is None
    expected = np.stack([transform(read_image(manifest.file(row))) for row in range(30)])
    assert np.array_equal(torch.cat([batch.images for batch in batches]).numpy(), expected)
    assert digest(loader) == digest(batches)
    labelled = EvalLoader(manifest, transform, 7, workers, labels=list(range(30)))
    assert torch.cat([batch.pids for batch in labelled]).tolist() == list(range(30))


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_skips_or_replaces_bad_images(manifest: Manifest, workers: int):
    bad = broken(manifest, [0, 1, 2, 3, 13])
    transform = EvalTransform(32, 16)
    with pytest.raises(BadImageError, match=r"00_0\.png: cannot be decoded"):
        list(EvalLoader(manifest, transform, 4, workers))
    policy = BadImagePolicy("skip")
    batches = list(EvalLoader(manifest, transform, 4, workers, policy))
    # The first batch is gone altogether.
    assert [len(batch.index) for batch in batches] == [4, 4, 3, 4, 4, 4, 2]
    assert set(range(30)) - {row for batch in batches for row in batch.index.tolist()} == {0, 1, 2, 3, 13}
    assert set(policy.files) == bad
    policy = BadImagePolicy("replace")
    images = torch.cat([batch.images for batch in EvalLoader(manifest, transform, 4, workers, policy)])
    assert images.shape[0] == 30
    assert set(images.flatten(1).abs().amax(dim=1).eq(0).nonzero().flatten().tolist()) == {0, 1, 2, 3, 13}
    assert set(policy.files) == bad


@dataclass(frozen=True)
class Fails(TrainTransform):
    """Raises or kills its process at the image with this value in the corner."""

    corner: tuple[int, ...] = ()
    kill: bool = False

    def __call__(self, image, rng=None, *, out=None):
        if tuple(self.resize(image)[0, 0]) == self.corner:
            if self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise IndexError("a mistake in a transform")
        return super().__call__(image, rng, out=out)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("workers", "kill"), [(0, False), (2, False), (2, True)])
def test_a_failing_transform_or_worker_names_the_file(manifest: Manifest, workers: int, kill: bool):
    transform = TrainTransform(40, 20)
    corner = tuple(transform.resize(read_image(manifest.file(7)))[0, 0])
    loader = train(manifest, workers=workers, transform=Fails(40, 20, corner=corner, kill=kill))
    with pytest.raises(RuntimeError, match=r"TrainLoader: failed while loading .*png") as caught:
        run(loader, epochs=20)
    message = str(caught.value)
    if kill:
        assert "killed by signal" in message or "exited unexpectedly" in message
    else:
        assert "01_2.png: IndexError: a mistake" in message


@pytest.mark.timeout(60)
def test_a_stuck_worker_is_given_up_with_the_names(manifest: Manifest, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loader_module, "TIMEOUT", 1.0)
    monkeypatch.setattr(reader_module, "read_image", lambda path: signal.pause())
    with pytest.raises(
        RuntimeError, match=r"EvalLoader: failed while loading .*00_0.png, .* and 3 more.*timed out"
    ):
        list(EvalLoader(manifest, EvalTransform(32, 16), 7, workers=1))


def children() -> set[str]:
    return set(Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split())


@pytest.mark.timeout(60)
def test_an_abandoned_epoch_leaves_no_worker(manifest: Manifest):
    before = children()
    batches = train(manifest, workers=2).iterate(0)
    next(batches)
    workers = children() - before
    assert len(workers) == 2
    start = time.monotonic()
    batches.close()
    assert not children() & workers
    assert time.monotonic() - start < 4, "the workers were not told to stop"


def test_wrong_arguments_are_refused(manifest: Manifest):
    labels = [0] * len(manifest)
    with pytest.raises(ValueError, match="TrainLoader: labels: got 2 labels, expected 30"):
        TrainLoader(manifest, [0, 1], ShuffledBatches(30, 5, 0), TRANSFORM, 0)
    with pytest.raises(ValueError, match="TrainLoader: seed: got -1"):
        TrainLoader(manifest, labels, ShuffledBatches(30, 5, 0), TRANSFORM, -1)
    with pytest.raises(ValueError, match="TrainLoader: workers: got -1"):
        TrainLoader(manifest, labels, ShuffledBatches(30, 5, 0), TRANSFORM, 0, -1)
    with pytest.raises(ValueError, match=r"batches: got row 3., expected 0 to 29"):
        TrainLoader(manifest, labels, ShuffledBatches(40, 5, 0), TRANSFORM, 0).iterate(0)
    with pytest.raises(ValueError, match="EvalLoader: batch_size: got 0"):
        EvalLoader(manifest, EvalTransform(32, 16), 0)
    with pytest.raises(ValueError, match="EvalLoader: labels: got 1, expected 30"):
        EvalLoader(manifest, EvalTransform(32, 16), 4, labels=[0])
    with pytest.raises(ValueError, match="EvalLoader: manifest: got no rows"):
        EvalLoader(manifest.take([]), EvalTransform(32, 16), 4)


def addresses(loader: EvalLoader, kept: list) -> set[int]:
    return {batch.images.data_ptr() for batch in loader if kept.append(batch.images[-1:]) is None}


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_of_workers_share_a_few_rooms(manifest: Manifest, workers: int):
    loader = EvalLoader(manifest, EvalTransform(32, 16), 2, workers=workers)
    assert len(loader) == 15
    assert len(addresses(loader, deque(maxlen=1))) <= 2 * workers + 2


def test_a_room_is_not_used_again_while_any_part_of_a_batch_is_held(manifest: Manifest):
    expected = torch.cat([batch.images for batch in EvalLoader(manifest, EvalTransform(32, 16), 2)])
    kept = []
    assert len(addresses(EvalLoader(manifest, EvalTransform(32, 16), 2, workers=2), kept)) == 15
    assert torch.equal(torch.cat(kept), expected[1::2])
    every_third = []
    for step, batch in enumerate(EvalLoader(manifest, EvalTransform(32, 16), 2, workers=1)):
        if step % 3 == 0:
            every_third.append(batch.images.numpy()[0, ::2])
    assert np.array_equal(np.stack(every_third), expected[::6, ::2].numpy())


def test_rooms_come_back_with_the_last_view():
    rooms = Rooms(2, (3, 4))
    first, second = rooms.take(), rooms.take()
    assert {first, second} == {0, 1}
    assert rooms.take() is None
    rooms.tensors[first].fill_(7)
    batch = rooms.hand_out(first, 2)
    assert batch.tolist() == [[7.0] * 4] * 2
    assert batch.data_ptr() == rooms.tensors[first].data_ptr()
    view = batch[1].numpy()[1:]
    del batch
    assert rooms.take() is None
    del view
    assert rooms.take() == first


def test_too_little_shared_memory_is_said_in_words(manifest: Manifest, monkeypatch):
    def full(size):
        raise RuntimeError(
            "unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)"
        )

    monkeypatch.setattr(rooms_module, "shared", full)
    loader = EvalLoader(manifest, EvalTransform(32, 16), 4, workers=1)
    with pytest.raises(
        RuntimeError,
        match=r"No space left.*shared memory \(/dev/shm\) of 0 MiB for 4 batches",
    ):
        next(iter(loader))


class OfItsOwn(EvalTransform):
    """Gives an array of its own instead of writing where it is told to."""

    def __call__(self, image, rng=None, *, out=None):
        return super().__call__(image, rng)


def test_a_transform_may_return_an_array_of_its_own(manifest: Manifest):
    usual = digest(EvalLoader(manifest, EvalTransform(32, 16), 7))
    assert digest(EvalLoader(manifest, OfItsOwn(32, 16), 7)) == usual
