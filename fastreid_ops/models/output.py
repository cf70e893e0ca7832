# SPDX-License-Identifier: Apache-2.0
"""What a model hands to the losses."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from torch import Tensor


class TrainOutput(NamedTuple):
    """Result of a model's ``forward`` in training mode.

    In evaluation mode a model returns a feature tensor (B, D) instead: the identities it was trained on do not
    exist in a test set, so the classifier is of no use there and ranking is done on the feature.

    Attributes:
        logits: tuple of (B, num_classes) floating tensors, for the identity loss.
        features: tuple of (B, D) floating tensors, for the metric loss.
        parts: tuple of (B, P) floating tensors, features of body parts; empty where a model has none.
        auxiliary: further tensors by name, for the losses of one system; the model's docstring lists them.
    """

    logits: tuple[Tensor, ...]
    features: tuple[Tensor, ...]
    parts: tuple[Tensor, ...] = ()
    auxiliary: Mapping[str, Tensor] = MappingProxyType({})
