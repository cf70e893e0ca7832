# SPDX-License-Identifier: Apache-2.0
"""From JPEG files of 256 x 128 pixels to batches of tensors: our loader against torch's with torchreid's and
fast-reid's own transform pipelines, on the same files, with the same steps, in the same number of processes.

What is timed is the processor time of reading, transforming and batching all files, with and without workers; what is
done with a batch is not. Rivals' random numbers are their own, so what is compared before timing is the part without
chance, every batch of it (torchreid's to rounding; fast-reid's, which ends with values from 0 to 255 and leaves the
rest to the network, to the last bit), and for the training transforms the mean colour of all files. ``floor_seconds``
is Pillow's decoding of the same files alone, which both sides pay.
"""

from __future__ import annotations

import itertools
import operator
import random
import tempfile
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import pytest
import torch
from manifests import large_manifest
from memory import peak
from PIL import Image
from rivals.data import Pipeline, available
from shapes import FULL
from timing import processor_seconds
from torch import Tensor

from fastreid_ops.data.datasets import read_dataset
from fastreid_ops.data.images import read_image
from fastreid_ops.data.loader import EvalLoader, TrainLoader
from fastreid_ops.data.manifest import Manifest
from fastreid_ops.data.transforms import EvalTransform, TrainTransform

HEIGHT, WIDTH = 256, 128
BATCH = 32
FILES = 12 * BATCH if FULL else 2 * BATCH
# Starting processes takes as long as hundreds of images: workers read every file this often.
TURNS = 8 if FULL else 1
IMAGES = operator.attrgetter("images")
WITHOUT_CHANCE = ("resize", "resize, normalise")
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


@cache
def decoding() -> float:
    """Seconds for the pixels of all files, and nothing else, by Pillow."""
    start = processor_seconds()
    for name in files():
        Image.open(name).load()
    return processor_seconds() - start


class InOrder:
    """A sampler: rows 0, 1, 2, ... in batches."""

    def __init__(self, rows: int) -> None:
        self.batches = [list(range(start, start + BATCH)) for start in range(0, rows, BATCH)]

    def len_epoch(self, epoch: int) -> int:
        return len(self.batches)

    def epoch(self, epoch: int) -> list[list[int]]:
        return self.batches


def ours(pipeline: Pipeline, names: list[str], workers: int) -> Callable[[], Iterable[Tensor]]:
    rows = len(names)
    manifest = Manifest(Path("/"), names, [0] * rows, [0] * rows, ["train"] * rows)
    transform = TrainTransform(HEIGHT, WIDTH, **pipeline.options)
    epochs = itertools.count()
    if pipeline.step in WITHOUT_CHANCE:
        loader = EvalLoader(
            manifest, EvalTransform(HEIGHT, WIDTH, transform.mean, transform.std), BATCH, workers
        )
        return lambda: map(IMAGES, loader)
    loader = TrainLoader(manifest, [0] * rows, InOrder(rows), transform, 0, workers)
    return lambda: map(IMAGES, loader.iterate(next(epochs)))


def theirs(pipeline: Pipeline, names: list[str], workers: int) -> Callable[[], Iterable[Tensor]]:
    return lambda: iter(pipeline.loader(names, BATCH, workers))


def through(batches: Callable[[], Iterable[Tensor]]) -> Callable[[], int]:
    """Takes every batch and lets go of it before the next one is asked for."""

    def run() -> int:
        count = 0
        for batch in batches():
            count += len(batch)
            del batch
        return count

    return run


def compare(pipeline: Pipeline, mine: Iterable[Tensor], his: Iterable[Tensor]) -> None:
    """Every batch of a pipeline without chance, else the mean colour of all files."""
    colours = []
    for own, other in zip(mine, his, strict=True):
        assert own.shape == other.shape == (BATCH, 3, HEIGHT, WIDTH)
        assert own.dtype == other.dtype == torch.float32
        if pipeline.step == "resize":
            assert torch.equal(own, other)
        elif pipeline.step in WITHOUT_CHANCE:
            torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-5)
        colours.append(torch.stack([own.mean((0, 2, 3)), other.mean((0, 2, 3))]))
    own, other = torch.stack(colours).mean(0)
    # Black borders, erased rectangles and colours differ from draw to draw.
    unit = 57.0 if pipeline.rival == "fast-reid" else 1.0
    torch.testing.assert_close(own / unit, other / unit, rtol=0, atol=0.25)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("pipeline", PIPELINES, ids=lambda p: f"{p.rival}-{p.step}".replace(", ", "-"))
def test_pipeline(versus, benchmark, pipeline, workers):
    benchmark.group = f"data: {pipeline.step}" + (f", {workers} workers" if workers else "")
    torch.set_num_threads(1)
    random.seed(0)  # torchreid's and torchvision's draws
    torch.manual_seed(0)
    names = files() * (TURNS if workers else 1)
    mine, his = ours(pipeline, names, workers), theirs(pipeline, names, workers)

    def check(own: int, other: int) -> None:
        assert own == other == len(names)
        compare(pipeline, mine(), his())

    versus(
        through(mine),
        through(his),
        check,
        rival=pipeline.rival,
        rounds=3 if workers else 7,
        clock=processor_seconds,
        work=f"{len(names)} JPEG files of {HEIGHT} x {WIDTH}, {workers or 'no'} workers",
        target=1.5,
        floor="Pillow decodes the files",
        floor_seconds=decoding() * len(names) / FILES,
    )
    benchmark.extra_info["images per second and processor"] = len(names) / benchmark.extra_info["seconds"]


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
