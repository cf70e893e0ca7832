# SPDX-License-Identifier: Apache-2.0
"""One system of each kind in miniature, trained by several ranks, by a process alone, and by a process alone that goes
through the ranks' parts of every batch one after the other and adds up their gradients.
"""

import sys
import types

import numpy as np
import torch
from PIL import Image
from torch import nn

from fastreid_ops import models
from fastreid_ops.config import from_dict
from fastreid_ops.config.check import validate
from fastreid_ops.data.images import BadImagePolicy
from fastreid_ops.engine import ranks as module
from fastreid_ops.engine import setup
from fastreid_ops.engine.log import Log
from fastreid_ops.engine.loop import Tools, fit
from fastreid_ops.engine.methods import method
from fastreid_ops.engine.silent import SilentMetrics
from fastreid_ops.engine.state import seed_everything
from fastreid_ops.models.naic import NAICNet
from fastreid_ops.models.output import TrainOutput

HEIGHT, WIDTH = 32, 16
PARTS = 2  # ranks, and what a process alone adds up


def write_people(folder, ids=6):
    """JPEG files and people.csv: everybody in two outfits, seen by day and by night, four frames in a row each."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    lines = ["path,pid,camid,split,modality,clothes,tracklet,frame"]
    for pid in range(ids):
        for outfit in range(2):
            colour = rng.integers(60, 200, 3)
            for camera, modality in enumerate(("visible", "infrared")):
                for frame in range(4):
                    pixels = np.clip(colour + 20 * camera + rng.normal(0, 60, (HEIGHT, WIDTH, 3)), 0, 255)
                    name = f"{pid}_{outfit}_{camera}_{frame}.jpg"
                    Image.fromarray(pixels.astype(np.uint8)).save(folder / name, quality=95)
                    outfits, tracklet = 2 * pid + outfit, 4 * pid + 2 * outfit + camera
                    lines.append(f"{name},{pid},{camera},train,{modality},{outfits},{tracklet},{frame}")
    (folder / "people.csv").write_text("\n".join(lines) + "\n")
    return folder / "people.csv"


class Body(nn.Sequential):
    """Two convolutions with batch norm, stride 8."""

    out_channels = 16

    def __init__(self):
        first, second = nn.Conv2d(3, 8, 3, 4, 1, bias=False), nn.Conv2d(8, 16, 3, 2, 1, bias=False)
        super().__init__(first, nn.BatchNorm2d(8), nn.ReLU(), second, nn.BatchNorm2d(16), nn.ReLU())


class Small(nn.Module):
    """The body with a classifier."""

    feature_dim = 16

    def __init__(self, num_classes):
        super().__init__()
        self.body, self.classifier = Body(), nn.Linear(16, num_classes)

    def forward(self, images):
        feature = self.body(images).mean((2, 3))
        return TrainOutput((self.classifier(feature),), (feature,)) if self.training else feature


def add_networks():
    """Make the small networks known by name."""
    own = types.ModuleType("ranks_networks")
    own.small = Small
    own.naic = lambda num_classes: NAICNet(Body(), num_classes, pool="gem", classifier="none", pcb=True)
    sys.modules["ranks_networks"] = own
    models.MODELS |= {"small": "ranks_networks:small", "naic_small": "ranks_networks:naic"}


SMALL, NAIC = {"name": "small"}, {"name": "naic_small"}
VIT = {"image_size": [HEIGHT, WIDTH], "dim": 24, "depth": 4, "num_heads": 4, "dropout": 0.0}
EMBEDNET = {"name": "embednet", "options": VIT}
FOURS = {"sampler": "pk", "images_per_id": 2, "batch_size": 8}
PAIRS = {"sampler": "paired", "images_per_id": 2, "batch_size": 16}
SEQUENCES = {"sampler": "tracklet", "images_per_id": 2, "sequence_length": 2, "batch_size": 16}
DOMAINS = {"sampler": "domain", "images_per_id": None, "batch_size": 16}
CLASSIFIER = {"match": "criteria.clothes_classifier.*", "optimizer": "adam", "scheduled": False}
CENTERS = {"match": "criteria.center.*", "optimizer": "sgd", "lr": 0.5, "momentum": 0.0, "scheduled": False}
RANGER = {"name": "ranger", "lr": 0.005, "groups": [CENTERS]}
CLOTHES = {"adversarial": 1.0, "from_epoch": 1}
MARGINS = {"head": "arcface", "center": 0.003, "part": 1.0, "merge": 1.0}
STILL = {"freeze_bn": True}

# Losses that are means over the images, statistics that stand still: several ranks are one.
AS_ONE = {
    "clothes classifier": {
        "train": {"method": "cal", "accumulate": 2, **STILL},
        "model": SMALL,
        "data": FOURS,
        "optim": {"groups": [CLASSIFIER]},
        "loss": {"triplet": 0.0, "clothes": CLOTHES},
    },
    "clothes bank": {
        "train": {"method": "cal", **STILL},
        "model": SMALL,
        "data": FOURS,
        "loss": {"triplet": 0.0, "clothes": {**CLOTHES, "memory": True, "momentum": 0.5}},
    },
    "margin head and centres": {
        "train": {"method": "naic", **STILL},
        "model": NAIC,
        "data": FOURS,
        "optim": RANGER,
        "loss": {"triplet": 0.0, "naic": MARGINS},
    },
    "domains": {
        "train": {"ema": 0.9, **STILL},
        "model": SMALL,
        "data": DOMAINS,
        "loss": {"triplet": 0.0},
    },
}
# Losses that compare the images of a part, and its statistics: several ranks are their parts one after the other.
AS_PARTS = {
    "paired": {
        "train": {"method": "deen"},
        "model": EMBEDNET,
        "data": PAIRS,
        "optim": {"lr": 0.002},
        "loss": {"cross_modal": {"cpm": 0.8, "orthogonality": 0.01}},
    },
    "margin head and triplet": {
        "train": {"method": "naic"},
        "model": NAIC,
        "data": FOURS,
        "optim": RANGER,
        "loss": {"margin": None, "naic": MARGINS},
    },
    "sequences": {"train": {"amp": "bf16", "epochs": 1}, "model": SMALL, "data": SEQUENCES},
}
SYSTEMS = {**AS_ONE, **AS_PARTS}


class Recorded(SilentMetrics):
    def __init__(self):
        self.records = []

    def append(self, record):
        self.records.append({**record["losses"], "norm": record["grad_norm"]})


class OneAfterTheOther:
    """The parts of all ranks of each batch, as batches."""

    def __init__(self, loaders):
        self.loaders = loaders

    def len_epoch(self, epoch):
        return PARTS * self.loaders[0].len_epoch(epoch)

    def iterate(self, epoch, start):
        for batches in zip(*(each.iterate(epoch, start // PARTS) for each in self.loaders), strict=True):
            yield from batches


def configuration(values, people):
    """A system's, for two epochs of a dozen steps."""
    size = {"height": HEIGHT, "width": WIDTH, "workers": 0, "cache_images": True}
    common = {
        "data": {"dataset": str(people), **size},
        "train": {"epochs": 2},
        "schedule": {"name": "constant", "warmup_epochs": 0},
        "optim": {"name": "sgd", "lr": 0.05, "momentum": 0.5},
        "eval": {"every": 0, "sets": []},
        "run": {"device": "cpu"},
    }
    merged = {key: {**common.get(key, {}), **values.get(key, {})} for key in {**common, **values}}
    return validate(from_dict(merged))


