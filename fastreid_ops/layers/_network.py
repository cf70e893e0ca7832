# SPDX-License-Identifier: Apache-2.0
"""What the attention layers share: checks of their arguments, and the small networks as the matrices that
`channel_attention` takes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastreid_ops.ops import _checks as check

Maps = Tensor | Sequence[Tensor]


def first_map(layer: str, x: Maps, channels: int | None = None) -> Tensor:
    """The map, or the first of a sequence, which the ops compare the others with."""
    one = x[0] if isinstance(x, (list, tuple)) and x else x
    one = check.tensor(layer, "x", one)
    check.rank(layer, "x", one, 4, "(B, C, H, W)")
    if channels is not None:
        check.size(layer, "x", one, 1, channels, "the channels the layer was made for")
    return one


def hidden_width(layer: str, channels: object, reduction: object) -> int:
    """``channels // reduction``, as every original rounds it."""
    check.positive_int(layer, "channels", channels)
    check.positive_int(layer, "reduction", reduction)
    if channels < reduction:
        raise ValueError(check.message(layer, "channels", channels, f"at least the reduction, {reduction}"))
    return channels // reduction


def batch_for_statistics(layer: str, x: Tensor) -> None:
    """Refuse one sample where a batch normalisation sees one value a sample and channel."""
    if x.shape[0] < 2:
        expected = "at least 2 samples while training, its batch normalisation sees one value each"
        raise ValueError(check.message(layer, "x", f"batch {x.shape[0]}", expected))


def wide(value: Tensor) -> Tensor:
    """In float32 at least: float64 stays."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


def matrix(layer: nn.Linear | nn.Conv2d) -> Tensor:
    """The weight (out, in) of a linear layer or a 1x1 convolution."""
    return layer.weight.flatten(1)


def folded(layer: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight (out, in) and bias (out,) of a 1x1 convolution and the batch normalisation with running statistics after
    it, as differentiable functions of the parameters of both."""
    scale = wide(norm.weight) * torch.rsqrt(wide(norm.running_var) + norm.eps)
    shift = wide(norm.bias) - wide(norm.running_mean) * scale
    bias = shift if layer.bias is None else shift + wide(layer.bias) * scale
    return wide(matrix(layer)) * scale[:, None], bias
