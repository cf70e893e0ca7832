# SPDX-License-Identifier: Apache-2.0
"""What AGW, DEEN and their relatives share: a stem for each modality, common stages of ResNet-50, a neck."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastreid_ops.models.backbones.resnet import (
    RESNET50,
    ResNet,
    check_blocks,
    close_residuals,
    residual_stages,
)
from fastreid_ops.models.initialise import initialise
from fastreid_ops.ops import _checks as check

TEST_FEATURES = ("all", "pooled", "neck", "original")


def check_ranking(model: str, test_feature: object, pool_weight: float) -> None:
    """Refuse what `ranking_feature` does not know."""
    check.choice(model, "test_feature", test_feature, TEST_FEATURES)
    if not 0 <= pool_weight <= 1:
        raise ValueError(check.message(model, "pool_weight", pool_weight, "a share from 0 to 1"))


def ranking_feature(
    pooled: Tensor, neck: Tensor, branches: int, test_feature: str, pool_weight: float
) -> Tensor:
    """(branches * B, C) before and after the neck -> (B, D), whose inner products are sums of cosine similarities.

    ``"all"``: every feature, of length one, side by side, the similarities before the neck weighted 2 pool_weight,
    those after it 2 - 2 pool_weight; ``"pooled"``, ``"neck"``: those before or after it, unweighted; ``"original"``:
    the first after it.
    """
    # Not chunk(branches): a graph with a free batch size cannot tell how many chunks that gives.
    before, after = (F.normalize(x, dim=1).unflatten(0, (branches, -1)).unbind() for x in (pooled, neck))
    if test_feature == "original":
        return after[0]
    if test_feature == "all":
        before = [x * math.sqrt(2 * pool_weight) for x in before]
        after = [x * math.sqrt(2 - 2 * pool_weight) for x in after]
    return torch.cat({"all": (*before, *after), "pooled": before, "neck": after}[test_feature], 1)


def frozen_neck(channels: int) -> nn.BatchNorm1d:
    """The neck of AGW and DEEN: weight from N(1, 0.01), a bias that stays 0."""
    neck = nn.BatchNorm1d(channels)
    nn.init.normal_(neck.weight, 1.0, 0.01)
    neck.bias.requires_grad_(False)
    return neck


def _stem() -> nn.ModuleDict:
    return nn.ModuleDict(
        {
            "conv1": nn.Conv2d(3, 64, 7, 2, 3, bias=False),
            "bn1": nn.BatchNorm2d(64),
            "relu": nn.ReLU(inplace=True),
            "maxpool": nn.MaxPool2d(3, 2, 1),
        }
    )


def _run_stem(network: nn.Module, images: Tensor) -> Tensor:
    for name in ("conv1", "bn1", "relu", "maxpool"):
        images = getattr(network, name)(images)
    return images


class TwoStream(nn.Module):
    """Stems ``visible_module`` and ``thermal_module``, common stages ``base_resnet``, ``bottleneck``, ``classifier``.

    Names are those of the public code. It keeps three whole ResNet-50 of which it runs two stems and one set of
    stages; here the others exist with ``unused_copies`` only, where a state dict has to have every entry of the
    original's. They have no influence and get no gradient.

    Args:
        stages: how many of the four stages run.
        unused_copies: see above.
        blocks: number of blocks of the four stages; fewer than ResNet-50's for small data and tests.
        zero_init_residual: blocks that start as nothing, for training from random weights; see `close_residuals`.
    """

    def __init__(
        self,
        *,
        stages: int,
        unused_copies: bool,
        blocks: Sequence[int] = RESNET50,
        zero_init_residual: bool = False,
    ) -> None:
        super().__init__()
        check.flag(type(self).__name__, "unused_copies", unused_copies)
        check.flag(type(self).__name__, "zero_init_residual", zero_init_residual)
        check_blocks(type(self).__name__, blocks)
        thermal, visible, base = (
            ResNet(blocks, last_stride=1) if unused_copies else part
            for part in (
                _stem(),
                _stem(),
                nn.ModuleDict(
                    {
                        f"layer{number}": stage
                        for number, stage in enumerate(
                            residual_stages(64, blocks, last_stride=1)[:stages], start=1
                        )
                    }
                ),
            )
        )
        self.thermal_module = nn.ModuleDict({"thermal": thermal})
        self.visible_module = nn.ModuleDict({"visible": visible})
        self.base_resnet = nn.ModuleDict({"base": base})
        initialise(self)
        if zero_init_residual:
            close_residuals(self)

    def _finish(self, channels: int, num_classes: int) -> None:
        """The neck and the classifier, registered last as in the original."""
        self.bottleneck = frozen_neck(channels)
        self.classifier = nn.Linear(channels, num_classes, bias=False)
        nn.init.normal_(self.classifier.weight, 0.0, 0.001)

    def stage(self, number: int) -> nn.Sequential:
        """Stage 1..4 of the common part."""
        return getattr(self.base_resnet.base, f"layer{number}")

    def stem(self, images: Tensor, mode: int = 0) -> Tensor:
        """(B, 3, H, W) -> (B, 64, H / 4, W / 4), each image through the stem of its modality.

        Raises:
            ValueError: a mode other than 0 (first half visible, second infrared), 1 (all visible), 2 (all infrared); an
                odd batch with mode 0.
        """
        name = type(self).__name__
        check.rank(name, "images", check.tensor(name, "images", images), 4, "(B, 3, H, W)")
        if mode not in (0, 1, 2):
            expected = "0 (both), 1 (visible) or 2 (infrared)"
            raise ValueError(check.message(name, "mode", repr(mode), expected))
        visible, thermal = self.visible_module.visible, self.thermal_module.thermal
        if mode:
            return _run_stem(visible if mode == 1 else thermal, images)
        if images.shape[0] % 2:
            expected = "an even batch with mode 0, half of it infrared"
            raise ValueError(check.message(name, "images", f"batch {images.shape[0]}", expected))
        first, second = images.chunk(2)
        return torch.cat((_run_stem(visible, first), _run_stem(thermal, second)))
