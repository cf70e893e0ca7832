# SPDX-License-Identifier: Apache-2.0
"""Classification losses on cosine logits."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

from fastreid_ops.losses import _checks as check
from fastreid_ops.losses import margin as margins
from fastreid_ops.losses._numeric import full

# form -> function, scale, margin; the defaults of Simple-CCReID
FORMS = {
    "arcface": (margins.arcface, 16.0, 0.1),
    "cosface": (margins.cosface, 16.0, 0.1),
    "circle": (margins.circle, 96.0, 0.3),
}


class CosineClassificationLoss(nn.Module):
    """Cross entropy on cosines (B, K) of a normalised classifier, with the margin of one `margin` function.

    The classification losses of Simple-CCReID. ``CosineClassificationLoss("cosface", margin=0)`` is the loss of CAL's
    clothes classifier: Gu et al., "Clothes-changing person re-identification with RGB modality only", CVPR
    2022.

    Args:
        form: ``"arcface"`` (scale 16, margin 0.1), ``"cosface"`` (16, 0.1) or ``"circle"`` (96, 0.3).
        scale: above 0; that of the form unless given.
        margin: at least 0, at most pi for arcface; that of the form unless given.
        check_inputs: refuse labels outside 0..K - 1 by name, which waits for a GPU.

    Raises:
        TypeError: scale or margin no numbers.
        ValueError: an unknown form, scale or margin out of range.
    """

    def __init__(
        self,
        form: str = "cosface",
        *,
        scale: float | None = None,
        margin: float | None = None,
        check_inputs: bool = True,
    ) -> None:
        super().__init__()
        name = "CosineClassificationLoss"
        self.form = check.choice(name, "form", form, tuple(FORMS))
        self._function, default_scale, default_margin = FORMS[form]
        self.scale = check.number(name, "scale", default_scale if scale is None else scale, above=0)
        self.margin = check.number(
            name,
            "margin",
            default_margin if margin is None else margin,
            at_least=0,
            at_most=math.pi if form == "arcface" else None,
        )
        self.check_inputs = check.flag("CosineClassificationLoss", "check_inputs", check_inputs)

    def forward(self, cosine: Tensor, labels: Tensor) -> Tensor:
        """Cosines (B, K) floating, not scaled, labels (B,) int64 in 0..K - 1 -> 0-d tensor, at least float32.

        Raises:
            TypeError: cosines not floating, labels not int64.
            ValueError: shapes that do not fit, or a label out of range.
        """
        name = "CosineClassificationLoss"
        check.class_labels(name, "cosine", cosine, labels, check_range=self.check_inputs)
        logits = self._function(full(cosine), labels, scale=self.scale, margin=self.margin)
        return F.cross_entropy(logits, labels)

    def extra_repr(self) -> str:
        return f"{self.form!r}, scale={self.scale}, margin={self.margin}"
