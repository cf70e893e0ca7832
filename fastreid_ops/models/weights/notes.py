# SPDX-License-Identifier: Apache-2.0
"""What to know about certain weights in certain models: where equal numbers give other features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from fastreid_ops.models.weights.keymap import KeyMap
from fastreid_ops.models.weights.sources import (
    DENSENET_V0,
    EFFICIENTNET_TIMM,
    FASTREID,
    MOBILENETV2_TORCHVISION,
)


def notes(model: nn.Module, source: KeyMap, file: Mapping[str, Tensor]) -> Iterator[str]:
    """Sentences for the report on the weights ``file`` of another project, whose names the table ``source`` knows."""
    kind = type(model).__name__
    if kind == "HACNN" and not model.align_corners and model.learn_region:
        yield (
            "the published HACNN weights were trained where regions are cut out with align_corners=True; this model "
            "has False, which moves the local half of the feature by some 5 %. Create it with align_corners=True for "
            "them"
        )
    if source is DENSENET_V0 and _has_final_relu(model):
        yield (
            "torchreid's densenets of 2018 had no ReLU before the pooling; create the model with final_relu=False for "
            "the features that these weights were trained for"
        )
    pools = [part for part in model.modules() if isinstance(part, nn.MaxPool2d)]
    if source is FASTREID and _pools_without_padding(file) and any(not pool.ceil_mode for pool in pools):
        yield (
            "fast-reid's ResNet pools without padding (ceil_mode=True), this model with a padding of 1: the windows "
            "lie one pixel apart and features differ. resnet50_bnneck has ceil_pool=True for such weights"
        )
    if source is FASTREID and "backbone.conv1.0.weight" in file and _last_stride_is_1(model):
        yield (
            "fast-reid's ResNeSt with LAST_STRIDE 1 dilates the convolutions of its fourth stage, this model does not; "
            "features are equal with last_stride=2 only"
        )
    if kind == "NAICNet" and _is_naic_resnet50(model, file):
        yield (
            "NAIC_ReID's own resnet50 has no ReLU after its first normalisation and pools 2 x 2; create naic_resnet50 "
            "with legacy_stem=True if these weights are of it"
        )
    if source is EFFICIENTNET_TIMM:
        yield (
            "this EfficientNet pads as TensorFlow does and adds 1e-3 to variances, as timm's tf_efficientnet_b0; "
            "weights of timm's efficientnet_b0 were trained with other padding and 1e-5, and its features differ"
        )
    if kind == "MobileNetV2" and source is MOBILENETV2_TORCHVISION and _has_first_expansion(model):
        yield (
            "torchvision's mobilenet_v2 has no expansion in its first block, which this model has and which keeps its "
            "random values; create the model with first_expansion=False for the features of these weights"
        )


def _has_first_expansion(model: nn.Module) -> bool:
    return not isinstance(model.conv2[0].conv1, nn.Identity)


def _has_final_relu(model: nn.Module) -> bool:
    norm = getattr(getattr(model, "features", None), "norm5", None)
    return isinstance(getattr(norm, "act", None), nn.ReLU)


def _pools_without_padding(file: Mapping[str, Tensor]) -> bool:
    """Of fast-reid's networks only ResNet does. ResNeSt's stem has three convolutions, ResNeXt's 3 x 3 are grouped."""
    if "backbone.conv1.weight" not in file:
        return False
    middle = file.get("backbone.layer1.0.conv2.weight")
    return middle is not None and middle.shape[0] == middle.shape[1]


def _last_stride_is_1(model: nn.Module) -> bool:
    """Of a ResNeSt; the stride is that of the mean after the attention."""
    pools = [part for name, part in model.named_modules() if name.endswith("layer4.0.conv2.avd_layer")]
    return any(pool.stride == 1 for pool in pools)


def _is_naic_resnet50(model: nn.Module, file: Mapping[str, Tensor]) -> bool:
    """Without the ImageNet classifier that its other backbones keep, and not made with the original's stem."""
    bare = "base.conv1.weight" in file and "bottleneck.weight" in file and "base.fc.weight" not in file
    return bare and not hasattr(model.base, "fc") and isinstance(getattr(model.base, "relu", None), nn.ReLU)
