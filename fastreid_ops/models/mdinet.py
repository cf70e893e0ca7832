# SPDX-License-Identifier: Apache-2.0
"""MDINet of WRIM-Net (arXiv 2408.10624), a network for visible and infrared images.

Layers, names, order and shapes are those of the network's printed tree; 47,947,840 parameters with 395 identities. The
tree does not say how the layers are joined and no code is public, so each such choice is a named argument.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastreid_ops.layers.cross_modal import MDI, MDI_sep
from fastreid_ops.models.backbones import resnet
from fastreid_ops.models.initialise import initialise
from fastreid_ops.models.output import TrainOutput
from fastreid_ops.ops import _checks as check

TEST_FEATURES = ("all", "b1", "b1+parts")
PARTS = ("halves", "whole")
PROJECTIONS = ("pooled", "neck")


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation under the name it has in the tree."""


class GlobalAvgPool(nn.AdaptiveAvgPool2d):
    """Mean over the positions under the name it has in the tree."""


class Linear(nn.Module):
    """Logits (B, num_classes) of features (B, D) and a weight (num_classes, D), which the head holds."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def forward(self, features: Tensor, weight: Tensor) -> Tensor:
        return F.linear(features, weight)

    def extra_repr(self) -> str:
        return f"num_classes={self.num_classes}, scale=1, margin=0.0"


class Bottleneck(resnet.Bottleneck):
    """The usual block, its normalisations under the name they have in the tree."""

    def __init__(
        self, in_channels: int, planes: int, stride: int, shortcut: nn.Module | None, plan: resnet.BlockPlan
    ) -> None:
        super().__init__(in_channels, planes, stride, shortcut, plan)
        for name in ("bn1", "bn2", "bn3"):
            setattr(self, name, BatchNorm(getattr(self, name).num_features))


def _plan(stage: int, index: int, blocks: int) -> resnet.BlockPlan:
    """The tree has a place for a gate, ``se``, that nothing fills."""
    return resnet.BlockPlan(gate=("se", nn.Identity))


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    return nn.Sequential(resnet.conv1x1(in_channels, out_channels, stride), BatchNorm(out_channels))


class ResNet_MDI(nn.Module):
    """ResNet-50 with an interaction after each stage, one a modality after stages 1 and 2, a common one after 3 and 4.

    (B, 3, H, W), H and W multiples of 16 -> maps ``layer2_out`` (B, 512, H/8, W/8), before its interaction, and
    ``layer3_out`` (B, 1024, H/16, W/16) and ``layer4_out`` (B, 2048, H/16, W/16), after theirs. The pooling of the stem
    has no padding and rounds up. ``mode`` as in `MDI_sep`, ``mdi_form`` as in `MDI`, ``attn_residual`` as in `MHSA`;
    ``blocks`` are those of the four stages.

    Raises:
        ValueError: images of another size; an unknown mode; an odd batch with mode 0; blocks other than four numbers
            from 1.
    """

    def __init__(
        self,
        *,
        mdi_form: str = "residual",
        attn_residual: bool = True,
        blocks: Sequence[int] = resnet.RESNET50,
    ) -> None:
        super().__init__()
        resnet.check_blocks("ResNet_MDI", blocks)
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = BatchNorm(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, ceil_mode=True)
        stages = resnet.residual_stages(
            64, blocks, block=Bottleneck, last_stride=1, plan=_plan, shortcut=_shortcut
        )
        for number, stage in enumerate(stages, start=1):
            self.add_module(f"layer{number}", stage)
        initialise(self)
        form = {"mdi_form": mdi_form, "attn_residual": attn_residual}
        self.mdi1 = MDI_sep(8, 256, 2, 4, **form)
        self.mdi2 = MDI_sep(8, 512, 2, 2, **form)
        self.mdi3 = MDI(8, 1024, 4, 1, **form)
        self.mdi4 = MDI(8, 2048, 4, 1, **form)

    def forward(self, images: Tensor, mode: int = 0) -> dict[str, Tensor]:
        check.rank("ResNet_MDI", "images", check.tensor("ResNet_MDI", "images", images), 4, "(B, 3, H, W)")
        height, width = images.shape[2:]
        if height % 16 or width % 16:
            raise ValueError(
                check.message(
                    "ResNet_MDI", "images", f"{height} x {width}", "height and width multiples of 16"
                )
            )
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        x = self.mdi1(self.layer1(x), mode)
        layer2 = self.layer2(x)
        layer3 = self.mdi3(self.layer3(self.mdi2(layer2, mode)))
        layer4 = self.mdi4(self.layer4(layer3))
        return {"layer2_out": layer2, "layer3_out": layer3, "layer4_out": layer4}


class ConEmbeddingHead(nn.Module):
    """Pooling, batch-normalisation neck whose bias stays 0, classifier, and a projection for a contrastive loss.

    (B, channels, h, w) -> pooled (B, channels), neck (B, channels), logits (B, num_classes), projection (B, con_dim).

    Args:
        channels: of the map.
        num_classes: number of training identities.
        con_dim: width of the projection.
        projection_from: ``"pooled"`` or ``"neck"``, what the projection sees. No source fixes it.
        normalise_projection: rows of the projection of length one. No source fixes it.

    Raises:
        ValueError: an unknown projection_from.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        con_dim: int = 128,
        *,
        projection_from: str = "pooled",
        normalise_projection: bool = True,
    ) -> None:
        super().__init__()
        check.choice("ConEmbeddingHead", "projection_from", projection_from, PROJECTIONS)
        self.projection_from = projection_from
        self.normalise_projection = normalise_projection
        self.weight = nn.Parameter(torch.empty(num_classes, channels))
        self.pool_layer = GlobalAvgPool(1)
        self.bottleneck = nn.Sequential(BatchNorm(channels))
        self.bottleneck[0].bias.requires_grad_(False)
        self.con_head = nn.Sequential(
            nn.Linear(channels, channels),
            nn.BatchNorm1d(channels),
            nn.ReLU(inplace=True),
            nn.Linear(channels, con_dim),
        )
        self.cls_layer = Linear(num_classes)
        nn.init.normal_(self.weight, 0.0, 0.01)

    def neck(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, channels, h, w) -> (B, channels) before and after the neck."""
        pooled = self.pool_layer(x)
        return pooled.flatten(1), self.bottleneck(pooled).flatten(1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        pooled, neck = self.neck(x)
        projection = self.con_head(pooled if self.projection_from == "pooled" else neck)
        if self.normalise_projection:
            projection = F.normalize(projection, dim=1)
        return pooled, neck, self.cls_layer(neck, self.weight), projection


class MDINet(nn.Module):
    """Four heads on the maps of `ResNet_MDI`: b1 (whole map of stage 4), b11 and b12 (its upper and lower half), b2
    (map of stage 3).

    ``model(images, mode)``: images (B, 3, H, W), H and W multiples of 16 (of 32 with halves); mode 0: the first half
    of the batch is visible, the second infrared; 1: all visible; 2: all infrared.

    Evaluation: (B, feature_dim), not normalised, the features after the neck: 7168 for ``"all"`` (b1, b11, b12, b2),
    6144 for ``"b1+parts"``, 2048 for ``"b1"``.

    Training: ``logits`` of b1, b11, b12, b2; ``features`` before the neck: b1 (B, 2048), b11 and b12 side by side
    (B, 4096), b2 (B, 1024), as MGN's triplet losses take them; ``parts`` b11 and b12; ``auxiliary`` the projections
    (B, con_dim) ``projection_b1``, ``projection_b11``, ``projection_b12``, ``projection_b2``.

    The source fixes none of the arguments but num_classes and con_dim.

    Args:
        num_classes: number of training identities.
        con_dim: width of the projections.
        mdi_form: see `MDI`.
        attn_residual: see `MHSA`.
        projection_from, normalise_projection: see `ConEmbeddingHead`.
        parts: what b11 and b12 see: ``"halves"`` of the map, or the ``"whole"`` of it.
        test_feature: ``"all"``, ``"b1"`` or ``"b1+parts"``.
        blocks: number of blocks of the four stages, ResNet-50's in the source; fewer for small data and tests.

    Raises:
        ValueError: an unknown choice; blocks other than four numbers from 1; images of another size; a mode other than
            0, 1, 2; an odd batch with mode 0.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        con_dim: int = 128,
        mdi_form: str = "residual",
        attn_residual: bool = True,
        projection_from: str = "pooled",
        normalise_projection: bool = True,
        parts: str = "halves",
        test_feature: str = "all",
        blocks: Sequence[int] = resnet.RESNET50,
    ) -> None:
        super().__init__()
        check.choice("MDINet", "parts", parts, PARTS)
        check.choice("MDINet", "test_feature", test_feature, TEST_FEATURES)
        self.part_maps, self.test_feature = parts, test_feature
        self.backbone = ResNet_MDI(mdi_form=mdi_form, attn_residual=attn_residual, blocks=blocks)
        for name, channels in (("b1", 2048), ("b11", 2048), ("b12", 2048), ("b2", 1024)):
            head = ConEmbeddingHead(
                channels,
                num_classes,
                con_dim,
                projection_from=projection_from,
                normalise_projection=normalise_projection,
            )
            self.add_module(f"{name}_head", head)
        self.feature_dim = {"all": 7168, "b1": 2048, "b1+parts": 6144}[test_feature]

    def _maps(self, images: Tensor, mode: int) -> dict[str, Tensor]:
        maps = self.backbone(images, mode)
        whole = upper = lower = maps["layer4_out"]
        if self.part_maps == "halves":
            if whole.shape[2] % 2:
                got = f"{images.shape[2]} rows"
                raise ValueError(
                    check.message("MDINet", "images", got, "a multiple of 32 with parts='halves'")
                )
            upper, lower = whole.chunk(2, 2)
        return {"b1": whole, "b11": upper, "b12": lower, "b2": maps["layer3_out"]}

    def forward(self, images: Tensor, mode: int = 0) -> Tensor | TrainOutput:
        maps = self._maps(images, mode)
        if not self.training:
            used = {"all": 4, "b1": 1, "b1+parts": 3}[self.test_feature]
            heads = [(getattr(self, f"{name}_head"), x) for name, x in maps.items()][:used]
            return torch.cat([head.neck(x)[1] for head, x in heads], 1)
        pooled, _, logits, projections = zip(
            *(getattr(self, f"{name}_head")(x) for name, x in maps.items()), strict=True
        )
        b1, b11, b12, b2 = pooled
        return TrainOutput(
            logits,
            (b1, torch.cat((b11, b12), 1), b2),
            (b11, b12),
            {f"projection_{name}": value for name, value in zip(maps, projections, strict=True)},
        )
