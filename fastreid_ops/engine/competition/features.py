# SPDX-License-Identifier: Apache-2.0
"""The test pictures of a plan, and their features by each model."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor, nn

from fastreid_ops.config import ConfigError
from fastreid_ops.config.plan import Plan
from fastreid_ops.data.images import BadImagePolicy
from fastreid_ops.data.loader import EvalLoader
from fastreid_ops.data.manifest import Manifest
from fastreid_ops.data.transforms import EvalTransform
from fastreid_ops.engine.assess import unique_files
from fastreid_ops.engine.competition.arrays import array_file
from fastreid_ops.engine.export import trained_model
from fastreid_ops.engine.extract import extract

HALVES = ("green", "normal")
WHOLE = "all"


class TestPictures:
    """Queries and gallery of a data set, and the halves they are ranked in.

    `files` has each picture once; `halves` by name the rows of `files` that are queries and gallery of that half.
    """

    __test__ = False  # no test class, whatever its name

    def __init__(self, manifest: Manifest) -> None:
        query, gallery = manifest.select("query"), manifest.select("gallery")
        if not len(query) or not len(gallery):
            raise ConfigError(
                f"data: got {len(query)} queries and {len(gallery)} gallery pictures, expected some of both"
            )
        self.files = unique_files(query, gallery)
        place = {path: row for row, path in enumerate(self.files.path)}
        self.halves: dict[str, tuple[list[int], list[int]]] = {}
        for half in self._names(query, gallery):
            sides = [[place[path] for path in self._of(side, half)] for side in (query, gallery)]
            self.halves[half] = (sides[0], sides[1])
            self._check(half)
        queries = [PurePosixPath(name).name for rows, _ in self.halves.values() for name in self.names(rows)]
        twice = len(queries) - len(set(queries))
        if twice:
            raise ConfigError(
                f"data: queries: got {twice} file names that stand in both halves, expected each in one: the ranking "
                "file has one list for a name"
            )
        content = [self.files.path, self.halves]
        self.digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @staticmethod
    def _names(query: Manifest, gallery: Manifest) -> list[str]:
        known = {*(query.modality or ()), *(gallery.modality or ())}
        return sorted(known) if known and known <= set(HALVES) else [WHOLE]

    @staticmethod
    def _of(side: Manifest, half: str) -> list[str]:
        if half == WHOLE:
            return side.path
        return [path for path, own in zip(side.path, side.modality, strict=True) if own == half]

    def _check(self, half: str) -> None:
        for side, rows in zip(("queries", "gallery"), self.halves[half], strict=True):
            names = [PurePosixPath(name).name for name in self.names(rows)]
            if not names:
                raise ConfigError(
                    f"data: half {half}: got no {side}, expected queries and gallery in each half"
                )
            twice = len(names) - len(set(names))
            if twice:
                raise ConfigError(
                    f"data: half {half}: {side}: got {twice} file names that stand twice, expected different "
                    "names: the ranking file knows pictures by them"
                )

    def names(self, rows: list[int]) -> list[str]:
        return [self.files.path[row] for row in rows]


class Pieces(nn.Module):
    """A network whose feature is all its pieces as they are, one after the other.

    Mirror images are added before a piece is normalised, as NAIC_ReID does with the pooled feature (and forgot to do
    with the parts), and each piece is ranked by itself.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat(self.model.pieces(images), 1)


def write_features(
    weights: Path,
    pictures: TestPictures,
    plan: Plan,
    device: torch.device,
    target: Path,
    check: Callable[[], None],
) -> dict[str, list[int]]:
    """Features (files, D) float32 of all test pictures into a .npy file; returns how wide each piece is."""
    model, known = trained_model(weights)
    model = model.to(device)
    dims = [int(width) for width in getattr(model, "piece_dims", (model.feature_dim,))]
    if len(dims) > 1:
        model = Pieces(model)
    mean, std = (tuple(json.loads(known[key])) for key in ("mean", "std"))
    transform = EvalTransform(int(known["height"]), int(known["width"]), mean, std)
    loader = EvalLoader(pictures.files, transform, plan.batch_size, plan.workers, BadImagePolicy("raise"))
    with array_file(target, (len(pictures.files), sum(dims))) as append:
        for batch in loader:  # one at a time: features of all pictures together may be more than memory
            append(extract(model, [batch], device, flip=plan.flip, check=check).values)
    return {"pieces": dims}


def read_pairs(path: Path, dims: list[int], rows: tuple[list[int], list[int]]) -> list[tuple[Tensor, Tensor]]:
    """For each piece the features of the queries and of the gallery; only these rows are read."""
    stored = np.load(path, mmap_mode="r")
    sides = [torch.from_numpy(np.ascontiguousarray(stored[side])).split(dims, 1) for side in rows]
    return [(query.contiguous(), gallery.contiguous()) for query, gallery in zip(*sides, strict=True)]
