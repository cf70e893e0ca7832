# SPDX-License-Identifier: Apache-2.0
"""What batches say about modality, clothes and tracklets; patches and sequences follow from the batch alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastreid_ops.data import columns
from fastreid_ops.data import reader as reader_module
from fastreid_ops.data.by_modality import ByModality
from fastreid_ops.data.images import BadImageError, BadImagePolicy, read_image
from fastreid_ops.data.loader import EvalLoader, TrainLoader
from fastreid_ops.data.manifest import Manifest
from fastreid_ops.data.samplers import PairedBatches, TrackletBatches
from fastreid_ops.data.transforms import EvalTransform, TrainTransform

ROWS = [(pid, side, frame) for pid in range(4) for side in (0, 1) for frame in range(3)]


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    rng = np.random.default_rng(0)
    names = [f"set{pid % 2}/{pid}_{side}_{frame}.png" for pid, side, frame in ROWS]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 10, 3), dtype=np.uint8)).save(tmp_path / name)
    return Manifest(
        root=tmp_path,
        path=names,
        pid=[f"p{pid}" for pid, _, _ in ROWS],
        camid=[side for _, side, _ in ROWS],
        split=["train"] * len(ROWS),
        modality=[("visible", "infrared")[side] for _, side, _ in ROWS],
        clothes=[frame % 2 for _, _, frame in ROWS],
        tracklet=[f"{pid}-{side}" for pid, side, _ in ROWS],
        frame=[frame for _, _, frame in ROWS],
    )


LABELS = [pid for pid, _, _ in ROWS]
SIDES = [side for _, side, _ in ROWS]


def paired(manifest: Manifest, transform, **options) -> TrainLoader:
    return TrainLoader(manifest, LABELS, PairedBatches(LABELS, SIDES, 2, 2, 5), transform, 5, **options)


def test_columns_are_numbers(manifest: Manifest):
    assert columns.modality_codes(manifest) == SIDES
    clothes = columns.clothes_labels(manifest)
    assert clothes == [2 * pid + frame % 2 for pid, _, frame in ROWS]
    assert columns.tracklet_numbers(manifest) == [2 * pid + side for pid, side, _ in ROWS]
    anew = dataclasses.replace(manifest, tracklet=[0] * len(ROWS))
    assert columns.tracklet_numbers(anew) == columns.tracklet_numbers(manifest)
    matrix = columns.clothes_of_ids(LABELS, clothes)
    assert matrix.shape == (4, 8)
    assert [np.flatnonzero(row).tolist() for row in matrix] == [[2 * pid, 2 * pid + 1] for pid in range(4)]
    assert columns.domains(manifest, "camera") == SIDES
    assert columns.domains(manifest, "folder") == [f"set{pid % 2}" for pid in LABELS]
    with pytest.raises(ValueError, match="kind: got 'city', expected one of camera, folder, dataset"):
        columns.domains(manifest, "city")
    bare = Manifest(Path(), ["a.jpg"], [1], [0], ["train"], modality=["thermal"])
    with pytest.raises(ValueError, match=r"path: got 'a\.jpg' without a folder"):
        columns.domains(bare, "folder")
    with pytest.raises(ValueError, match="modality: got 'thermal', expected visible or infrared"):
        columns.modality_codes(bare)
    assert columns.modality_codes(Manifest(Path(), ["a.jpg"], [1], [0], ["train"])) is None


def test_batches_carry_the_columns(manifest: Manifest):
    clothes, tracklets = columns.clothes_labels(manifest), columns.tracklet_numbers(manifest)
    train, evaluation = paired(manifest, TrainTransform(16, 8)), EvalLoader(manifest, EvalTransform(16, 8), 5)
    for batch in [*train.iterate(0), *evaluation]:
        rows = batch.index.tolist()
        for values, expected in (
            (batch.modality, SIDES),
            (batch.clothes, clothes),
            (batch.tracklet, tracklets),
        ):
            assert values.dtype == torch.int64
            assert values.tolist() == [expected[row] for row in rows]
    bare = Manifest(manifest.root, manifest.path, manifest.pid, manifest.camid, manifest.split)
    batch = next(iter(EvalLoader(bare, EvalTransform(16, 8), 5)))
    assert batch.modality is batch.clothes is batch.tracklet is None


def test_each_modality_gets_its_transform(manifest: Manifest):
    dark, light = EvalTransform(16, 8), EvalTransform(16, 8, mean=(0, 0, 0), std=(1, 1, 1))
    batch = next(paired(manifest, ByModality(dark, light)).iterate(0))
    for image, row in zip(batch.images, batch.index.tolist(), strict=True):
        own = (dark, light)[SIDES[row]]
        assert np.array_equal(image.numpy(), own(read_image(manifest.file(row))))
    bare = Manifest(manifest.root, manifest.path, manifest.pid, manifest.camid, manifest.split)
    with pytest.raises(ValueError, match="got one for each modality, expected a manifest with modalities"):
        EvalLoader(bare, ByModality(dark, light), 4)


def test_patches_follow_from_the_batch(manifest: Manifest, monkeypatch: pytest.MonkeyPatch):
    transform = TrainTransform(16, 8, crop_padding=2, patch=0.8)
    expected = [batch.images for batch in paired(manifest, transform).iterate(2)]
    for options in ({"workers": 2}, {"cache_images": True}):
        got = [batch.images for batch in paired(manifest, transform, **options).iterate(2)]
        assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))
    (only,) = paired(manifest, transform).iterate(2, len(expected) - 1)
    assert torch.equal(only.images, expected[-1])
    reads = []
    monkeypatch.setattr(reader_module, "read_image", lambda path: reads.append(path) or read_image(path))
    batch = next(paired(manifest, transform).iterate(2))
    assert len(reads) == len(set(batch.index.tolist()))


def test_sequences_are_the_frames_of_one_tracklet(manifest: Manifest):
    sampler = TrackletBatches(
        LABELS,
        columns.tracklet_numbers(manifest),
        4,
        3,
        1,
        frames=manifest.frame,
        tracklets_per_id=2,
        frame_choice="evenly",
    )
    for batch in TrainLoader(manifest, LABELS, sampler, TrainTransform(16, 8), 1).iterate(0):
        assert batch.sequences(3).shape == (4, 3, 3, 16, 8)
        assert torch.equal(batch.sequences(3)[1, 2], batch.images[5])
        names = [manifest.tracklet[row] for row in batch.index.tolist()]
        assert [names[place] for place in range(0, 12, 3) for _ in range(3)] == names
        assert [manifest.frame[row] for row in batch.index.tolist()] == [0, 1, 2] * 4
    with pytest.raises(ValueError, match="length: got 5, expected a divisor of the 12 images"):
        batch.sequences(5)


def test_a_stand_in_shares_modality_and_tracklet(manifest: Manifest):
    broken = [ROWS.index((0, 1, 0)), ROWS.index((2, 0, 1))]
    for row in broken:
        manifest.file(row).write_bytes(b"")
    loader = paired(manifest, TrainTransform(16, 8, patch=1.0), policy=BadImagePolicy("replace"))
    batches = [batch for epoch in range(8) for batch in loader.iterate(epoch)]
    assert all(batch.modality.tolist() == [0] * 4 + [1] * 4 for batch in batches)
    assert not {row for batch in batches for row in batch.index.tolist()} & set(broken)
    assert len(loader.policy.files) == 2
    sampler = TrackletBatches(LABELS, columns.tracklet_numbers(manifest), 8, 3, 1)
    loader = TrainLoader(
        manifest, LABELS, sampler, TrainTransform(16, 8), 1, policy=BadImagePolicy("replace")
    )
    for batch in loader.iterate(0):
        assert all(len(set(own)) == 1 for own in batch.tracklet.reshape(8, 3).tolist())
    for row in range(3, 6):
        manifest.file(row).write_bytes(b"")
    loader = paired(manifest, TrainTransform(16, 8), policy=BadImagePolicy("replace"))
    batches = (batch for epoch in range(8) for batch in loader.iterate(epoch))
    with pytest.raises(BadImageError, match="no image of its identity can be read"):
        list(batches)
