# SPDX-License-Identifier: Apache-2.0
"""Training with fixed batch statistics."""

from __future__ import annotations

from torch import nn


def freeze_batch_norm(module: nn.Module) -> int:
    """Let every batch normalisation inside ``module`` use its running statistics and stop updating them.

    Weights and biases keep training, and the ``training`` flag of ``module`` itself stays as it is, so a model still
    returns its training output. ``module.train()`` undoes it: call again afterwards.

    Returns:
        Number of layers frozen (BatchNorm1d, 2d, 3d and SyncBatchNorm).
    """
    layers = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for layer in layers:
        layer.eval()
    return len(layers)
