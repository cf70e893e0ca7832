# SPDX-License-Identifier: Apache-2.0
"""Identity loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastreid_ops.losses._checks import class_labels


class LabelSmoothedCrossEntropy(nn.Module):
    """Cross entropy against q = (1 - eps) onehot(y) + eps / K, mean over the batch.

    Szegedy et al., "Rethinking the Inception architecture", CVPR 2016, section 7; the smoothing mass includes the
    true class, as in deep-person-reid.

    Args:
        epsilon: in [0, 1); 0 is plain cross entropy.
        check_inputs: refuse labels outside 0..K - 1 by name. Costs one wait for the device per call on a GPU, where it
            may be left out when the labels come from a relabelled manifest.

    Raises:
        ValueError: epsilon outside [0, 1).
    """

    def __init__(self, epsilon: float = 0.1, *, check_inputs: bool = True) -> None:
        super().__init__()
        if not 0.0 <= epsilon < 1.0:
            raise ValueError(
                f"LabelSmoothedCrossEntropy: epsilon: got {epsilon!r}, expected 0 <= epsilon < 1"
            )
        self.epsilon = float(epsilon)
        self.check_inputs = check_inputs

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits (B, K) floating, labels (B,) int64 in 0..K - 1 -> 0-d tensor, float32 for half-precision logits.

        Raises:
            TypeError: logits not floating, labels not int64.
            ValueError: shapes that do not fit, or a label out of range.
        """
        class_labels("LabelSmoothedCrossEntropy", logits, labels, check_range=self.check_inputs)
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        return F.cross_entropy(logits, labels, label_smoothing=self.epsilon)

    def extra_repr(self) -> str:
        return f"epsilon={self.epsilon}"
