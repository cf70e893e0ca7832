# SPDX-License-Identifier: Apache-2.0
"""Generalised-mean pooling (Radenovic et al., "Fine-tuning CNN image retrieval", TPAMI 2019)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fastreid_ops.layers._network import wide
from fastreid_ops.ops import _checks as check


class GeM(nn.Module):
    """(mean over positions of max(x, eps)^p)^(1/p): p = 1 is average pooling, p towards infinity maximum pooling.

    (B, C, H, W) -> (B, C), in the dtype of x. Each channel is divided by its largest value before the power and
    multiplied by it afterwards, which changes nothing in exact arithmetic and keeps large maps, and large p, from
    overflowing; powers are taken in float32 at least, under autocast too.

    Args:
        p: the power, above 0.
        learnable: p is a parameter of one element, ``p``; otherwise a number that no checkpoint holds. The sources use
            both (NAIC_ReID freezes it, the cloth-changing network learns it).
        eps: floor of x, above 0.

    Raises:
        ValueError: p or eps not above 0 or not finite; x not of four dimensions, or without positions.
    """

    def __init__(self, p: float = 3.0, *, learnable: bool = False, eps: float = 1e-6) -> None:
        super().__init__()
        check.flag("GeM", "learnable", learnable)
        for name, value in (("p", p), ("eps", eps)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(check.message("GeM", name, value, "a finite number above 0"))
        self.p: nn.Parameter | float = nn.Parameter(torch.full((1,), float(p))) if learnable else float(p)
        self.eps = float(eps)

    def extra_repr(self) -> str:
        p = self.p.item() if isinstance(self.p, Tensor) and not self.p.is_meta else self.p
        return f"p={p}, learnable={isinstance(self.p, Tensor)}, eps={self.eps}"

    def forward(self, x: Tensor) -> Tensor:
        check.tensor("GeM", "x", x)
        check.rank("GeM", "x", x, 4, "(B, C, H, W)")
        for dim in (2, 3):
            check.not_empty("GeM", "x", x, dim, "a mean needs positions")
        with torch.autocast(x.device.type, enabled=False):
            values = wide(x).clamp(min=self.eps)
            # The function is homogeneous in x: a factor may come out as a constant, gradients stay exact.
            largest = values.detach().amax((2, 3), keepdim=True)
            p = wide(self.p) if isinstance(self.p, Tensor) else self.p
            powers = (values / largest).pow(p).mean((2, 3))
            return (powers.pow(1.0 / p) * largest.flatten(1)).to(x.dtype)
