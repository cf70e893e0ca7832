# SPDX-License-Identifier: Apache-2.0
"""The part-based head of NAIC_ReID (NAIC 2020): six stripes with a classifier each, and dynamic weights."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastreid_ops.layers.gem import GeM
from fastreid_ops.layers.pcb_weights import PartWeight, part_weights
from fastreid_ops.ops import _checks as check

PARTS = 6
TESTS = ("merge", "split", "ensemble")


class PartOutput(NamedTuple):
    """What the head hands over in training.

    Attributes:
        logits: six tensors (B, num_classes), each from one part, before its weight.
        merge: (B, num_classes) from the six weighted parts together; None with ``merge=False``.
        parts: six tensors (B, features), the weighted parts.
    """

    logits: tuple[Tensor, ...]
    merge: Tensor | None
    parts: tuple[Tensor, ...]


class PartBlock(nn.Module):
    """1x1 convolution and batch normalisation, (B, C, 1, 1) -> (B, features).

    There is no ReLU: the original takes a flag for it and never reads it.
    """

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        conv = nn.Conv2d(channels, features, 1, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_in")
        self.add_block = nn.Sequential(conv, nn.BatchNorm2d(features))

    def forward(self, x: Tensor) -> Tensor:
        return self.add_block(x).flatten(1)  # the batch stays a dimension, for one image too


def _classifier(features: int, num_classes: int) -> nn.Linear:
    layer = nn.Linear(features, num_classes)
    nn.init.normal_(layer.weight, std=0.001)
    nn.init.zeros_(layer.bias)
    return layer


class DynamicPCB(nn.Module):
    """The map's mean over six (overlapping) bands of rows, a block and a classifier for each, and one weight for each
    that depends on the whole image.

    Training: (B, channels, H, W) -> `PartOutput`. Evaluation, by ``test``:

    ``merge``
        (B, 6 * features): the weighted parts, one after the other.
    ``split``
        the same numbers as six tensors (B, features).
    ``ensemble``
        (B, features): a 1x1 convolution of the map, each position divided by its norm, generalised mean of power 3.

    The layers ``bn`` and ``feat_bn2d`` do nothing, and ``local_conv`` only serves ``ensemble``: they are there for the
    checkpoints, get no gradient and are frozen, so ``ensemble`` is of use with loaded weights. The original's training
    for the ensemble fails with an attribute that does not exist; what it meant is this training with scaled logits of
    the parts, and the scales are an argument of `losses.parts.PartLoss`.

    Names of parameters are the original's. In evaluation the weights are one product for all parts
    (`layers.pcb_weights`).

    Args:
        channels: of the map.
        num_classes: number of training identities.
        features: width of a part, at least 16.
        merge: give the logits of the merged parts in training.
        test: see above.
        eps: floor of the norm in ``ensemble``; the original has none and gives NaN for a position of zeros.

    Raises:
        ValueError: an argument out of its range, or one image in training (its batch normalisations see one value).
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        features: int = 256,
        merge: bool = True,
        test: str = "merge",
        eps: float = 1e-12,
    ) -> None:
        super().__init__()
        name = "DynamicPCB"
        for argument, value in (("channels", channels), ("num_classes", num_classes), ("features", features)):
            check.positive_int(name, argument, value)
        check.flag(name, "merge", merge)
        check.choice(name, "test", test, TESTS)
        self.merge, self.test, self.eps = merge, test, eps
        self.feature_dim = features * (1 if test == "ensemble" else PARTS)
        self.bn = nn.BatchNorm2d(channels)
        self.local_conv = nn.Conv2d(channels, features, 1, bias=False)
        nn.init.kaiming_normal_(self.local_conv.weight, mode="fan_out")
        self.local_conv_list = nn.ModuleList(PartBlock(channels, features) for _ in range(PARTS))
        self.feat_bn2d = nn.BatchNorm2d(features)
        for i in range(PARTS):
            self.add_module(f"dy_weight{i}", PartWeight(channels, features))
        for i in range(PARTS):
            self.add_module(f"instance{i}", _classifier(features, num_classes))
        self.instance_merge = _classifier(PARTS * features, num_classes)
        self.pool = GeM(3.0)
        for idle in (self.bn, self.local_conv, self.feat_bn2d):
            idle.requires_grad_(False)
        if not merge:
            self.instance_merge.requires_grad_(False)

    def forward(self, x: Tensor) -> PartOutput | Tensor | tuple[Tensor, ...]:
        check.tensor("DynamicPCB", "x", x)
        check.rank("DynamicPCB", "x", x, 4, "(B, C, H, W)")
        check.size("DynamicPCB", "x", x, 1, self.bn.num_features, "the channels the head was made for")
        if not self.training and self.test == "ensemble":
            return self.pool(F.normalize(self.local_conv(x), dim=1, eps=self.eps))
        if x.shape[0] < 2 and any(block.training for block in self.local_conv_list):
            expected = "at least 2 samples while training, its batch normalisations see one value each"
            raise ValueError(check.message("DynamicPCB", "x", f"batch {x.shape[0]}", expected))
        bands = F.adaptive_avg_pool2d(x, (PARTS, 1))
        features = [block(bands[:, :, i : i + 1]) for i, block in enumerate(self.local_conv_list)]
        chains = [getattr(self, f"dy_weight{i}") for i in range(PARTS)]
        weights = part_weights(bands, chains).unbind(1)
        parts = tuple(feature * weight[:, None] for feature, weight in zip(features, weights, strict=True))
        if not self.training:
            return parts if self.test == "split" else torch.cat(parts, 1)
        logits = [getattr(self, f"instance{i}")(feature) for i, feature in enumerate(features)]
        merged = self.instance_merge(torch.cat(parts, 1)) if self.merge else None
        return PartOutput(tuple(logits), merged, parts)
