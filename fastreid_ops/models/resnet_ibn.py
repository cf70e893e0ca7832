# SPDX-License-Identifier: Apache-2.0
"""ResNet-50 with instance normalisation (Pan et al., "Two at once: enhancing learning and generalization capacities via
IBN-Net", ECCV 2018), names as in deep-person-reid (torchreid, MIT). 23.5 M parameters without the classifier."""

from __future__ import annotations

from fastreid_ops.layers.ibn import IBN, instance_norm
from fastreid_ops.models.backbones.resnet import RESNET50, BlockPlan
from fastreid_ops.models.resnet import ResNetClassifier


def ibn_a_plan(stage: int, index: int, blocks: int) -> BlockPlan:
    """IBN-a: the first normalisation of every block of stages 1 to 3 is half instance, half batch normalisation."""
    return BlockPlan(norm1=IBN) if stage < 4 else BlockPlan()


def ibn_b_plan(stage: int, index: int, blocks: int) -> BlockPlan:
    """IBN-b: the sum of the last block of stages 1 and 2 is instance-normalised before its ReLU."""
    if stage < 3 and index == blocks - 1:
        return BlockPlan(norm_out=("IN", instance_norm))
    return BlockPlan()


def _default_classifier(model: ResNetClassifier) -> ResNetClassifier:
    # The originals leave the classifier at torch's own initial values here, unlike in their plain ResNet.
    model.classifier.reset_parameters()
    return model


def resnet50_ibn_a(num_classes: int, *, last_stride: int = 2) -> ResNetClassifier:
    """ResNet-50 IBN-a, feature of 2048. Weights of a plain ResNet-50 fit but for ``bn1`` of stages 1 to 3."""
    return _default_classifier(
        ResNetClassifier(RESNET50, num_classes, last_stride=last_stride, plan=ibn_a_plan)
    )


def resnet50_ibn_b(num_classes: int, *, last_stride: int = 2) -> ResNetClassifier:
    """ResNet-50 IBN-b, feature of 2048: instance normalisation in the stem and after stages 1 and 2."""
    return _default_classifier(
        ResNetClassifier(
            RESNET50,
            num_classes,
            last_stride=last_stride,
            plan=ibn_b_plan,
            stem_norm=instance_norm,
        )
    )
