# SPDX-License-Identifier: Apache-2.0
"""Losses as ``nn.Module``s: ``loss(rows (B, D), labels (B,)) -> 0-d tensor`` unless their docstring says otherwise.

Half-precision inputs are computed in float32, under autocast too. ``check_inputs=False`` leaves out what waits for a
GPU.
"""

from __future__ import annotations

from fastreid_ops.losses.center import CenterLoss, CenterOptimizer
from fastreid_ops.losses.clothes import (
    ClothesAdversarialLoss,
    ClothesAdversarialMemoryLoss,
    ClothesCrossEntropy,
)
from fastreid_ops.losses.cosine_classification import CosineClassificationLoss
from fastreid_ops.losses.cross_entropy import LabelSmoothedCrossEntropy
from fastreid_ops.losses.cross_modal import CMKICLoss, CrossModalContrastiveLoss
from fastreid_ops.losses.deen import CPMLoss, OrthogonalityLoss
from fastreid_ops.losses.distillation import KnowledgeDistillationLoss
from fastreid_ops.losses.heads import mean_over_heads
from fastreid_ops.losses.margin_heads import AMSoftmaxHead, ArcFaceHead, CircleHead, CosFaceHead
from fastreid_ops.losses.pairwise import ContrastiveLoss, PairwiseCircleLoss, PairwiseCosFaceLoss
from fastreid_ops.losses.parts import ENSEMBLE_SCALES, PartLoss
from fastreid_ops.losses.ring import RingLoss
from fastreid_ops.losses.triplet import BatchHardTripletLoss
from fastreid_ops.losses.weighted_triplet import WeightedRegularizedTripletLoss, WeightedTripletLoss

__all__ = [
    "ENSEMBLE_SCALES",
    "AMSoftmaxHead",
    "ArcFaceHead",
    "BatchHardTripletLoss",
    "CMKICLoss",
    "CPMLoss",
    "CenterLoss",
    "CenterOptimizer",
    "CircleHead",
    "ClothesAdversarialLoss",
    "ClothesAdversarialMemoryLoss",
    "ClothesCrossEntropy",
    "ContrastiveLoss",
    "CosFaceHead",
    "CosineClassificationLoss",
    "CrossModalContrastiveLoss",
    "KnowledgeDistillationLoss",
    "LabelSmoothedCrossEntropy",
    "OrthogonalityLoss",
    "PairwiseCircleLoss",
    "PairwiseCosFaceLoss",
    "PartLoss",
    "RingLoss",
    "WeightedRegularizedTripletLoss",
    "WeightedTripletLoss",
    "mean_over_heads",
]
