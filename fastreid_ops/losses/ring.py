# SPDX-License-Identifier: Apache-2.0
"""Ring loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastreid_ops.losses import _checks as check
from fastreid_ops.losses._numeric import full


class RingLoss(nn.Module):
    """Mean over the batch of (|f_i| - R)^2 with a learnt radius R.

    Zheng et al., "Ring loss: convex feature normalization for face recognition", CVPR 2018, equation 1, without its
    factor 1/2 and without a weight, as in early deep-person-reid. A row of zeros gets no gradient.

    Args:
        radius: the initial R, at least 0 (the source's 1).

    State: ``radius`` (1,) float32.

    Raises:
        TypeError: radius no number.
        ValueError: radius negative or not finite.
    """

    def __init__(self, radius: float = 1.0) -> None:
        super().__init__()
        self.radius = nn.Parameter(torch.tensor([check.number("RingLoss", "radius", radius, at_least=0)]))

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, D) floating -> 0-d tensor, at least float32.

        Raises:
            TypeError: features not floating.
            ValueError: a shape that does not fit.
        """
        check.rows("RingLoss", "features", features)
        check.same_device("RingLoss", "features", features, "the radius", self.radius)
        norm = torch.linalg.vector_norm(full(features), dim=1)
        return (norm - full(self.radius)).square().mean()
