# SPDX-License-Identifier: Apache-2.0
"""The networks of torchreid and fast-reid themselves, with the weights of ours.

``pip install --no-deps torchreid fastreid termcolor yacs tabulate`` is enough. torchreid's networks are loaded as
single files, since the package imports OpenCV. fast-reid's ResNet gets the pooling, neck and classifier of ours: what
differs is the backbone, where the time goes.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

from rivals.ranking import load_file, package_file
from rivals.torchvision_cpu import mend_torchvision
from torch import Tensor, nn

CLASSES = 751
mend_torchvision()  # fast-reid imports it


class Rival(NamedTuple):
    """``make()`` gives the rival's network; ``logits(output)`` what it trains its classifiers with; ``ours``
    names the model of ours that takes its weights; ``main`` ones are measured in every way."""

    package: str
    ours: str
    make: Callable[[], nn.Module]
    logits: Callable[[Any], list[Tensor]]
    size: tuple[int, int] = (256, 128)
    main: bool = True


def _as_list(value: object) -> list[Tensor]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _torchreid(
    name: str, file: str, *, entry: str | None = None, main: bool = True, **facts: Any
) -> Rival | None:
    path = package_file("torchreid", f"reid/models/{file}.py")
    if path is None:
        return None

    def make() -> nn.Module:
        module = load_file(path)
        if entry is not None:
            return getattr(module, entry)(CLASSES, loss="triplet", use_gpu=False)
        return getattr(module, name)(CLASSES, loss="triplet", pretrained=False)

    return Rival("torchreid", name, make, lambda output: _as_list(output[0]), main=main, **facts)


class _WithOurHead(nn.Module):
    """fast-reid's backbone in the place of ours, in the network around it."""

    def __init__(self, around: nn.Module, place: str, backbone: nn.Module) -> None:
        super().__init__()
        backbone.out_channels = 2048
        # Its own takes no pixel beyond the left and the upper edge: another map of the same cost.
        backbone.maxpool = nn.MaxPool2d(3, 2, 1)
        setattr(around, place, backbone)
        self.around = around

    def forward(self, images: Tensor) -> object:
        return self.around(images)

    def load_state_dict(self, state: dict[str, Tensor], **how: Any) -> object:
        # The one layer of the original NAIC backbone that nothing uses.
        return self.around.load_state_dict(
            {k: v for k, v in state.items() if not k.startswith("base.fc.")}, **how
        )


def _fastreid(name: str, place: str, *, ibn: bool, se: bool, main: bool = True) -> Rival | None:
    if package_file("fastreid", "modeling/backbones/resnet.py") is None:
        return None
    if any(importlib.util.find_spec(needed) is None for needed in ("termcolor", "yacs", "tabulate")):
        return None

    def make() -> nn.Module:
        from fastreid.modeling.backbones.resnet import Bottleneck, ResNet

        from fastreid_ops.models import create_model

        backbone = ResNet(1, "BN", ibn, se, False, Bottleneck, [3, 4, 6, 3], [0, 0, 0, 0])
        return _WithOurHead(create_model(name, CLASSES), place, backbone)

    return Rival("fastreid", name, make, lambda output: list(output.logits), main=main)


def available() -> list[Rival]:
    """Those whose package is installed."""
    found = [
        _torchreid("hacnn", "hacnn", entry="HACNN", size=(160, 64)),
        _torchreid("osnet_x1_0", "osnet"),
        _torchreid("osnet_x0_25", "osnet"),
        _torchreid("osnet_ain_x1_0", "osnet_ain", main=False),
        _torchreid("resnet50", "resnet"),
        _torchreid("pcb_p6", "pcb", main=False),
        _torchreid("se_resnet50", "senet", main=False),
        _torchreid("mlfn", "mlfn", main=False),
        _torchreid("mobilenetv2_x1_0", "mobilenetv2", main=False),
        _torchreid("shufflenet", "shufflenet", main=False),
        _fastreid("resnet50_bnneck", "backbone", ibn=False, se=False),
        _fastreid("naic_se_resnet50_ibn_a", "base", ibn=True, se=True, main=False),
    ]
    return [rival for rival in found if rival is not None]
