# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from fastreid_ops.losses import KnowledgeDistillationLoss


def oracle(student, teacher, t):
    p, q = (teacher / t).softmax(1), (student / t).softmax(1)
    return (p * (p.log() - q.log())).sum() / len(p)


def test_golden(recorded, hashed, value_and_gradient):
    want = recorded("naic_and_cloth_changing/cc_propagation")
    value_and_gradient(
        KnowledgeDistillationLoss(),
        [hashed("kd_s", (6, 9), 3), hashed("kd_t", (6, 9), 3)],
        want["kl"],
        [want["ds"], want["dt"]],
    )


@pytest.mark.parametrize("t", [1.0, 4.0])
def test_definition_in_float64(same_in_float64, t):
    logits = torch.randn(5, 7), torch.randn(5, 7)
    same_in_float64(KnowledgeDistillationLoss(t), lambda s, x: oracle(s, x, t), *logits)
    squared = KnowledgeDistillationLoss(t, scale_by_temperature=True)
    same_in_float64(squared, lambda s, x: t * t * oracle(s, x, t), *logits)


def test_detached_teacher():
    student, teacher = (torch.randn(3, 4, requires_grad=True) for _ in range(2))
    KnowledgeDistillationLoss(detach_teacher=True)(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad.abs().max() > 0
    KnowledgeDistillationLoss()(student, teacher).backward()
    assert teacher.grad.abs().max() > 0


def test_classes_the_teacher_rules_out():
    """softmax underflows to 0 there, whose logarithm must not come in."""
    student, teacher = (torch.tensor([[1e4, -1e4, 0.0]]).mul(f).requires_grad_() for f in (1, -1))
    loss = KnowledgeDistillationLoss()(student, teacher)
    loss.backward()
    assert loss.item() == pytest.approx(2e4 / 4, rel=1e-5)
    assert student.grad.isfinite().all()
    assert teacher.grad.isfinite().all()


def test_malformed():
    loss = KnowledgeDistillationLoss()
    with pytest.raises(ValueError, match=r"teacher: got shape \(2, 4\), expected \(2, 3\), that of student"):
        loss(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(TypeError, match=r"student: got int64"):
        loss(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="KnowledgeDistillationLoss: temperature: got 0, expected"):
        KnowledgeDistillationLoss(0)
