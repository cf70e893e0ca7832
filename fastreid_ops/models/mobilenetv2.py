# SPDX-License-Identifier: Apache-2.0
"""MobileNetV2 (Sandler et al., CVPR 2018) as a re-identification classifier, in the form and with the names of
deep-person-reid (torchreid, MIT). Parameters without the classifier: 2.22 M (x1.0), 4.29 M (x1.4).

Differs from the paper, torchvision and timm: the first block has an expansion although its factor is 1, and widths are
rounded down to an integer, not to a multiple of 8. Without that expansion (``first_expansion=False``) x1.0 is
torchvision's network, whose ImageNet weights then fit.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from fastreid_ops.layers.conv import ConvNorm
from fastreid_ops.models.backbones.resnet import conv1x1
from fastreid_ops.models.classifier import FeatureClassifier
from fastreid_ops.models.initialise import initialise

# Of each stage, conv2 to conv8: expansion, channels, blocks, stride of its first block.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)

_conv = partial(ConvNorm, activation=partial(nn.ReLU6, inplace=True))


class InvertedResidual(nn.Module):
    """1x1 expansion (an identity where ``expansion`` is 0), depthwise 3x3, linear 1x1, with a shortcut where the shapes
    allow it.

    (B, in_channels, H, W) -> (B, out_channels, H / stride, W / stride).
    """

    def __init__(self, in_channels: int, out_channels: int, expansion: int, stride: int) -> None:
        super().__init__()
        middle = in_channels * max(expansion, 1)
        self.shortcut = stride == 1 and in_channels == out_channels
        self.conv1 = _conv(in_channels, middle) if expansion else nn.Identity()
        self.dwconv2 = _conv(middle, middle, 3, stride=stride, padding=1, groups=middle)
        self.conv3 = nn.Sequential(conv1x1(middle, out_channels), nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv3(self.dwconv2(self.conv1(x)))
        return x + y if self.shortcut else y


class MobileNetV2(FeatureClassifier):
    """MobileNetV2, global average pooling, a linear classifier.

    Evaluation: (B, 3, H, W) -> (B, 1280, or more for widths above 1), not normalised, in [0, 6]. Training: one head of
    logits and the same feature.

    Args:
        width: factor of all widths.
        num_classes: number of training identities.
        dropout: probability, applied in training to the feature that the classifier and the metric loss see. 0 is
            deep-person-reid since 2019; its first versions had 0.5.
        first_expansion: False leaves out the 1x1 convolution in front of the first depthwise one, as the paper and
            torchvision do.
    """

    def __init__(
        self, width: float, num_classes: int, *, dropout: float = 0.0, first_expansion: bool = True
    ) -> None:
        super().__init__()
        channels = int(32 * width)
        self.conv1 = _conv(3, channels, 3, stride=2, padding=1)
        for number, (expansion, base, blocks, stride) in enumerate(STAGES, start=2):
            expansion = 0 if number == 2 and not first_expansion else expansion
            out = int(base * width)
            layer = []
            for index in range(blocks):
                layer.append(InvertedResidual(channels, out, expansion, stride if index == 0 else 1))
                channels = out
            self.add_module(f"conv{number}", nn.Sequential(*layer))
        self.feature_dim = int(1280 * max(width, 1))
        self.conv9 = _conv(channels, self.feature_dim)
        self.global_avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(self.feature_dim, num_classes)
        initialise(self)

    def embed(self, images: Tensor) -> Tensor:
        x = self.conv4(self.conv3(self.conv2(self.conv1(images))))
        x = self.conv9(self.conv8(self.conv7(self.conv6(self.conv5(x)))))
        return self.dropout(self.global_avgpool(x).flatten(1))


def mobilenetv2_x1_0(num_classes: int, *, dropout: float = 0.0, first_expansion: bool = True) -> MobileNetV2:
    """MobileNetV2 at full width, feature of 1280; ``dropout`` 0.5 is that of deep-person-reid's first versions,
    ``first_expansion`` False the network of torchvision."""
    return MobileNetV2(1.0, num_classes, dropout=dropout, first_expansion=first_expansion)


def mobilenetv2_x1_4(num_classes: int, *, dropout: float = 0.0, first_expansion: bool = True) -> MobileNetV2:
    """MobileNetV2 at width 1.4, feature of 1792; ``dropout`` 0.5 is that of deep-person-reid's first versions."""
    return MobileNetV2(1.4, num_classes, dropout=dropout, first_expansion=first_expansion)
