# SPDX-License-Identifier: Apache-2.0
"""From JPEG files of 256 x 128 pixels to normalised tensors, one process, as a loader's worker does it: ours against
torchreid's and fast-reid's own transform pipelines on the same files, with the same steps.

The rivals' random numbers are their own, so what is compared before timing is the part without chance: the test
transform to rounding (fast-reid's is in levels from 0 to 255 and leaves the rest to the network), and for the training
transforms the mean colour of all files.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from manifests import large_manifest
from memory import peak
from PIL import Image
from rivals.data import Pipeline, available
from shapes import FULL
from torch import Tensor

from fastreid_ops.data.datasets import read_dataset
from fastreid_ops.data.images import read_image
from fastreid_ops.data.manifest import Manifest
from fastreid_ops.data.transforms import TrainTransform

HEIGHT, WIDTH = 256, 128
BATCH = 32
FILES = 12 * BATCH if FULL else 2 * BATCH
PIPELINES = available(HEIGHT, WIDTH)


@cache
def files() -> list[str]:
    """Real pedestrians of the package, enlarged to the size of training and stored as JPEG."""
    folder = Path(tempfile.mkdtemp(prefix="bench_data_"))
    sample = read_dataset("sample")
    names = []
    for row in range(FILES):
        name = folder / f"{row}.jpg"
        read_image(sample.file(row)).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(name, quality=92)
        names.append(str(name))
    return names


def batches(one: Callable[[str], Tensor]) -> Callable[[], tuple[Tensor, Tensor]]:
    """All files in batches, each let go before the next one is made; gives the last, and the mean colour of all."""

    def run() -> tuple[Tensor, Tensor]:
        names, colours = files(), []
        for start in range(0, len(names), BATCH):
            batch = torch.stack([one(name) for name in names[start : start + BATCH]])
            colours.append(batch.mean((0, 2, 3)))
        return batch, torch.stack(colours).mean(0)

    return run


def ours(pipeline: Pipeline) -> Callable[[], tuple[Tensor, Tensor]]:
    transform = TrainTransform(HEIGHT, WIDTH, **pipeline.options)
    generator = np.random.default_rng(0)
    return batches(lambda name: torch.from_numpy(transform(read_image(name), generator)))


def theirs(pipeline: Pipeline) -> Callable[[], tuple[Tensor, Tensor]]:
    return batches(pipeline.run)


def close(pipeline: Pipeline) -> Callable[[tuple[Tensor, Tensor], tuple[Tensor, Tensor]], None]:
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])

    def check(mine: tuple[Tensor, Tensor], his: tuple[Tensor, Tensor]) -> None:
        batch, colour = his
        if pipeline.rival == "fast-reid":
            batch = (batch / 255 - mean[:, None, None]) / std[:, None, None]
            colour = (colour / 255 - mean) / std
        assert mine[0].shape == batch.shape == (BATCH, 3, HEIGHT, WIDTH)
        if pipeline.step == "resize, normalise":
            torch.testing.assert_close(mine[0], batch, rtol=1e-5, atol=1e-5)
        else:  # black borders, erased rectangles and colours differ from draw to draw
            torch.testing.assert_close(mine[1], colour, rtol=0, atol=0.25)

    return check


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("pipeline", PIPELINES, ids=lambda p: f"{p.rival}-{p.step}".replace(", ", "-"))
def test_pipeline(versus, benchmark, pipeline):
    benchmark.group = f"data: {pipeline.step}"
    torch.set_num_threads(1)
    random.seed(0)  # torchreid's and torchvision's draws
    torch.manual_seed(0)
    versus(
        ours(pipeline),
        theirs(pipeline),
        close(pipeline),
        rival=pipeline.rival,
        rounds=5,
        work=f"{len(files())} JPEG files of {HEIGHT} x {WIDTH}",
        target=1.5,
    )


def test_manifest_of_naic(checked, benchmark):
    """880,000 rows, as many as NAIC has images with its copies: written, then read and checked."""
    benchmark.group = "data: manifest"
    rows = 880_000 if FULL else 20_000
    file = large_manifest(rows)

    def check(manifest: Manifest) -> None:
        assert len(manifest) == rows
        assert manifest.problems() == []
        assert manifest.pid[-1] == (rows - 1) // 9

    checked(Manifest.read_csv, check, file, rounds=1)
    benchmark.extra_info["rows"] = rows
    if FULL:
        benchmark.extra_info["peak"] = peak("manifest", rows)
