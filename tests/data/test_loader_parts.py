# SPDX-License-Identifier: Apache-2.0
"""Loaders that read a part of each batch, or some of the batches: together they give what one loader gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastreid_ops.data.loader import EvalLoader, TrainLoader
from fastreid_ops.data.manifest import Manifest
from fastreid_ops.data.samplers import PKBatches
from fastreid_ops.data.transforms import EvalTransform, TrainTransform


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    rng = np.random.default_rng(0)
    names = [f"{row:02d}.png" for row in range(14)]
    for name in names:
        Image.fromarray(rng.integers(0, 256, (20, 10, 3), dtype=np.uint8)).save(tmp_path / name)
    pids = [row // 2 for row in range(14)]
    return Manifest(root=tmp_path, path=names, pid=pids, camid=[0] * 14, split=["train"] * 14)


def test_parts_of_a_batch_are_augmented_as_in_the_whole(manifest: Manifest):
    transform = TrainTransform(16, 8, crop_padding=2, erasing=0.5)
    batches = PKBatches(manifest.pid, 4, 2, seed=3)

    def images(slots=None):
        loader = TrainLoader(manifest, manifest.pid, batches, transform, 3, slots=slots)
        return [(batch.images, batch.pids) for epoch in range(2) for batch in loader.iterate(epoch)]

    halves = images(lambda size: range(size // 2)), images(lambda size: range(size // 2, size))
    assert len(images()) == len(halves[0]) > 1
    for whole, first, second in zip(images(), *halves, strict=True):
        for each, one, other in zip(whole, first, second, strict=True):
            assert torch.equal(each, torch.cat([one, other]))


@pytest.mark.parametrize("parts", [1, 2, 3, 6])
def test_parts_of_an_evaluation_have_the_same_batches(manifest: Manifest, parts: int):
    loader = EvalLoader(manifest, EvalTransform(16, 8), 3)
    found = [batch.index.tolist() for number in range(parts) for batch in loader.part(number, parts)]
    assert found == [batch.index.tolist() for batch in loader]
    assert [len(rows) for rows in found] == [3, 3, 3, 3, 2]
