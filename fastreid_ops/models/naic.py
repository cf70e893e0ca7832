# SPDX-License-Identifier: Apache-2.0
"""The network of NAIC_ReID (github.com/ly-wenli/NAIC_ReID, NAIC 2020): a strong baseline over twelve backbones, with
generalised-mean pooling and a part-based head as options. Names of parameters are the original's."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastreid_ops.layers.gem import GeM
from fastreid_ops.layers.pcb_head import TESTS, DynamicPCB
from fastreid_ops.models.backbones.naic import naic_backbone
from fastreid_ops.models.output import TrainOutput

POOLS = ("avg", "gem", "gem_learnable")
NECK_FEATURES = ("after", "before")
CLASSIFIERS = ("linear", "none")


def _one_of(argument: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        expected = ", ".join(map(repr, choices))
        raise ValueError(f"NAICNet: {argument}: got {value!r}, expected one of {expected}")


def _pool(kind: str) -> nn.Module:
    if kind == "avg":
        return nn.AdaptiveAvgPool2d(1)
    return GeM(3.0, learnable=kind == "gem_learnable")


class NAICNet(nn.Module):
    """Backbone (``base``), pooling (``gap``), normalisation (``bottleneck``), classifier without bias; optionally a
    part-based head (``pcb``) on the backbone's map.

    Training: ``logits`` those of the classifier; ``features`` the pooled feature before the neck, for the metric loss;
    ``parts`` the six weighted parts (B, 256) where there is a part-based head; ``auxiliary``:

    ``neck``
        (B, C) after the neck, what a margin head of the training method works on.
    ``part_logits_0`` to ``part_logits_5``, ``merge_logits``
        (B, num_classes) of the part-based head, for `losses.parts.PartLoss`.

    Evaluation: (B, ``feature_dim``), the feature before or after the neck, not normalised. With a part-based head it is
    followed by the head's, and each piece has length one: the squared Euclidean distance of two such features is twice
    the sum of the pieces' cosine distances, how the original adds up its distances. (It leaves the pieces as they are,
    although its re-ranking assumes length one.) `pieces` gives them raw and apart, and ``piece_dims`` says how wide
    each is, for a ranking that treats every piece by itself.

    The feature has 2048 entries without the part-based head, 1280 over EfficientNet, whose map has stride 32.

    The neck runs once a forward; the original runs it twice, so its running statistics move twice a step.

    Args:
        base: module (B, 3, H, W) -> (B, C, h, w) with the attribute ``out_channels`` = C.
        num_classes: number of training identities.
        pool: ``"avg"``, ``"gem"`` (generalised mean of power 3) or ``"gem_learnable"``, its power a parameter.
        neck_feature: ``"after"`` or ``"before"``, where the evaluation feature is taken.
        classifier: ``"linear"``, or ``"none"`` where the training method brings a margin head: then ``logits`` is empty
            unless there is a part-based head, and the feature to classify is ``auxiliary["neck"]``.
        pcb: add the part-based head, `layers.pcb_head.DynamicPCB`.
        pcb_merge: its classifier of the merged parts.
        pcb_test: ``"merge"``, ``"split"`` or ``"ensemble"``, what it gives in evaluation.

    Raises:
        ValueError: an argument of any other value.
    """

    def __init__(
        self,
        base: nn.Module,
        num_classes: int,
        *,
        pool: str = "avg",
        neck_feature: str = "after",
        classifier: str = "linear",
        pcb: bool = False,
        pcb_merge: bool = True,
        pcb_test: str = "merge",
    ) -> None:
        super().__init__()
        _one_of("pool", pool, POOLS)
        _one_of("neck_feature", neck_feature, NECK_FEATURES)
        _one_of("classifier", classifier, CLASSIFIERS)
        _one_of("pcb_test", pcb_test, TESTS)
        channels = int(base.out_channels)
        self.neck_feature = neck_feature
        self.base = base
        self.gap = _pool(pool)
        self.pcb = DynamicPCB(channels, num_classes, merge=pcb_merge, test=pcb_test) if pcb else None
        self.classifier = None
        if classifier == "linear":
            self.classifier = nn.Linear(channels, num_classes, bias=False)
            nn.init.normal_(self.classifier.weight, std=0.001)
        self.bottleneck = nn.BatchNorm1d(channels)
        self.bottleneck.bias.requires_grad_(False)
        self.piece_dims = (channels,)
        if self.pcb is not None:
            count = 6 if pcb_test == "split" else 1
            self.piece_dims += (self.pcb.feature_dim // count,) * count
        self.feature_dim = sum(self.piece_dims)

    def _evaluation_feature(self, before: Tensor) -> Tensor:
        return self.bottleneck(before) if self.neck_feature == "after" else before

    def pieces(self, images: Tensor) -> tuple[Tensor, ...]:
        """What evaluation concatenates: the feature (B, C), then the part-based head's, none normalised."""
        x = self.base(images)
        feature = self._evaluation_feature(self.gap(x).flatten(1))
        if self.pcb is None:
            return (feature,)
        parts = self.pcb(x)
        return (feature, *((parts,) if isinstance(parts, Tensor) else parts))

    def forward(self, images: Tensor) -> Tensor | TrainOutput:
        if not self.training:
            pieces = self.pieces(images)
            return pieces[0] if len(pieces) == 1 else torch.cat([F.normalize(p) for p in pieces], 1)
        x = self.base(images)
        before = self.gap(x).flatten(1)
        neck = self.bottleneck(before)
        logits = () if self.classifier is None else (self.classifier(neck),)
        auxiliary = {"neck": neck}
        if self.pcb is None:
            return TrainOutput(logits, (before,), (), auxiliary)
        head = self.pcb(x)
        auxiliary |= {f"part_logits_{i}": one for i, one in enumerate(head.logits)}
        if head.merge is not None:
            auxiliary["merge_logits"] = head.merge
        return TrainOutput(logits, (before,), head.parts, auxiliary)


