# SPDX-License-Identifier: Apache-2.0
"""AGW for visible and infrared images (Ye et al., "Deep learning for person re-identification: a survey and outlook",
TPAMI 2022), in the form of its public code."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from fastreid_ops.layers.non_local import NonLocal
from fastreid_ops.models.backbones.resnet import RESNET50
from fastreid_ops.models.output import TrainOutput
from fastreid_ops.models.two_stream import TwoStream
from fastreid_ops.ops import _checks as check

# Stage: how many of its last blocks a non-local block follows.
NON_LOCAL = {2: 2, 3: 3}


class AGW(TwoStream):
    """ResNet-50 with a stem for each modality, non-local blocks, generalised mean pooling and a neck.

    ``model(images, mode)``: images (B, 3, H, W); mode 0: the first half of the batch is visible, the second infrared;
    1: all visible; 2: all infrared; 288 x 144 is usual. Evaluation: (B, 2048), of length one, after or before the neck.
    Training: logits and the feature before the neck.

    Args:
        num_classes: number of training identities.
        non_local: non-local blocks after the last two blocks of stage 2 and the last three of stage 3.
        pool_power: p of the pooling mean(x^p)^(1/p); 1 for the plain mean.
        neck_feature: ``"after"`` or ``"before"``, where the evaluation feature is taken.
        unused_copies: see `TwoStream`; 71,365,839 parameters with 395 identities.
        blocks: number of blocks of the four stages, ResNet-50's; fewer for small data and tests.
        zero_init_residual: blocks that start as nothing, for training from random weights; see `TwoStream`.

    Raises:
        ValueError: blocks other than four numbers from 1, pool_power not positive, an unknown neck_feature, another
            mode, an odd batch with mode 0.
    """

    feature_dim = 2048

    def __init__(
        self,
        num_classes: int,
        *,
        non_local: bool = True,
        pool_power: float = 3.0,
        neck_feature: str = "after",
        unused_copies: bool = False,
        blocks: Sequence[int] = RESNET50,
        zero_init_residual: bool = False,
    ) -> None:
        check.choice("AGW", "neck_feature", neck_feature, ("after", "before"))
        if not pool_power > 0:
            raise ValueError(check.message("AGW", "pool_power", pool_power, "a number above 0"))
        super().__init__(
            stages=4, unused_copies=unused_copies, blocks=blocks, zero_init_residual=zero_init_residual
        )
        self.pool_power, self.neck_feature = float(pool_power), neck_feature
        if non_local:
            for stage, last in NON_LOCAL.items():
                count = min(last, blocks[stage - 1])
                self.add_module(f"NL_{stage}", nn.ModuleList(NonLocal(128 * 2**stage) for _ in range(count)))
        self._finish(self.feature_dim, num_classes)

    def _stage(self, number: int, x: Tensor) -> Tensor:
        blocks, extra = self.stage(number), getattr(self, f"NL_{number}", ())
        for index, block in enumerate(blocks, start=len(extra) - len(blocks)):
            x = block(x)
            if index >= 0:
                x = extra[index](x)
        return x

    def embed(self, images: Tensor, mode: int = 0) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) -> (B, 2048) before and after the neck."""
        x = self.stem(images, mode)
        for number in (1, 2, 3, 4):
            x = self._stage(number, x)
        power = self.pool_power
        pooled = x.mean((2, 3)) if power == 1 else (x.pow(power).mean((2, 3)) + 1e-12) ** (1 / power)
        return pooled, self.bottleneck(pooled)

    def forward(self, images: Tensor, mode: int = 0) -> Tensor | TrainOutput:
        pooled, neck = self.embed(images, mode)
        if self.training:
            return TrainOutput((self.classifier(neck),), (pooled,))
        return F.normalize(neck if self.neck_feature == "after" else pooled, dim=1)
