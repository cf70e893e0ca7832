# SPDX-License-Identifier: Apache-2.0
"""The plainest contract: one feature, one classifier on it."""

from __future__ import annotations

from torch import Tensor, nn
from torch.func import functional_call

from fastreid_ops.models.output import TrainOutput


class FeatureClassifier(nn.Module):
    """Model with one feature and a linear classifier on that feature.

    Evaluation: images (B, 3, H, W) -> (B, ``feature_dim``), not normalised. Training: one head of logits
    (B, num_classes) and the same feature. A subclass sets ``feature_dim`` and ``classifier`` and writes `embed`.
    """

    feature_dim: int
    classifier: nn.Module

    def embed(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, ``feature_dim``)."""
        raise NotImplementedError  # each network has its own

    def forward(self, images: Tensor) -> Tensor | TrainOutput:
        feature = self.embed(images)
        if not self.training:
            return feature
        return TrainOutput((self.classifier(feature),), (feature,))


def as_fixed(module: nn.Module, inputs: Tensor) -> Tensor:
    """``module(inputs)`` with a gradient into the inputs and none into the module's parameters: for what is trained by
    a loss and an optimiser of its own. Statistics of batch normalisation are updated all the same."""
    return functional_call(module, {name: p.detach() for name, p in module.named_parameters()}, (inputs,))