def _factory(backbone: str, **own: object) -> Callable[..., NAICNet]:
    """Maker of `NAICNet` over one of the original's backbones: its options are ``own``, which go to `naic_backbone`,
    with their default values, and those of `NAICNet`."""

    def make(num_classes: int, **options: object) -> NAICNet:
        chosen = {name: options.pop(name, default) for name, default in own.items()}
        return NAICNet(naic_backbone(backbone, **chosen), num_classes, **options)

    classes, *head = list(inspect.signature(NAICNet).parameters.values())[1:]
    keyword = inspect.Parameter.KEYWORD_ONLY
    mine = [inspect.Parameter(name, keyword, default=default) for name, default in own.items()]
    make.__signature__ = inspect.Signature([classes, *mine, *head])
    return make


resnet50 = _factory("resnet50", legacy_stem=False, last_stride=1)
resnet50_ibn_a = _factory("resnet50_ibn_a", last_stride=1)
resnet101_ibn_a = _factory("resnet101_ibn_a", last_stride=1)
se_resnet50_ibn_a = _factory("se_resnet50_ibn_a", last_stride=1)
se_resnet101_ibn_a = _factory("se_resnet101_ibn_a", last_stride=1)
resnet50_ibn_b = _factory("resnet50_ibn_b", last_stride=1)
resnet101_ibn_b = _factory("resnet101_ibn_b", last_stride=1)
resnest50 = _factory("resnest50", last_stride=1)
resnest50_ibn = _factory("resnest50_ibn", last_stride=1)
resnest101 = _factory("resnest101", last_stride=1)
resnest101_ibn = _factory("resnest101_ibn", last_stride=1)
efficientnet_b0 = _factory("efficientnet_b0", drop_connect=0.2)
efficientnet_b7 = _factory("efficientnet_b7", drop_connect=0.2)
