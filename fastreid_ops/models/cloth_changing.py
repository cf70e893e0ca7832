# SPDX-License-Identifier: Apache-2.0
"""The cloth-changing network of HuangYin0514/cloth_changing_person_ReID: a ResNet-50 with a multi-scale block, and a
training that finds the clothes in the map, takes them out and lets what is left teach the whole.

Names of parameters are those of the original's training code; the source at hand does not show the attribute that
holds the multi-scale block, ours is ``multi_scale``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from fastreid_ops.layers.channel_attention import ChannelAttention
from fastreid_ops.layers.conv import ConvNorm
from fastreid_ops.layers.gem import GeM
from fastreid_ops.layers.position_attention import PositionAttention
from fastreid_ops.models.backbones.resnet import RESNET50, ResNet, close_residuals, plain_plan
from fastreid_ops.models.classifier import as_fixed
from fastreid_ops.models.osnet import LightConv3x3
from fastreid_ops.models.output import TrainOutput
from fastreid_ops.models.resnet_ibn import ibn_a_plan

BACKBONES = {"resnet50": plain_plan, "resnet50_ibn_a": ibn_a_plan}
POOLS = ("gem", "avg")
CHANNELS = 2048


class MultiScaleBlock(nn.Module):
    """OSNet's block with three streams instead of four, fused by one `ChannelAttention`: receptive fields of 3, 5 and 7
    pixels. (B, channels, H, W) -> the same.

    Args:
        channels: a multiple of 4.
        gate: variant of the attention, 196 to 203; 196 is what the code holds and the best of the eight in the runs'
            Rank-1. In training 202 and 203 need two images and update their statistics once a stream. 0 is no
            attention: the streams are added as they are.
    """

    def __init__(self, channels: int, *, gate: int = 196) -> None:
        super().__init__()
        middle = channels // 4
        self.conv1 = ConvNorm(channels, middle)
        self.conv2a = LightConv3x3(middle, middle)
        self.conv2b = nn.Sequential(*(LightConv3x3(middle, middle) for _ in range(2)))
        self.conv2c = nn.Sequential(*(LightConv3x3(middle, middle) for _ in range(3)))
        self.gate = ChannelAttention(middle, gate) if gate != 0 else None
        self.conv3 = ConvNorm(middle, channels, activation=False)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv1(x)
        streams = [stream(inner) for stream in (self.conv2a, self.conv2b, self.conv2c)]
        fused = sum(streams) if self.gate is None else self.gate(streams)
        return torch.relu(self.conv3(fused) + x)


class _Backbone(nn.Module):
    """The residual network under the original's names: the stem is ``layer0``."""

    def __init__(self, name: str, last_stride: int) -> None:
        super().__init__()
        network = ResNet(RESNET50, last_stride=last_stride, plan=BACKBONES[name])
        self.layer0 = nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool)
        self.layer1, self.layer2 = network.layer1, network.layer2
        self.layer3, self.layer4 = network.layer3, network.layer4

    def forward(self, images: Tensor) -> Tensor:
        return self.layer4(self.layer3(self.layer2(self.layer1(self.layer0(images)))))


