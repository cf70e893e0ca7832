# SPDX-License-Identifier: Apache-2.0
"""Fully connected layers between a pooled vector and a feature."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


def fully_connected(
    in_features: int, widths: Sequence[int], *, dropout: float | None = None, inplace: bool = True
) -> nn.Sequential:
    """(B, in_features) -> (B, widths[-1]): for each width a linear layer, batch normalisation, ReLU and dropout.

    ``dropout`` None leaves the dropout layers out, so the second linear layer is number 3 without and 4 with them, as
    in the weight files of deep-person-reid.
    """
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Linear(in_features, width), nn.BatchNorm1d(width), nn.ReLU(inplace=inplace)]
        if dropout is not None:
            layers.append(nn.Dropout(dropout))
        in_features = width
    return nn.Sequential(*layers)
