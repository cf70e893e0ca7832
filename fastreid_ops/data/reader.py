# SPDX-License-Identifier: Apache-2.0
"""One batch of images from its rows, in whichever process: the part of a loader that its workers run."""

from __future__ import annotations

from collections.abc import Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, get_worker_info

from fastreid_ops.data.by_modality import ByModality
from fastreid_ops.data.columns import modality_codes
from fastreid_ops.data.images import DECODE_ERRORS, BadImageError, read_image
from fastreid_ops.data.manifest import Manifest
from fastreid_ops.data.rooms import shared
from fastreid_ops.data.transforms import EvalTransform


class Task(NamedTuple):
    """A batch to make: rows of the manifest; the seeds of their augmentations, None without chance; which of the rooms
    to write it into, None for a new one."""

    rows: list[int]
    seeds: list[tuple[int, ...]] | None
    room: int | None = None


class Result(NamedTuple):
    """A batch made: its images, None where they lie in the room; their rows; bad files with reasons."""

    images: torch.Tensor | None
    rows: list[int]
    bad: list[tuple[str, str]]
    room: int | None


class Reader(Dataset):
    """Turns a task into images, in whichever process it runs."""

    def __init__(
        self,
        manifest: Manifest,
        transform: EvalTransform | ByModality,
        stand_ins: list[Hashable] | None,
        keep: bool,
    ) -> None:
        self.files = [manifest.file(row) for row in range(len(manifest))]
        self.transform = transform
        self.modality = modality_codes(manifest)
        if isinstance(transform, ByModality) and self.modality is None:
            raise ValueError(
                "loader: transform: got one for each modality, expected a manifest with modalities"
            )
        self.same: dict[Hashable, list[int]] = {}
        self.stand_ins = stand_ins
        self.keep_size = keep
        self.cache: dict[int, np.ndarray | BadImageError] | None = None
        self.rooms: list[torch.Tensor] = []
        for row, label in enumerate(stand_ins or ()):
            self.same.setdefault(label, []).append(row)

    def fill_cache(self, threads: int) -> None:
        """Decode and resize every image once: rows x height x width x 3 bytes."""
        with ThreadPoolExecutor(max(1, threads)) as pool:
            self.cache = dict(enumerate(pool.map(self._load, range(len(self.files)))))

    def _load(self, row: int) -> np.ndarray | BadImageError:
        try:
            return np.ascontiguousarray(self.transform.resize(read_image(self.files[row])))
        except BadImageError as error:
            return error

    def _picture(self, row: int) -> Image.Image | np.ndarray | BadImageError:
        if self.cache is not None:
            return self.cache[row]
        try:
            return read_image(self.files[row])
        except BadImageError as error:
            return error

    def _transform(
        self,
        row: int,
        picture: Image.Image | np.ndarray,
        rng: np.random.Generator | None,
        pool: list[np.ndarray],
        out: np.ndarray,
    ) -> None:
        try:
            transform = self._of(row)
            more = (pool,) if self._needs_pool(row) else ()
            written = transform(picture, rng, *more, out=out)
        except DECODE_ERRORS as error:
            name = f"{type(error).__name__}: {error}"
            raise RuntimeError(f"loader: transform: failed on {self.files[row]}: {name}") from error
        if written is not out:
            out[...] = written

    def _of(self, row: int) -> EvalTransform:
        if isinstance(self.transform, ByModality):
            return self.transform.of(self.modality[row])
        return self.transform

    def _needs_pool(self, row: int) -> bool:
        return getattr(self._of(row), "needs_pool", False)

    def _read(self, task: Task) -> dict[int, np.ndarray | BadImageError]:
        """All images of a batch that patches are cut in, each read once; nothing for any other batch."""
        if not any(self._needs_pool(row) for row in task.rows):
            return {}
        return {
            row: self._load(row) if self.cache is None else self.cache[row]
            for row in dict.fromkeys(task.rows)
        }

    def __getitem__(self, task: Task) -> Result:
        images = self._place_for(task)
        places, rows, bad = images.numpy(), [], []
        # Patches come from the batch itself: what is pasted follows from the batch, whoever reads it.
        held = self._read(task)
        pool = [pixels for pixels in held.values() if not isinstance(pixels, BadImageError)]
        for slot, row in enumerate(task.rows):
            rng = None
            if task.seeds is not None:
                rng = np.random.default_rng(np.random.SeedSequence(task.seeds[slot]))
            picture = held[row] if held else self._picture(row)
            if isinstance(picture, BadImageError):
                bad.append((picture.path, picture.reason))
                if rng is not None and self.stand_ins is not None:
                    row, picture = self._stand_in(row, rng, bad)
            if not isinstance(picture, BadImageError):
                self._transform(row, picture, rng, pool, places[len(rows)])
                rows.append(row)
            elif self.keep_size:
                places[len(rows)] = 0
                rows.append(row)
        if task.room is not None:
            return Result(None, rows, bad, task.room)
        return Result(images[: len(rows)], rows, bad, None)

    def size(self, rows: int) -> tuple[int, int, int, int]:
        return rows, 3, self.transform.height, self.transform.width

    def _place_for(self, task: Task) -> torch.Tensor:
        """A batch to write into; in a worker, memory that the calling process sees without a copy."""
        if task.room is not None:
            return self.rooms[task.room][: len(task.rows)]
        size = self.size(len(task.rows))
        return torch.empty(size) if get_worker_info() is None else shared(size)

    def _stand_in(
        self, row: int, rng: np.random.Generator, bad: list[tuple[str, str]]
    ) -> tuple[int, Image.Image | np.ndarray | BadImageError]:
        others = [other for other in self.same[self.stand_ins[row]] if other != row]
        for place in rng.permutation(len(others)).tolist():
            picture = self._picture(others[place])
            if not isinstance(picture, BadImageError):
                return others[place], picture
            bad.append((picture.path, picture.reason))
        return row, BadImageError(self.files[row], "bad, and no other image of its identity can be read")
