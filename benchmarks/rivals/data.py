# SPDX-License-Identifier: Apache-2.0
"""The transform pipelines of torchreid and fast-reid, from a file name to a tensor, built by their own code.

Both need torchvision; ``pip install --no-deps torchreid fastreid torchvision`` is enough. Only the files needed are
loaded, since the packages import much more, and fast-reid's a part of torch that is gone.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

from PIL import Image
from rivals.ranking import load_file, package_file
from rivals.torchvision_cpu import mend_torchvision
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

mend_torchvision()


class Pipeline(NamedTuple):
    """``run(file name)`` gives (3, H, W); ``step`` is what it does, ``options`` what makes ours do the same."""

    rival: str
    step: str
    run: Callable[[str], Tensor]
    options: dict[str, object]

    def loader(self, names: Sequence[str], batch: int, workers: int) -> DataLoader:
        """torch's own, as both projects use it. (fast-reid's collates by adding to zeros, which is slower.)"""
        return DataLoader(Files(names, self.run), batch_size=batch, num_workers=workers)


class Files(Dataset):
    def __init__(self, names: Sequence[str], run: Callable[[str], Tensor]) -> None:
        self.names, self.run = names, run

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Tensor:
        return self.run(self.names[index])


ERASE = {"erasing": 0.5}
NONE = {"crop_padding": 0, "flip": 0.0, "erasing": 0.0}
TORCHREID = {"flip": 0.5, "translation": 0.5, "erasing_fill": "mean_in_units"}
# fast-reid's network subtracts mean and deviation, its pipeline ends with values from 0 to 255.
LEVELS = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255, 1 / 255, 1 / 255)}
GREY = (0.485 * 255, 0.456 * 255, 0.406 * 255)
FASTREID = {"flip": 0.5, "crop_padding": 10, "padding_fill": "black", "erasing_fill": GREY}


def available(height: int, width: int) -> list[Pipeline]:
    """Pipelines to images of one size."""
    if importlib.util.find_spec("torchvision") is None:
        return []
    importlib.import_module("torchvision.transforms")  # what `load_file` imports is forgotten afterwards
    return [*_torchreid(height, width), *_fastreid(height, width)]


def _read(path: str) -> Image.Image:
    return Image.open(path).convert("RGB")


def _torchreid(height: int, width: int) -> list[Pipeline]:
    file = package_file("torchreid", "reid/data/transforms.py")
    if file is None:
        return []
    module = load_file(file)

    def pipeline(step: str, names: list[str], options: dict[str, object]) -> Pipeline:
        with contextlib.redirect_stdout(io.StringIO()):
            train, test = module.build_transforms(height, width, names)
        transform = train if names else test
        return Pipeline("torchreid", step, lambda path: transform(_read(path)), options)

    crop = ["random_flip", "random_crop"]
    colours = {"brightness": 0.2, "contrast": 0.15}
    return [
        pipeline("resize, normalise", [], NONE),
        pipeline("flip, crop, erase", [*crop, "random_erase"], {**NONE, **TORCHREID, **ERASE}),
        pipeline(
            "flip, crop, colours, erase",
            [*crop, "color_jitter", "random_erase"],
            {**NONE, **TORCHREID, **ERASE, **colours},
        ),
    ]


def _fastreid(height: int, width: int) -> list[Pipeline]:
    file = package_file("fastreid", "data/transforms/__init__.py")
    if file is None:
        return []
    build = _load_package("fastreid_transforms", file).build_transforms

    def pipeline(step: str, train: bool, jitter: bool, options: dict[str, object]) -> Pipeline:
        transform = build(_settings(height, width, jitter), is_train=train)
        return Pipeline("fast-reid", step, lambda path: transform(_read(path)), options)

    none = {**NONE, **LEVELS}
    crop = {**none, **FASTREID, **ERASE}
    colours = {"brightness": 0.15, "contrast": 0.15, "saturation": 0.1, "hue": 0.1, "jitter": 0.5}
    return [
        pipeline("resize", False, False, none),
        pipeline("flip, crop, erase", True, False, crop),
        pipeline("flip, crop, colours, erase", True, True, {**crop, **colours}),
    ]


def _settings(height: int, width: int, jitter: bool) -> SimpleNamespace:
    """fast-reid's INPUT section with the steps of its bag-of-tricks recipes; values not named are its defaults."""
    off = SimpleNamespace(
        ENABLED=False, PROB=0.0, SIZE=[height, width], SCALE=[0.16, 1.0], RATIO=[0.75, 4 / 3]
    )
    section = SimpleNamespace(
        SIZE_TRAIN=[height, width],
        SIZE_TEST=[height, width],
        CROP=off,
        AUGMIX=off,
        AUTOAUG=off,
        AFFINE=off,
        RPT=off,
        FLIP=SimpleNamespace(ENABLED=True, PROB=0.5),
        PADDING=SimpleNamespace(ENABLED=True, SIZE=10, MODE="constant"),
        CJ=SimpleNamespace(ENABLED=jitter, PROB=0.5, BRIGHTNESS=0.15, CONTRAST=0.15, SATURATION=0.1, HUE=0.1),
        REA=SimpleNamespace(ENABLED=True, PROB=0.5, VALUE=list(GREY)),
    )
    return SimpleNamespace(INPUT=section)


def _load_package(name: str, file: Path):
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=[str(file.parent)])
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # its parts import each other through it
    spec.loader.exec_module(module)
    return module
