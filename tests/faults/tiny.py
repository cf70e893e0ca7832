# SPDX-License-Identifier: Apache-2.0
"""A model and a data set small enough that a whole training run takes a fraction of a second."""

import numpy as np
from PIL import Image
from torch import nn

from fastreid_ops.models.output import TrainOutput

HEIGHT, WIDTH = 16, 8


class Tiny(nn.Module):
    """Two convolutions with batch norm and dropout, so that statistics and torch's random state matter."""

    def __init__(self, num_classes: int, heads: int = 1):
        super().__init__()
        self.feature_dim = 8
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1),
        )
        self.heads = nn.ModuleList(nn.Linear(8, num_classes) for _ in range(heads))

    def forward(self, images):
        feature = self.body(images).mean((2, 3))
        if not self.training:
            return feature
        dropped = nn.functional.dropout(feature, 0.2)
        return TrainOutput(tuple(head(dropped) for head in self.heads), (feature,) * len(self.heads))


def tiny(num_classes: int, heads: int = 1) -> Tiny:
    return Tiny(num_classes, heads)


def write_people(folder, ids=8, cameras=2, images=3, seed=0):
    """JPEG files and people.csv: each id a colour, ids from 5 on are query and gallery."""
    rng = np.random.default_rng(seed)
    lines = ["path,pid,camid,split"]
    folder.mkdir(parents=True, exist_ok=True)
    for pid in range(ids):
        colour = rng.integers(100, 150, 3)
        for camera in range(cameras):
            for k in range(images):
                pixels = np.clip(colour + 20 * camera + rng.normal(0, 90, (HEIGHT, WIDTH, 3)), 0, 255)
                name = f"{pid:02d}_c{camera}_{k}.jpg"
                Image.fromarray(pixels.astype(np.uint8)).save(folder / name, quality=95)
                split = "train" if pid < ids - 3 else "query" if camera == 0 and k == 0 else "gallery"
                lines.append(f"{name},{pid},{camera},{split}")
    (folder / "people.csv").write_text("\n".join(lines) + "\n")
    return folder / "people.csv"


def arguments(csv, run, *more):
    """A command line for `fastreid_ops.train`: 3 epochs of about 3 steps, everything on that a checkpoint
    must hold.
    """
    return [
        *("--run.folder", str(run), "--model.name", "tiny", "--data.dataset", str(csv)),
        *("--data.height", str(HEIGHT), "--data.width", str(WIDTH), "--data.batch_size", "8"),
        *("--data.images_per_id", "2", "--data.workers", "0", "--data.crop_padding", "1"),
        *("--train.epochs", "3", "--train.ema", "0.9", "--eval.every", "1", "--run.threads", "1"),
        *("--schedule.warmup_epochs", "1", "--run.checkpoint_every_steps", "2", "--run.report", "false"),
        *("--eval.sets", "[{name: test, label: tiny people}]", "--run.device", "cpu", *more),
    ]
