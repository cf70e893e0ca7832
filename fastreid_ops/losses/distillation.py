# SPDX-License-Identifier: Apache-2.0
"""Distillation."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from fastreid_ops.losses import _checks as check
from fastreid_ops.losses._numeric import full


class KnowledgeDistillationLoss(nn.Module):
    """KL(softmax(teacher / T) || softmax(student / T)), mean over the batch.

    Hinton et al., "Distilling the knowledge in a neural network", 2015. The knowledge propagation of the cloth-changing
    network, where the branch without clothes teaches the global branch with T = 4, without the factor T^2 and with a
    gradient into the teacher as well: the defaults here.

    Args:
        temperature: T, above 0.
        detach_teacher: no gradient into the teacher.
        scale_by_temperature: multiply by T^2, so that gradients keep their size as T grows (Hinton et al., section 2).

    Raises:
        TypeError: temperature no number.
        ValueError: temperature not above 0.
    """

    def __init__(
        self,
        temperature: float = 4.0,
        *,
        detach_teacher: bool = False,
        scale_by_temperature: bool = False,
    ) -> None:
        super().__init__()
        name = "KnowledgeDistillationLoss"
        self.temperature = check.number(name, "temperature", temperature, above=0)
        self.detach_teacher = check.flag(name, "detach_teacher", detach_teacher)
        self.scale_by_temperature = check.flag(name, "scale_by_temperature", scale_by_temperature)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Logits (B, K) each, floating -> 0-d tensor, at least float32.

        Raises:
            TypeError: logits not floating.
            ValueError: shapes or devices that differ.
        """
        check.rows("KnowledgeDistillationLoss", "student", student)
        check.like("KnowledgeDistillationLoss", "teacher", teacher, student, "student")
        if self.detach_teacher:
            teacher = teacher.detach()
        student, teacher = (F.log_softmax(full(x) / self.temperature, dim=1) for x in (student, teacher))
        loss = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
        return loss * self.temperature**2 if self.scale_by_temperature else loss

    def extra_repr(self) -> str:
        return (
            f"temperature={self.temperature}, detach_teacher={self.detach_teacher}, "
            f"scale_by_temperature={self.scale_by_temperature}"
        )
