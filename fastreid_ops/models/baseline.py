# SPDX-License-Identifier: Apache-2.0
"""The strong baseline: ResNet-50 with a batch-normalisation neck.

Luo et al., "Bag of tricks and a strong baseline for deep person re-identification", CVPR Workshops 2019.
"""

from __future__ import annotations

from torch import Tensor, nn

from fastreid_ops.models.backbones.resnet import RESNET50, ResNet
from fastreid_ops.models.output import TrainOutput

NECK_FEATURES = ("after", "before")


class BNNeckBaseline(nn.Module):
    """Backbone, global average pooling, batch normalisation (the neck), classifier without bias.

    Training: the feature for the metric loss is taken before the neck, where Euclidean distances are free to form
    clusters; the logits come after it, where the features lie around a hypersphere and a hyperplane through the
    origin separates them. For the same reason the neck's bias stays at zero (frozen) and the classifier has none.

    Evaluation: (B, 3, H, W) -> (B, ``feature_dim``), not normalised, taken after or before the neck.

    Args:
        backbone: module (B, 3, H, W) -> (B, C, h, w) with the attribute ``out_channels`` = C.
        num_classes: number of training identities.
        neck_feature: ``"after"`` or ``"before"``, where the evaluation feature is taken.

    Raises:
        ValueError: neck_feature of any other value.
    """

    def __init__(self, backbone: nn.Module, num_classes: int, *, neck_feature: str = "after") -> None:
        super().__init__()
        if neck_feature not in NECK_FEATURES:
            raise ValueError(
                f"BNNeckBaseline: neck_feature: got {neck_feature!r}, expected 'after' or 'before'"
            )
        self.neck_feature = neck_feature
        self.backbone = backbone
        self.feature_dim = int(backbone.out_channels)
        self.global_avgpool = nn.AdaptiveAvgPool2d(1)
        self.bottleneck = nn.BatchNorm1d(self.feature_dim)
        self.bottleneck.bias.requires_grad_(False)
        self.classifier = nn.Linear(self.feature_dim, num_classes, bias=False)
        nn.init.normal_(self.classifier.weight, 0.0, 0.001)

    def forward(self, images: Tensor) -> Tensor | TrainOutput:
        before = self.global_avgpool(self.backbone(images)).flatten(1)
        if not self.training:
            return self.bottleneck(before) if self.neck_feature == "after" else before
        return TrainOutput((self.classifier(self.bottleneck(before)),), (before,))


def resnet50_bnneck(
    num_classes: int, *, neck_feature: str = "after", last_stride: int = 1, ceil_pool: bool = False
) -> BNNeckBaseline:
    """ResNet-50 with last stride 1 and a BNNeck, feature of 2048. ``ceil_pool=True`` is fast-reid's stem: its pooling
    has no padding and rounds up, so its windows lie one pixel further; weights trained there want it."""
    backbone = ResNet(RESNET50, last_stride=last_stride)
    if ceil_pool:
        backbone.maxpool = nn.MaxPool2d(3, 2, ceil_mode=True)
    return BNNeckBaseline(backbone, num_classes, neck_feature=neck_feature)
