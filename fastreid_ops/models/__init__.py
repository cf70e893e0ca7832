# SPDX-License-Identifier: Apache-2.0
"""Architectures: one visible table from name to factory.

Every factory is called as ``factory(num_classes, **options)`` and returns an ``nn.Module`` that

* takes images (B, 3, H, W), floating, normalised with the mean and deviation it was trained with;
* returns a feature tensor (B, ``feature_dim``) in evaluation mode and a `TrainOutput` in training mode. The
  ``training`` flag of the root module decides; children may be frozen with ``.eval()`` at will;
* has the attribute ``feature_dim``.
"""

from __future__ import annotations

import difflib
import fnmatch
import importlib
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import nn

from fastreid_ops.models.output import TrainOutput

if TYPE_CHECKING:
    from fastreid_ops.models.weights import LoadReport, load_weights, read_weights

MODELS: dict[str, str] = {
    # deep-person-reid: OSNet
    "osnet_x1_0": "fastreid_ops.models.osnet:osnet_x1_0",
    "osnet_x0_75": "fastreid_ops.models.osnet:osnet_x0_75",
    "osnet_x0_5": "fastreid_ops.models.osnet:osnet_x0_5",
    "osnet_x0_25": "fastreid_ops.models.osnet:osnet_x0_25",
    "osnet_ibn_x1_0": "fastreid_ops.models.osnet:osnet_ibn_x1_0",
    "osnet_ain_x1_0": "fastreid_ops.models.osnet_ain:osnet_ain_x1_0",
    "osnet_ain_x0_75": "fastreid_ops.models.osnet_ain:osnet_ain_x0_75",
    "osnet_ain_x0_5": "fastreid_ops.models.osnet_ain:osnet_ain_x0_5",
    "osnet_ain_x0_25": "fastreid_ops.models.osnet_ain:osnet_ain_x0_25",
    # deep-person-reid: written here
    "hacnn": "fastreid_ops.models.hacnn:hacnn",
    "mudeep": "fastreid_ops.models.mudeep:mudeep",
    "mlfn": "fastreid_ops.models.mlfn:mlfn",
    "pcb_p6": "fastreid_ops.models.pcb:pcb_p6",
    "pcb_p4": "fastreid_ops.models.pcb:pcb_p4",
    "shufflenet": "fastreid_ops.models.shufflenet:shufflenet",
    "shufflenet_v2_x0_5": "fastreid_ops.models.shufflenet_v2:shufflenet_v2_x0_5",
    "shufflenet_v2_x1_0": "fastreid_ops.models.shufflenet_v2:shufflenet_v2_x1_0",
    "shufflenet_v2_x1_5": "fastreid_ops.models.shufflenet_v2:shufflenet_v2_x1_5",
    "shufflenet_v2_x2_0": "fastreid_ops.models.shufflenet_v2:shufflenet_v2_x2_0",
    "mobilenetv2_x1_0": "fastreid_ops.models.mobilenetv2:mobilenetv2_x1_0",
    "mobilenetv2_x1_4": "fastreid_ops.models.mobilenetv2:mobilenetv2_x1_4",
    "squeezenet1_0": "fastreid_ops.models.squeezenet:squeezenet1_0",
    "squeezenet1_0_fc512": "fastreid_ops.models.squeezenet:squeezenet1_0_fc512",
    "squeezenet1_1": "fastreid_ops.models.squeezenet:squeezenet1_1",
    "nasnsetmobile": "fastreid_ops.models.nasnet:nasnsetmobile",
    # deep-person-reid: residual networks
    "resnet18": "fastreid_ops.models.resnet:resnet18",
    "resnet34": "fastreid_ops.models.resnet:resnet34",
    "resnet50": "fastreid_ops.models.resnet:resnet50",
    "resnet101": "fastreid_ops.models.resnet:resnet101",
    "resnet152": "fastreid_ops.models.resnet:resnet152",
    "resnet50_fc512": "fastreid_ops.models.resnet:resnet50_fc512",
    "resnext50_32x4d": "fastreid_ops.models.resnet:resnext50_32x4d",
    "resnext101_32x8d": "fastreid_ops.models.resnet:resnext101_32x8d",
    "resnet50mid": "fastreid_ops.models.resnet_mid:resnet50mid",
    "resnet50_ibn_a": "fastreid_ops.models.resnet_ibn:resnet50_ibn_a",
    "resnet50_ibn_b": "fastreid_ops.models.resnet_ibn:resnet50_ibn_b",
    "se_resnet50": "fastreid_ops.models.senet:se_resnet50",
    "se_resnet50_fc512": "fastreid_ops.models.senet:se_resnet50_fc512",
    "se_resnet101": "fastreid_ops.models.senet:se_resnet101",
    "se_resnet152": "fastreid_ops.models.senet:se_resnet152",
    "se_resnext50_32x4d": "fastreid_ops.models.senet:se_resnext50_32x4d",
    "se_resnext101_32x4d": "fastreid_ops.models.senet:se_resnext101_32x4d",
    "senet154": "fastreid_ops.models.senet:senet154",
    # deep-person-reid: through timm
    "densenet121": "fastreid_ops.models.backbones.timm:densenet121",
    "densenet121_fc512": "fastreid_ops.models.backbones.timm:densenet121_fc512",
    "densenet161": "fastreid_ops.models.backbones.timm:densenet161",
    "densenet169": "fastreid_ops.models.backbones.timm:densenet169",
    "densenet201": "fastreid_ops.models.backbones.timm:densenet201",
    "inceptionv4": "fastreid_ops.models.backbones.timm:inceptionv4",
    "inceptionresnetv2": "fastreid_ops.models.backbones.timm:inceptionresnetv2",
    "xception": "fastreid_ops.models.backbones.timm:xception",
    # deep-person-reid: networks of its first versions that are others now
    "resnext101_v0": "fastreid_ops.models.resnext_v0:ResNeXt101V0",
    "squeezenet_v0": "fastreid_ops.models.squeezenet:squeezenet_v0",
    "xception_v0": "fastreid_ops.models.xception_v0:XceptionV0",
    # strong baselines and NAIC
    "resnet50_bnneck": "fastreid_ops.models.baseline:resnet50_bnneck",
    "vit_small_patch16_224": "fastreid_ops.models.vit:vit_small_patch16_224",
    "vit_base_patch16_224": "fastreid_ops.models.vit:vit_base_patch16_224",
    "naic_resnet50": "fastreid_ops.models.naic:resnet50",
    "naic_resnet50_ibn_a": "fastreid_ops.models.naic:resnet50_ibn_a",
    "naic_resnet101_ibn_a": "fastreid_ops.models.naic:resnet101_ibn_a",
    "naic_se_resnet50_ibn_a": "fastreid_ops.models.naic:se_resnet50_ibn_a",
    "naic_se_resnet101_ibn_a": "fastreid_ops.models.naic:se_resnet101_ibn_a",
    "naic_resnet50_ibn_b": "fastreid_ops.models.naic:resnet50_ibn_b",
    "naic_resnet101_ibn_b": "fastreid_ops.models.naic:resnet101_ibn_b",
    "naic_resnest50": "fastreid_ops.models.naic:resnest50",
    "naic_resnest50_ibn": "fastreid_ops.models.naic:resnest50_ibn",
    "naic_resnest101": "fastreid_ops.models.naic:resnest101",
    "naic_resnest101_ibn": "fastreid_ops.models.naic:resnest101_ibn",
    "naic_efficientnet_b0": "fastreid_ops.models.naic:efficientnet_b0",
    "naic_efficientnet_b7": "fastreid_ops.models.naic:efficientnet_b7",
    # visible-infrared
    "mdinet": "fastreid_ops.models.mdinet:MDINet",
    "deen_sysu": "fastreid_ops.models.deen:deen_sysu",
    "deen_regdb": "fastreid_ops.models.deen:deen_regdb",
    "deen_llcm": "fastreid_ops.models.deen:deen_llcm",
    "agw": "fastreid_ops.models.agw:AGW",
    "embednet": "fastreid_ops.models.embednet:EmbedNet",
    # cloth-changing
    "cc_resnet50": "fastreid_ops.models.cloth_changing:cc_resnet50",
    "cc_resnet50_ibn_a": "fastreid_ops.models.cloth_changing:cc_resnet50_ibn_a",
    "cal_resnet50": "fastreid_ops.models.cal:cal_resnet50",
}

