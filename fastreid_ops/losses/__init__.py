# SPDX-License-Identifier: Apache-2.0
"""Losses as ``nn.Module``s: ``loss(rows (B, D), labels (B,)) -> 0-d tensor``."""

from __future__ import annotations

from fastreid_ops.losses.cross_entropy import LabelSmoothedCrossEntropy
from fastreid_ops.losses.heads import mean_over_heads
from fastreid_ops.losses.triplet import BatchHardTripletLoss

__all__ = ["BatchHardTripletLoss", "LabelSmoothedCrossEntropy", "mean_over_heads"]
