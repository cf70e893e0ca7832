# SPDX-License-Identifier: Apache-2.0
"""Exponential moving average of a model's weights: a second model that follows the trained one.

After step t: average = d * average + (1 - d) * weights with d = min(decay, (1 + t) / (10 + t)), so that the
first steps do not cling to the random start (the warm-up of TensorFlow's ExponentialMovingAverage).
Batch-norm statistics are averaged as well, integer buffers copied. Where averaging is on, the average is what
is evaluated, exported and called the model.
"""

import copy

import torch
from torch import nn


class Ema:
    """`model` is the average, in eval mode and without gradients; `update(source, step)` moves it."""

    def __init__(self, source: nn.Module, decay: float):
        self.decay = decay
        self.model = copy.deepcopy(source).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, source: nn.Module, step: int) -> None:
        """Follow `source`, the weights after optimizer step number `step` (the first is 1)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        average = self.model.state_dict()
        for name, value in source.state_dict().items():
            if value.is_floating_point():
                average[name].lerp_(value, 1 - decay)
            else:
                average[name].copy_(value)