def sharers():
    """Ranks that share batches without being processes."""
    made = [module.Ranks() for _ in range(PARTS)]
    for rank, each in enumerate(made):
        each.rank, each.world = rank, PARTS
    return made


def loaders_of(config, rows, ranks):
    """The training loader of each rank."""
    policy = BadImagePolicy("raise")
    return [setup.train_loader(config, rows, rows.label_map(), policy, each) for each in ranks]


def trained(name, people, ranks):
    """Weights, buffers and records of a system."""
    config = configuration(SYSTEMS[name], people)
    in_parts = ranks.world == 1 and name in AS_PARTS
    if in_parts:
        config.train.accumulate *= PARTS
    seed_everything(1)
    rows = setup.training_rows(config, setup.training_manifest(config))
    loaders = loaders_of(config, rows, sharers() if in_parts else [ranks])
    state = setup.build_state(config, rows, rows.label_map(), torch.device("cpu"), lambda text: None)
    metrics = Recorded()
    step = method(config.train.method).step
    tools = Tools(
        loader=OneAfterTheOther(loaders) if in_parts else loaders[0],
        step=step,
        assess=lambda model: {},
        save=lambda state, best: None,
        metrics=metrics,
        log=Log(),
        check=lambda: None,
        ranks=ranks,
    )
    if ranks.world > 1:
        shared = module.SharedStep(ranks, state, step)
        tools.step, tools.adding = shared.shared, shared.adding
    fit(state, tools)
    found = state.capture(0, {})
    weights = {
        f"{part}.{key}": value
        for part in ("model", "criteria", "ema")
        for key, value in (found[part] or {}).items()
    }
    return {"weights": weights, "records": metrics.records}
