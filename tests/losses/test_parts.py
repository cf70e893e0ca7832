# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from fastreid_ops.losses import ENSEMBLE_SCALES, LabelSmoothedCrossEntropy, PartLoss

LABELS = torch.tensor([0, 3, 4])


@pytest.fixture
def pcb(recorded):
    want = recorded("naic_and_cloth_changing/pcb")
    *parts, merge = want["h16_train"]
    return parts, merge, want["h16_train_losses"]


def test_golden(golden, pcb):
    parts, merge, want = pcb
    plain = LabelSmoothedCrossEntropy(0.0)
    each = torch.stack([plain(x, LABELS) for x in (*parts, merge)])
    assert golden.relative(each, want[:7]) < 1e-5
    assert golden.relative(PartLoss()(parts, LABELS, merge), want[7]) < 1e-5


def test_definition_in_float64(same_in_float64, pcb):
    parts, merge, _ = pcb
    loss = PartLoss(LabelSmoothedCrossEntropy(0.2), part_weight=0.7, merge_weight=0.1)

    def oracle(*heads):
        q = torch.full((3, 5), 0.2 / 5, dtype=torch.float64)
        q[torch.arange(3), LABELS] += 0.8
        terms = [-(q * (x.exp() / x.exp().sum(1, keepdim=True)).log()).sum() / 3 for x in heads]
        return 0.7 * sum(terms[:6]) / 6 + 0.1 * terms[6]

    same_in_float64(lambda *x: loss(x[:6], LABELS, x[6]), oracle, *parts, merge)


def test_without_merged_logits(pcb):
    parts, _, want = pcb
    assert PartLoss()(parts, LABELS).item() == pytest.approx(0.5 * want[:6].mean().item(), rel=1e-5)


def test_ensemble_scales(pcb):
    parts, merge, _ = pcb
    scaled = [s * p for s, p in zip((0.1, 0.2, 0.5, 0.33, 0.8, 0.22), parts, strict=True)]
    loss = PartLoss(scales=ENSEMBLE_SCALES)
    torch.testing.assert_close(loss(parts, LABELS, merge), PartLoss()(scaled, LABELS, merge))
    with pytest.raises(ValueError, match="PartLoss: parts: got 5, expected 6, one per scale"):
        loss(parts[:5], LABELS)


def test_malformed():
    with pytest.raises(ValueError, match="PartLoss: parts: got none"):
        PartLoss()([], LABELS)
    with pytest.raises(ValueError, match="PartLoss: scales: got none"):
        PartLoss(scales=())
    with pytest.raises(ValueError, match="PartLoss: part_weight: got -1"):
        PartLoss(part_weight=-1)
