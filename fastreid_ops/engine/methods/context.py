# SPDX-License-Identifier: Apache-2.0
"""What a training method is built from."""

from dataclasses import dataclass

from torch import nn

from fastreid_ops.config import Config
from fastreid_ops.data.manifest import Manifest


@dataclass(frozen=True)
class Context:
    """What `losses(context)` of a method may look at.

    `model` is the built network on its device (its `feature_dim`, its heads), `num_classes` the number of people
    that are trained on, and `training` their rows: what the loader draws from, and whose other labels (clothes,
    cameras, tracklets) `fastreid_ops.data.columns` gives.
    """

    config: Config
    model: nn.Module
    num_classes: int
    training: Manifest
