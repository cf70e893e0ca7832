# SPDX-License-Identifier: Apache-2.0
"""DEEN (Zhang and Wang, "Diverse embedding expansion network and low-light cross-modality benchmark for
visible-infrared person re-identification", CVPR 2023), in the form of its public code."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from fastreid_ops.layers.embedding_expansion import DEE
from fastreid_ops.layers.feature_aggregation import MFA
from fastreid_ops.models.backbones.resnet import RESNET50
from fastreid_ops.models.output import TrainOutput
from fastreid_ops.models.two_stream import TwoStream, check_ranking, ranking_feature
from fastreid_ops.ops import _checks as check


class DEEN(TwoStream):
    """ResNet-50 with a stem for each modality, whose maps are corrected by earlier ones (`MFA`) and tripled (`DEE`).

    ``model(images, mode)``: images (B, 3, H, W) whose maps of a quarter, an eighth and a sixteenth of the height and
    width have an even number of positions; mode 0: the first half of the batch is visible, the second infrared; 1: all
    visible; 2: all infrared.

    Of each image there are three features, its own and one from each of the two generators. Training: three ``logits``
    (B, num_classes) and three ``features`` (B, C) before the neck, in this order. The losses of the public code see the
    3 B rows of all three, `torch.cat`; its orthogonality loss sees the second and the third.

    Evaluation: (B, feature_dim). The published ranking adds six cosine similarities, of the three features before and
    after the neck. The inner product of two rows is that sum: ``"all"`` is the six features, each of length one, side
    by side (pooled original, branch 1, branch 2, then after the neck). ``"pooled"`` and ``"neck"`` are three of them,
    ``"original"`` is the image's own after the neck.

    Args:
        stages: 4 for the network of SYSU-MM01 and LLCM (three `MFA`, expansion after the third stage, C = 2048); 3 for
            that of RegDB (two `MFA`, expansion after the second, C = 1024).
        num_classes: number of training identities.
        dropout: after the expansion.
        test_feature: ``"all"``, ``"pooled"``, ``"neck"`` or ``"original"``.
        pool_weight: share of the features before the neck in the sum of ``"all"``, in [0, 1]. The published script adds
            them equally, 0.5; its alternative is 0.1.
        unused_copies: see `TwoStream`; 89,044,320 parameters instead of 42,037,792 with 395 identities.
        blocks: number of blocks of the four stages, ResNet-50's; fewer for small data and tests.
        zero_init_residual: blocks that start as nothing, for training from random weights; see `TwoStream`.

    Raises:
        ValueError: stages other than 3 or 4, blocks other than four numbers from 1, an unknown test_feature,
            pool_weight outside [0, 1], another mode, an odd batch with mode 0, an image whose maps do not go together.
    """

    groups = 3  # features of an image

    def __init__(
        self,
        stages: int,
        num_classes: int,
        *,
        dropout: float = 0.01,
        test_feature: str = "all",
        pool_weight: float = 0.5,
        unused_copies: bool = False,
        blocks: Sequence[int] = RESNET50,
        zero_init_residual: bool = False,
    ) -> None:
        if stages not in (3, 4):
            raise ValueError(check.message("DEEN", "stages", stages, "3 or 4"))
        check_ranking("DEEN", test_feature, pool_weight)
        super().__init__(
            stages=stages, unused_copies=unused_copies, blocks=blocks, zero_init_residual=zero_init_residual
        )
        self.stages, self.test_feature, self.pool_weight = stages, test_feature, float(pool_weight)
        channels = 128 * 2**stages
        self.DEE = DEE(channels // 2, dropout=dropout)
        self.MFA1 = MFA(256, 64, 0)
        self.MFA2 = MFA(512, 256, 1)
        if stages == 4:
            self.MFA3 = MFA(1024, 512, 1)
        self._finish(channels, num_classes)
        self.feature_dim = channels * {"all": 6, "pooled": 3, "neck": 3, "original": 1}[test_feature]

    def embed(self, images: Tensor, mode: int = 0) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) -> (3 B, C) before and after the neck: originals, branch 1, branch 2."""
        low = self.stem(images, mode)
        x = self.MFA1(self.stage(1)(low), low)
        x = self.MFA2(self.stage(2)(x), x)
        if self.stages == 4:
            x = self.MFA3(self.stage(3)(x), x)
        x = self.stage(self.stages)(self.DEE(x))
        pooled = x.mean((2, 3))
        return pooled, self.bottleneck(pooled)

    def forward(self, images: Tensor, mode: int = 0) -> Tensor | TrainOutput:
        pooled, neck = self.embed(images, mode)
        if self.training:
            return TrainOutput(self.classifier(neck).chunk(3), pooled.chunk(3))
        return ranking_feature(pooled, neck, 3, self.test_feature, self.pool_weight)


deen_sysu = partial(DEEN, 4)  # images of 384 x 144, feature of 12288 (six of 2048)
deen_llcm = deen_sysu
deen_regdb = partial(DEEN, 3)  # feature of 6144 (six of 1024)
