# SPDX-License-Identifier: Apache-2.0
"""Position embeddings of vision transformers for images of another size."""

from __future__ import annotations

import math

from torch import Tensor, nn

from fastreid_ops.layers.transformer import resize_positions

Grid = tuple[int, int]


def _grid(count: int, like: Grid) -> Grid | None:
    """Rows and columns of ``count`` patches: a square, as in every ImageNet weight, or the proportions of ``like``."""
    if count < 1:
        return None
    side = math.isqrt(count)
    if side * side == count:
        return side, side
    common = math.gcd(*like)
    rows, columns = like[0] // common, like[1] // common
    scale = math.isqrt(count // (rows * columns))
    return (scale * rows, scale * columns) if scale * scale * rows * columns == count else None


def fit_positions(
    model: nn.Module, name: str, value: Tensor, own: Tensor, *, class_token: bool
) -> tuple[Tensor, Grid, Grid] | None:
    """The file's positions (1, N, D) for the model's entry ``name`` (1, M, D), and both grids; None where it is no
    position embedding, or cannot be made to fit.

    The model's grid is the attribute ``grid`` of the module that holds the entry; that of the file is a square or has
    the same proportions. ``class_token``: the file has one, whose position comes first; a model without drops it.
    Bicubic interpolation, as in timm.
    """
    module, _, leaf = name.rpartition(".")
    grid = getattr(model.get_submodule(module), "grid", None)
    if leaf != "pos_embed" or grid is None or value.dim() != 3 or value.shape[::2] != own.shape[::2]:
        return None
    first, own_first = int(class_token), own.shape[1] - grid[0] * grid[1]
    theirs = _grid(value.shape[1] - first, grid)
    if own_first > first or not value.is_floating_point() or theirs is None:
        return None
    return resize_positions(value[:, first - own_first :], theirs, grid, prefix=own_first), theirs, grid