class _Neck(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn_neck = nn.BatchNorm1d(channels)
        self.bn_neck.bias.requires_grad_(False)

    def forward(self, feature: Tensor) -> Tensor:
        return self.bn_neck(feature)


class _Linear(nn.Module):
    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(channels, num_classes, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.001)

    def forward(self, feature: Tensor) -> Tensor:
        return self.classifier(feature)


class _Correction(nn.Module):
    def __init__(self, project_value: bool) -> None:
        super().__init__()
        self.pa = PositionAttention(CHANNELS, project_value=project_value)

    def forward(self, features: Tensor, clothes: Tensor) -> Tensor:
        return self.pa(features, clothes)


class ClothesClassifier(nn.Module):
    """Mean, neck, linear layer: (B, 2048, H, W) -> logits (B, num_clothes). Trained by an optimiser of its own on maps
    without gradient; ``weight`` (num_clothes, 2048) is what finds clothes in a map."""

    def __init__(self, num_clothes: int, channels: int = CHANNELS) -> None:
        super().__init__()
        self.global_bn_neck = _Neck(channels)
        self.global_classifier = _Linear(channels, num_clothes)

    @property
    def weight(self) -> Tensor:
        return self.global_classifier.classifier.weight

    def forward(self, features: Tensor) -> Tensor:
        return self.global_classifier(self.global_bn_neck(features.mean((2, 3))))


def clothes_heat(features: Tensor, weight: Tensor, clothes: Tensor, *, eps: float = 1e-6) -> Tensor:
    """How much each position speaks for the image's clothes (class activation map, Zhou et al., CVPR 2016).

    features (B, C, H, W), weight (K, C), clothes (B,) int64 -> (B, H, W) in [0, 1], without gradient: the product of
    each position with the row of the image's clothes, shifted and scaled by its smallest and largest value in the
    image, with ``eps`` added to their difference.
    """
    with torch.no_grad():
        heat = (weight[clothes].to(features.dtype)[:, None] @ features.flatten(2)).squeeze(1)
        low, high = heat.amin(1, keepdim=True), heat.amax(1, keepdim=True)
        return ((heat - low) / (high - low + eps)).unflatten(1, features.shape[2:])


class ClothChangingNet(nn.Module):
    """Backbone, multi-scale block, global branch; in training also the branch without clothes.

    Evaluation: (B, 3, H, W) -> (B, 2048), the global branch behind its neck, not normalised. Nothing of the clothes
    takes part: 27,254,369 parameters of 32,503,907 + 4,096 a training identity.

    Training, ``model(images, clothes)`` with clothes (B,) int64: with F the map and C the clothes classifier,
    F_c = F * heat(F, C, clothes), F_c' = position attention of F on F_c, F_u = relu(F - F_c').

    * ``logits``: (global, without clothes); ``features``: the pooled features of both before their necks, for a
      metric loss. Knowledge propagation takes the two logits, the branch without clothes as the teacher
      (`losses.distillation.KnowledgeDistillationLoss`; its ``detach_teacher`` decides whether the teacher learns from
      it, as in the original).
    * ``auxiliary["feature_map"]``: F; ``"clothes_logits"``: C(F) without a gradient into F, for C itself;
      ``"correction_logits"``: C(F_c'), for the cross entropy over the clothes (the original smooths those labels with
      the number of identities).

    The original keeps C outside the network and steps C's own optimiser before it locates the clothes. For that order
    give ``classifier``, which then gets no gradient from here, and ``before_locating``, a function of F without its
    gradient in which C is trained; ``num_clothes`` is 0 and ``"clothes_logits"`` are left out.

    Without clothes labels, or with ``num_clothes=0``, nothing is located: F_c = 0, the second branch sees all of F, and
    of the auxiliary tensors only the map is there. The source does not fix what to do without labels.

    Args:
        backbone: ``"resnet50"`` or ``"resnet50_ibn_a"``.
        num_classes: number of training identities.
        num_clothes: number of clothes; 0 for no clothes classifier. The original keeps it outside the network, so its
            parameters (4,096 + 2,048 a piece) are not in the count above.
        gate: variant of the multi-scale block's attention, 196 to 203; 0 for none.
        multi_scale: False leaves the block out (runs 211, 212, 214 and 215).
        pool: ``"gem"``, generalised mean with a learned power, or ``"avg"`` (run 215).
        clothes_branch: False leaves the branch without clothes and the correction out (the baselines).
        correction: False takes F_c as it is (run 209).
        project_value: use the attention's ``value_conv``, see `layers.position_attention`.
        last_stride: stride of the backbone's fourth stage, 1 or 2.
        zero_init_residual: the last normalisation of every residual block, the multi-scale one among them, starts at 0,
            so that the blocks start as nothing; see `close_residuals`.

    Raises:
        ValueError: an argument out of its range.
    """

    feature_dim = CHANNELS

    def __init__(
        self,
        backbone: str,
        num_classes: int,
        *,
        num_clothes: int = 0,
        gate: int = 196,
        multi_scale: bool = True,
        pool: str = "gem",
        clothes_branch: bool = True,
        correction: bool = True,
        project_value: bool = False,
        last_stride: int = 1,
        zero_init_residual: bool = False,
    ) -> None:
        super().__init__()
        for argument, value, choices in (("backbone", backbone, tuple(BACKBONES)), ("pool", pool, POOLS)):
            if value not in choices:
                expected = ", ".join(map(repr, choices))
                raise ValueError(f"ClothChangingNet: {argument}: got {value!r}, expected one of {expected}")
        if num_clothes < 0 or (num_clothes and not clothes_branch):
            expected = "at least 0" if num_clothes < 0 else "0 without the branch that uses them"
            raise ValueError(f"ClothChangingNet: num_clothes: got {num_clothes}, expected {expected}")

        def pooling() -> nn.Module:
            return GeM(3.0, learnable=True) if pool == "gem" else nn.AdaptiveAvgPool2d(1)

        self.backbone = _Backbone(backbone, last_stride)
        self.multi_scale = MultiScaleBlock(CHANNELS, gate=gate) if multi_scale else None
        self.global_pool = pooling()
        self.global_bn_neck = _Neck(CHANNELS)
        self.global_classifier = _Linear(CHANNELS, num_classes)
        self.clothes_branch = clothes_branch
        self.clothe_correction = _Correction(project_value) if clothes_branch and correction else None
        if clothes_branch:
            self.unclothe_pool = pooling()
            self.unclothe_bn_neck = _Neck(CHANNELS)
            self.unclothe_classifier = _Linear(CHANNELS, num_classes)
        self.clothes_classifier = ClothesClassifier(num_clothes) if num_clothes else None
        if zero_init_residual:
            close_residuals(self.backbone)
            if self.multi_scale is not None:
                nn.init.zeros_(self.multi_scale.conv3.bn.weight)

    def encode(self, images: Tensor) -> Tensor:
        """Images -> F (B, 2048, h, w), not negative."""
        x = self.backbone(images)
        return x if self.multi_scale is None else self.multi_scale(x)

    def finish(
        self, features: Tensor, clothes: Tensor | None = None, classifier: ClothesClassifier | None = None
    ) -> TrainOutput:
        """F, and the clothes of each image or none -> what training returns; ``classifier`` is one from outside.

        Raises:
            ValueError: clothes given where there is no clothes classifier.
        """
        if clothes is not None and classifier is None and self.clothes_classifier is None:
            raise ValueError("ClothChangingNet: clothes: got labels, expected none with num_clothes=0")
        feature = self.global_pool(features).flatten(1)
        logits = self.global_classifier(self.global_bn_neck(feature))
        auxiliary = {"feature_map": features}
        if not self.clothes_branch:
            return TrainOutput((logits,), (feature,), (), auxiliary)
        if clothes is None:
            worn = torch.zeros_like(features)
        else:
            if classifier is None:
                auxiliary["clothes_logits"] = self.clothes_classifier(features.detach())
            weight = (classifier or self.clothes_classifier).weight
            worn = features * clothes_heat(features, weight, clothes)[:, None]
        if self.clothe_correction is not None:
            worn = self.clothe_correction(features, worn)
        if clothes is not None:
            auxiliary["correction_logits"] = (
                self.clothes_classifier(worn) if classifier is None else as_fixed(classifier, worn)
            )
        second = self.unclothe_pool(torch.relu(features - worn)).flatten(1)
        second_logits = self.unclothe_classifier(self.unclothe_bn_neck(second))
        return TrainOutput((logits, second_logits), (feature, second), (), auxiliary)

    def forward(
        self,
        images: Tensor,
        clothes: Tensor | None = None,
        classifier: ClothesClassifier | None = None,
        before_locating: Callable[[Tensor], None] | None = None,
    ) -> Tensor | TrainOutput:
        features = self.encode(images)
        if self.training:
            if before_locating is not None:
                before_locating(features.detach())
            return self.finish(features, clothes, classifier)
        return self.global_bn_neck(self.global_pool(features).flatten(1))


cc_resnet50 = partial(ClothChangingNet, "resnet50")
cc_resnet50_ibn_a = partial(ClothChangingNet, "resnet50_ibn_a")
