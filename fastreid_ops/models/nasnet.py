# SPDX-License-Identifier: Apache-2.0
"""NASNet-A mobile (Zoph et al., CVPR 2018) as a re-identification classifier, names as in deep-person-reid (torchreid,
MIT). 4.23 M parameters without the classifier."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastreid_ops.models.backbones.nasnet import NormalCell, ReductionCell, StemCell, norm
from fastreid_ops.models.classifier import FeatureClassifier
from fastreid_ops.models.initialise import initialise

FILTERS = 44
# Groups of four normal cells, with a reduction cell before the second and the third: numbers of the cells in the
# published weights, and the factor of the width.
GROUPS = (((0, 1, 2, 3), 1), ((6, 7, 8, 9), 2), ((12, 13, 14, 15), 4))


class NASNetAMobile(FeatureClassifier):
    """NASNet-A with 4 cells a group and 1056 channels at the end.

    Evaluation: (B, 3, H, W) -> (B, 1056), not normalised and non-negative. Training: one head of logits and the same
    feature, both after dropout. H and W from 64 x 32 up; multiples of 32 are what the weights were trained for.

    Args:
        num_classes: number of training identities.
        dropout: probability, 0.5 in the original.
    """

    def __init__(self, num_classes: int, *, dropout: float = 0.5) -> None:
        super().__init__()
        self.conv0 = nn.Sequential()
        self.conv0.add_module("conv", nn.Conv2d(3, 32, 3, 2, bias=False))
        self.conv0.add_module("bn", norm(32))
        self.cell_stem_0 = StemCell(32, FILTERS // 4)
        self.cell_stem_1 = ReductionCell(FILTERS, 32, FILTERS // 2, halve=True)
        self.cells: list[str] = []
        previous, channels = FILTERS, 2 * FILTERS
        for group, (numbers, factor) in enumerate(GROUPS):
            width = factor * FILTERS
            if group > 0:
                self._add(f"reduction_cell_{group - 1}", ReductionCell(channels, previous, width))
                previous, channels = channels, 4 * width
            for number in numbers:
                halve = number == numbers[0]
                self._add(f"cell_{number}", NormalCell(channels, previous, width, halve=halve))
                previous, channels = channels, 6 * width
        self.feature_dim = channels
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, num_classes)
        initialise(self)

    def _add(self, name: str, cell: nn.Module) -> None:
        self.cells.append(name)
        self.add_module(name, cell)

    def embed(self, images: Tensor) -> Tensor:
        stem = self.conv0(images)
        previous = self.cell_stem_0(stem)
        x = self.cell_stem_1(previous, stem)
        for name in self.cells:
            x, previous = getattr(self, name)(x, previous), x
        return self.dropout(torch.relu(x).mean((2, 3)))


def nasnsetmobile(num_classes: int, *, dropout: float = 0.5) -> NASNetAMobile:
    """NASNet-A mobile, feature of 1056. The name is spelt as in deep-person-reid."""
    return NASNetAMobile(num_classes, dropout=dropout)
