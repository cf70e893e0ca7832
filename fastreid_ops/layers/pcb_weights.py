# SPDX-License-Identifier: Apache-2.0
"""Dynamic weights of body parts (the part-based head of NAIC_ReID, NAIC 2020).

Each part has a chain of four layers without any non-linearity between them, so one part's weight is an affine function
a . mean(q) + b of the pooled map, with a and b products of the chain's matrices.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastreid_ops.layers._network import matrix, wide
from fastreid_ops.ops import _checks as check


class PartWeight(nn.Sequential):
    """The chain of one part: mean, 1x1 convolutions to ``features``, ``features`` // 16 and ``features``, a linear
    layer to one number. (B, channels, H, W) -> (B, 1), unbounded.

    Layers are numbered as in the original (`1`, `2`, `3` and `5` hold parameters), so `dy_weight0 = PartWeight(..)`
    has its checkpoint's names.

    Raises:
        ValueError: fewer than 16 features.
    """

    def __init__(self, channels: int = 2048, features: int = 256) -> None:
        check.positive_int("PartWeight", "channels", channels)
        check.positive_int("PartWeight", "features", features)
        if features < 16:
            raise ValueError(check.message("PartWeight", "features", features, "at least 16"))
        super().__init__(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, features, 1),
            nn.Conv2d(features, features // 16, 1),
            nn.Conv2d(features // 16, features, 1),
            nn.Flatten(),
            nn.Linear(features, 1),
        )

    def folded(self) -> tuple[Tensor, Tensor]:
        """The vector a (channels,) and the number b (1,) of the chain, differentiable, in float32 at least."""
        last = self[5]
        weight, bias = wide(last.weight), wide(last.bias)
        for layer in (self[3], self[2], self[1]):  # from the one number backwards: every product stays a row
            bias = bias + (weight * wide(layer.bias)).sum(1)
            weight = (weight[0, :, None] * wide(matrix(layer))).sum(0, keepdim=True)
        return weight[0], bias


def fold_part_weights(chains: Sequence[PartWeight]) -> tuple[Tensor, Tensor]:
    """Weight (P, channels) and bias (P,) of `torch.nn.functional.linear` that do what the P chains do to a mean."""
    folded = [chain.folded() for chain in chains]
    return torch.stack([a for a, _ in folded]), torch.cat([b for _, b in folded])


def part_weights(q: Tensor, chains: Sequence[PartWeight]) -> Tensor:
    """The weights (B, P) of P parts from the pooled map they share, (B, channels, bins, 1).

    Chains that train run layer by layer, as the original; in evaluation they are folded and all parts are one product
    with the mean of the bins. That is the mean of the unpooled map only where the bins divide its height.
    """
    if any(chain.training for chain in chains):
        return torch.cat([chain(q) for chain in chains], 1)
    weight, bias = fold_part_weights(chains)
    return F.linear(q.flatten(2).mean(2), weight.to(q.dtype), bias.to(q.dtype))
