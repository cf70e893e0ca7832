# SPDX-License-Identifier: Apache-2.0
"""A competition in miniature: a network of one convolution, a recipe of seconds, a plan over both."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import yaml
from PIL import Image
from torch import nn

from fastreid_ops import competition
from fastreid_ops.models.naic import NAICNet

HEIGHT, WIDTH = 24, 12
COLOURS = {"green": (90, 160), "normal": (20, 60)}


class Base(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.out_channels = 8


def tiny(num_classes, *, pcb=False, classifier="none"):
    return NAICNet(Base(), num_classes, pool="gem", pcb=pcb, classifier=classifier)


def picture(path, colour, rng):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.clip(colour + rng.normal(0, 12, (HEIGHT, WIDTH, 3)), 0, 255)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def recipe(folder):
    """A recipe of seconds for the method."""
    sets = [{"name": "test", "protocol": "naic"}]
    values = {
        "model": {"name": "naic_tiny", "options": {"classifier": "none"}},
        "data": {"height": HEIGHT, "width": WIDTH, "batch_size": 8, "images_per_id": 2, "crop_padding": 1},
        "loss": {"margin": None, "triplet": 1.0, "naic": {"head": "arcface", "center": 3e-4}},
        "optim": {
            "name": "ranger",
            "lr": 0.01,
            "groups": [{"match": "criteria.center.*", "optimizer": "sgd", "lr": 0.5, "weight_decay": 0.0}],
        },
        "schedule": {"name": "multistep", "warmup_epochs": 1, "milestones": [2]},
        "train": {"method": "naic", "epochs": 2},
        "eval": {"every": 0, "untrained": False, "hsv_stripes": False, "flip": True, "sets": sets},
        "run": {"report": False, "threads": 1, "keep": 5},
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(values))
    return str(path)


def plan(root, place, **changes):
    models_ = [
        {"name": "a", "recipe": recipe(place), "epochs": [1, 2]},
        {
            "name": "b",
            "recipe": recipe(place),
            "pseudo": "by_a",
            "overrides": {"model.options.pcb": True, "data.height": 32, "train.seed": 3},
        },
    ]
    values = {
        "folder": str(place / "entry"),
        "data": {"dataset": "naic", "root": str(root)},
        "models": models_,
        "pseudo": [{"name": "by_a", "model": "a", "threshold": 0.2}],
        "rerank": {"k1": 6, "k2": 2, "lambda_value": 0.8, "chunk": [4, 9]},
        "top": 5,
        "batch_size": 16,
        "workers": 0,
        "rows": 4,
        "device": "cpu",
        "threads": 1,
    }
    path = place / "plan.yaml"
    path.write_text(yaml.safe_dump({**values, **changes}))
    return str(path)


def run(plan, *words):
    return competition.main(["--plan", plan, *words])


def contents(folder):
    """sha256 of everything an entry has to show."""
    parts = ("weights", "features", "distances", "pseudo", "results")
    files = [file for part in parts for file in (folder / part).glob("*")]
    files += [*folder.glob("result-*.json"), *folder.glob("models/*/weights.safetensors")]
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(files)
    }


def copy(entry, folder):
    shutil.copytree(entry, folder / "entry")
    return folder / "entry"


def changed(path, change):
    """The plan's file with something else in it."""
    values = yaml.safe_load(Path(path).read_text())
    change(values)
    Path(path).write_text(yaml.safe_dump(values))
    return str(path)
