# SPDX-License-Identifier: Apache-2.0
"""SqueezeNet (Iandola et al., arXiv:1602.07360) as a re-identification classifier, names as in deep-person-reid
(torchreid, MIT) and, for ``features``, torchvision. Parameters without the classifier: 0.735 M (1.0), 0.722 M (1.1).

`squeezenet_v0` is another network: the one of deep-person-reid's first versions (2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastreid_ops.layers.conv import ConvNorm
from fastreid_ops.layers.fully_connected import fully_connected
from fastreid_ops.models.classifier import FeatureClassifier
from fastreid_ops.models.initialise import initialise
from fastreid_ops.models.output import TrainOutput

# Channels of the squeeze and of each of the two expansions, fire2 to fire9.
FIRES = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))
# Stem channels and kernel, and the fires before which a pooling stands (besides the one after the stem).
VERSIONS = {"1.0": (96, 7, (3, 7)), "1.1": (64, 3, (2, 4))}

_conv = partial(ConvNorm, bias=True)


class Fire(nn.Module):
    """1x1 squeeze, then 1x1 and 3x3 expansions beside each other. (B, C, H, W) -> (B, 2 * expand, H, W)."""

    def __init__(self, in_channels: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(in_channels, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.squeeze(x))
        return torch.relu(torch.cat([self.expand1x1(x), self.expand3x3(x)], 1))


class SqueezeNet(FeatureClassifier):
    """SqueezeNet without its last convolution, global average pooling, perhaps fully connected layers, a classifier.

    Evaluation: (B, 3, H, W) -> (B, 512), not normalised and non-negative. Training: one head of logits and the same
    feature. There is no batch normalisation in ``features``.

    Args:
        version: ``"1.0"`` or ``"1.1"``.
        num_classes: number of training identities.
        widths, dropout: of fully connected layers between pooling and classifier; no widths for none.
    """

    def __init__(
        self,
        version: str,
        num_classes: int,
        *,
        widths: Sequence[int] = (),
        dropout: float | None = None,
    ) -> None:
        super().__init__()
        channels, kernel, pooled = VERSIONS[version]
        self.features = nn.Sequential(
            nn.Conv2d(3, channels, kernel, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, ceil_mode=True)
        )
        for index, (squeeze, expand) in enumerate(FIRES):
            if index in pooled:
                self.features.append(nn.MaxPool2d(3, 2, ceil_mode=True))
            self.features.append(Fire(channels, squeeze, expand))
            channels = 2 * expand
        self.global_avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = fully_connected(channels, widths, dropout=dropout) if widths else None
        self.feature_dim = widths[-1] if widths else channels
        self.classifier = nn.Linear(self.feature_dim, num_classes)
        initialise(self)

    def embed(self, images: Tensor) -> Tensor:
        pooled = self.global_avgpool(self.features(images)).flatten(1)
        return pooled if self.fc is None else self.fc(pooled)


class _Expand(nn.Module):
    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv11 = _conv(in_channels, channels)
        self.conv33 = _conv(in_channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.conv11(x), self.conv33(x)], 1)


class _NormFire(nn.Module):
    def __init__(self, in_channels: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = _conv(in_channels, squeeze)
        self.expand = _Expand(squeeze, expand)

    def forward(self, x: Tensor) -> Tensor:
        return self.expand(self.squeeze(x))


class SqueezeNetV0(nn.Module):
    """SqueezeNet of deep-person-reid's first versions: batch normalisation after every convolution but the last, and
    the shortcuts of the paper's simple bypass around fire3, 5, 7 and 9.

    It has no feature beside its logits: both are the mean over the positions of a ReLU of the last convolution.
    Evaluation: (B, 3, H, W) -> (B, num_classes), so ``feature_dim`` is ``num_classes``. Training: the same as logits
    and feature. A network trained with it ranks by non-negative class scores.

    Args:
        num_classes: number of training identities, and width of the feature.
        bypass: the shortcuts; the original's default.
        dropout: probability before the last convolution.
    """

    def __init__(self, num_classes: int, *, bypass: bool = True, dropout: float = 0.5) -> None:
        super().__init__()
        self.bypass = bypass
        self.feature_dim = num_classes
        self.conv1 = _conv(3, 96, 7, stride=2, padding=2)
        channels = 96
        for number, (squeeze, expand) in enumerate(FIRES, start=2):
            self.add_module(f"fire{number}", _NormFire(channels, squeeze, expand))
            channels = 2 * expand
        self.dropout = nn.Dropout(dropout)
        self.conv10 = nn.Conv2d(channels, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor | TrainOutput:
        x = F.max_pool2d(self.conv1(images), 3, 2)
        for number in range(2, 10):
            if number in (5, 9):
                x = F.max_pool2d(x, 3, 2)
            y = getattr(self, f"fire{number}")(x)
            x = x + y if self.bypass and number % 2 else y
        scores = torch.relu(self.conv10(self.dropout(x))).mean((2, 3))
        return TrainOutput((scores,), (scores,)) if self.training else scores


def squeezenet1_0(num_classes: int) -> SqueezeNet:
    """SqueezeNet 1.0, feature of 512."""
    return SqueezeNet("1.0", num_classes)


def squeezenet1_0_fc512(
    num_classes: int, *, feature_dim: int = 512, dropout: float | None = None
) -> SqueezeNet:
    """SqueezeNet 1.0 with a fully connected layer of ``feature_dim``."""
    return SqueezeNet("1.0", num_classes, widths=(feature_dim,), dropout=dropout)


def squeezenet1_1(num_classes: int) -> SqueezeNet:
    """SqueezeNet 1.1, feature of 512."""
    return SqueezeNet("1.1", num_classes)


def squeezenet_v0(num_classes: int, *, bypass: bool = True, dropout: float = 0.5) -> SqueezeNetV0:
    """SqueezeNet of deep-person-reid's first versions; its feature are its ``num_classes`` scores."""
    return SqueezeNetV0(num_classes, bypass=bypass, dropout=dropout)
