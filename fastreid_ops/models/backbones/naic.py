# SPDX-License-Identifier: Apache-2.0
"""The twelve backbones of NAIC_ReID (github.com/ly-wenli/NAIC_ReID, NAIC 2020), by its names.

Names of parameters are the original's, the ``fc`` of the ImageNet weights included: it is there so that checkpoints
load without a rest, takes part in nothing and is frozen.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial

from torch import nn

from fastreid_ops.layers.ibn import instance_norm
from fastreid_ops.layers.squeeze_excitation import SELayer
from fastreid_ops.models.backbones.efficientnet import EfficientNetB0
from fastreid_ops.models.backbones.resnest import resnest
from fastreid_ops.models.backbones.resnet import RESNET50, RESNET101, BlockPlan, ResNet
from fastreid_ops.models.resnet_ibn import ibn_a_plan

IMAGENET_CLASSES = 1000


def naic_ibn_b_plan(stage: int, index: int, blocks: int) -> BlockPlan:
    """IBN-b of NAIC_ReID: instance normalisation of the sum in the last block of stages 1, 2 and 3. The authors'
    IBN-Net leaves out stage 3 (`models.resnet_ibn.ibn_b_plan`), so weights of the two do not fit each other."""
    if stage < 4 and index == blocks - 1:
        return BlockPlan(norm_out=("IN", instance_norm))
    return BlockPlan()


def se_ibn_a_plan(stage: int, index: int, blocks: int) -> BlockPlan:
    """IBN-a with squeeze and excitation, ``se``, at the end of every block."""
    return BlockPlan(norm1=ibn_a_plan(stage, index, blocks).norm1, gate=("se", SELayer), gate_adds=True)


def _resnet50(*, last_stride: int, legacy_stem: bool) -> ResNet:
    network = ResNet(RESNET50, last_stride=last_stride)
    if legacy_stem:
        network.relu = nn.Identity()
        network.maxpool = nn.MaxPool2d(2, 2)
    return network


_BACKBONES: dict[str, Callable[..., nn.Module]] = {
    "resnet50_ibn_a": partial(ResNet, RESNET50, plan=ibn_a_plan),
    "resnet101_ibn_a": partial(ResNet, RESNET101, plan=ibn_a_plan),
    "se_resnet50_ibn_a": partial(ResNet, RESNET50, plan=se_ibn_a_plan),
    "se_resnet101_ibn_a": partial(ResNet, RESNET101, plan=se_ibn_a_plan),
    "resnet50_ibn_b": partial(ResNet, RESNET50, plan=naic_ibn_b_plan, stem_norm=instance_norm),
    "resnet101_ibn_b": partial(ResNet, RESNET101, plan=naic_ibn_b_plan, stem_norm=instance_norm),
    "resnest50": partial(resnest, RESNET50, stem_width=32),
    "resnest50_ibn": partial(resnest, RESNET50, stem_width=32, ibn=True),
    "resnest101": partial(resnest, RESNET101, stem_width=64),
    "resnest101_ibn": partial(resnest, RESNET101, stem_width=64, ibn=True),
}

BACKBONES = ("resnet50", *_BACKBONES, "efficientnet_b0", "efficientnet_b7")


def naic_backbone(
    name: str, *, last_stride: int = 1, legacy_stem: bool = False, drop_connect: float = 0.2
) -> nn.Module:
    """One of `BACKBONES`: module (B, 3, H, W) -> (B, ``out_channels``, h, w).

    Args:
        name: as in the original's configuration. ``efficientnet_b7`` is a B0 there; it warns and gives one.
        last_stride: stride of the fourth stage, 1 or 2; without a meaning for EfficientNet, whose map has stride 32.
        legacy_stem: of ``resnet50`` only: no ReLU after the first normalisation and a pooling of 2 x 2 in place of
            3 x 3, as the original has them. Its checkpoints need it; the default is the usual stem.
        drop_connect: of EfficientNet only, see `EfficientNetB0`.

    Raises:
        ValueError: unknown name or an argument out of its range.
    """
    if name not in BACKBONES:
        raise ValueError(f"naic_backbone: name: got {name!r}, expected one of {', '.join(BACKBONES)}")
    if last_stride not in (1, 2):
        raise ValueError(f"naic_backbone: last_stride: got {last_stride!r}, expected 1 or 2")
    if name.startswith("efficientnet"):
        if name == "efficientnet_b7":
            text = "efficientnet_b7 is EfficientNet-B0 in NAIC_ReID, and here; efficientnet_b0 is the same network"
            warnings.warn(text, UserWarning, stacklevel=2)
        network = EfficientNetB0(drop_connect=drop_connect)
        network._fc = nn.Linear(network.out_channels, IMAGENET_CLASSES).requires_grad_(False)
        return network
    if name == "resnet50":
        return _resnet50(last_stride=last_stride, legacy_stem=legacy_stem)
    network = _BACKBONES[name](last_stride=last_stride)
    network.fc = nn.Linear(network.out_channels, IMAGENET_CLASSES).requires_grad_(False)
    return network
