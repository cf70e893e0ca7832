# SPDX-License-Identifier: Apache-2.0
"""One loss over several heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def mean_over_heads(
    loss: Callable[[Tensor, Tensor], Tensor], heads: Sequence[Tensor], labels: Tensor
) -> Tensor:
    """Arithmetic mean of ``loss(head, labels)`` over the heads of a `TrainOutput` field (deep supervision).

    Raises:
        ValueError: no heads.
    """
    if len(heads) == 0:
        raise ValueError("mean_over_heads: heads: got none, expected at least one tensor")
    if len(heads) == 1:
        return loss(heads[0], labels)
    return torch.stack([loss(head, labels) for head in heads]).mean()