_WEIGHTS = ("LoadReport", "load_weights", "read_weights")

__all__ = [
    "MODELS",
    "LoadReport",
    "TrainOutput",
    "create_model",
    "list_models",
    "load_weights",
    "model_options",
    "read_weights",
]


def __getattr__(name: str) -> Any:
    """What reads weights is imported when it is first asked for."""
    if name in _WEIGHTS:
        return getattr(importlib.import_module("fastreid_ops.models.weights"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def list_models(pattern: str = "*") -> list[str]:
    """Names that `create_model` accepts and that match a shell pattern such as ``"*osnet*"``, sorted."""
    return sorted(fnmatch.filter(MODELS, pattern))


def _near(name: object, known: list[str]) -> str:
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def _factory(name: str) -> Callable[..., nn.Module]:
    if name not in MODELS:
        known = list_models()
        raise ValueError(
            f"create_model: name: got {name!r}, expected one of {', '.join(known)}{_near(name, known)}"
        )
    module, function = MODELS[name].split(":")
    return getattr(importlib.import_module(module), function)


def model_options(name: str) -> dict[str, Any]:
    """Options of one model beside ``num_classes``, with their default values.

    Raises:
        ValueError: no such model; the message holds the nearest name.
    """
    parameters = list(inspect.signature(_factory(name)).parameters.values())[1:]
    return {p.name: p.default for p in parameters}


def create_model(name: str, num_classes: int, **options: Any) -> nn.Module:
    """Make one model from `MODELS` with random weights from torch's global generator.

    Args:
        name: a key of `MODELS`.
        num_classes: number of training identities, at least 1; has no influence on the evaluation feature.
        **options: arguments of that model's factory, see `model_options`.

    Raises:
        ValueError: unknown name (with the nearest one) or ``num_classes`` < 1.
        TypeError: unknown option, or ``num_classes`` not an int.
    """
    factory = _factory(name)
    if isinstance(num_classes, bool) or not isinstance(num_classes, int):
        raise TypeError(f"create_model: num_classes: got {type(num_classes).__name__}, expected int")
    if num_classes < 1:
        raise ValueError(f"create_model: num_classes: got {num_classes}, expected at least 1")
    known = list(model_options(name))
    for option in options:
        if option not in known:
            expected = ", ".join(known) if known else "no options"
            raise TypeError(
                f"create_model: options: got {option!r} for {name}, expected {expected}{_near(option, known)}"
            )
    return factory(num_classes, **options)
