# SPDX-License-Identifier: Apache-2.0
"""Part-based convolutional baseline (Sun et al., "Beyond part models", ECCV 2018), in the form and with the names of
deep-person-reid (torchreid, MIT). 24.0 M parameters without the classifiers."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from fastreid_ops.models.backbones.resnet import RESNET50, ResNet, conv1x1
from fastreid_ops.models.initialise import initialise
from fastreid_ops.models.output import TrainOutput


class _Reduction(nn.Module):
    """1x1 convolution, batch normalisation, ReLU, under the names of the published weights."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            conv1x1(in_channels, out_channels), nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class PCB(ResNet):
    """ResNet-50 without the last down-sampling, its map cut into horizontal stripes with a classifier each.

    Evaluation: (B, 3, H, W) -> (B, 2048 * parts): the mean of every stripe, divided by its own L2 norm, channel by
    channel (entry ``channel * parts + stripe``), so the norm of the feature is sqrt(parts). The reduction and the
    classifiers are not used.

    Training: ``logits`` one head a stripe; ``features`` one, that of the evaluation after dropout; ``parts`` the
    reduced vectors (B, reduced_dim) that the classifiers see. Dropout of 0.5 comes before the reduction.

    The map of a 256 x 128 image has 16 rows, so 6 stripes overlap; the paper's 384 x 128 gives 24.

    Args:
        num_classes: number of training identities.
        parts: number of stripes, at least 1.
        reduced_dim: width of a stripe's vector before its classifier.
        dropout: probability.

    Raises:
        ValueError: parts below 1.
    """

    def __init__(self, num_classes: int, *, parts: int, reduced_dim: int = 256, dropout: float = 0.5) -> None:
        if parts < 1:
            raise ValueError(f"PCB: parts: got {parts!r}, expected at least 1")
        super().__init__(RESNET50, last_stride=1)
        self.parts = parts
        self.feature_dim = self.out_channels * parts
        self.parts_avgpool = nn.AdaptiveAvgPool2d((parts, 1))
        self.dropout = nn.Dropout(dropout)
        self.conv5 = _Reduction(self.out_channels, reduced_dim)
        self.classifier = nn.ModuleList(nn.Linear(reduced_dim, num_classes) for _ in range(parts))
        initialise(self.conv5)
        initialise(self.classifier)

    def forward(self, images: Tensor) -> Tensor | TrainOutput:
        stripes = self.parts_avgpool(self.feature_map(images))
        if not self.training:
            return F.normalize(stripes, dim=1).flatten(1)
        stripes = self.dropout(stripes)
        reduced = self.conv5(stripes).squeeze(3).unbind(2)
        logits = tuple(head(part) for head, part in zip(self.classifier, reduced, strict=True))
        return TrainOutput(logits, (F.normalize(stripes, dim=1).flatten(1),), reduced)


def pcb_p6(num_classes: int, *, reduced_dim: int = 256, dropout: float = 0.5) -> PCB:
    """PCB with 6 stripes, feature of 12288."""
    return PCB(num_classes, parts=6, reduced_dim=reduced_dim, dropout=dropout)


def pcb_p4(num_classes: int, *, reduced_dim: int = 256, dropout: float = 0.5) -> PCB:
    """PCB with 4 stripes, feature of 8192."""
    return PCB(num_classes, parts=4, reduced_dim=reduced_dim, dropout=dropout)
