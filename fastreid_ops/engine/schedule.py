# SPDX-License-Identifier: Apache-2.0
"""The learning rate as a pure function of progress, so that a resumed run needs no scheduler state.

Progress is measured in epochs and fractions of one: `epoch + batches done / batches of this epoch`. Warm-up
therefore rises with every step, whatever the length of an epoch:

    progress < warmup_epochs:   factor = warmup_factor + (1 - warmup_factor) * progress / warmup_epochs
    multistep:                  factor = gamma ** (number of milestones <= progress)
    cosine:                     factor = final + (1 - final) * (1 + cos(pi * t)) / 2,   t from 0 to 1
    constant:                   factor = 1

With `per_epoch` progress is the number of whole epochs done: the rate stands still within an epoch, as in sources
that step their scheduler once an epoch. Their warm-up `f (1 - e / W) + e / W` in epoch e is then this one. A milestone
within the warm-up counts from the milestone on.

Linear warm-up followed by steps is that of Luo et al., "Bag of Tricks and a Strong Baseline for Deep Person
Re-Identification" (2019), section 3.1, there with a step once per epoch; the cosine is Loshchilov and Hutter,
"SGDR" (2017), equation 5, one period.
"""

import math
from bisect import bisect_right
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Factor on the base learning rate; all lengths in epochs."""

    name: str
    epochs: int
    warmup_epochs: float = 0.0
    warmup_factor: float = 1.0
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    final_factor: float = 0.0
    per_epoch: bool = False

    def factor(self, progress: float) -> float:
        """The factor at `progress` epochs since the start of training."""
        if self.per_epoch:
            progress = math.floor(progress)
        steps = self.gamma ** bisect_right(self.milestones, progress) if self.name == "multistep" else 1.0
        if progress < self.warmup_epochs:
            return steps * (self.warmup_factor + (1 - self.warmup_factor) * progress / self.warmup_epochs)
        if self.name == "multistep":
            return steps
        if self.name == "cosine":
            span = self.epochs - self.warmup_epochs
            t = min((progress - self.warmup_epochs) / span, 1.0) if span > 0 else 1.0
            return self.final_factor + (1 - self.final_factor) * (1 + math.cos(math.pi * t)) / 2
        return 1.0

    def apply(self, optimizer, progress: float) -> float:
        """Set the rate of every parameter group: its `base_lr` times the factor, or `base_lr` where it has
        `scheduled` False. Returns the first group's rate.
        """
        factor = self.factor(progress)
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * (factor if group.get("scheduled", True) else 1.0)
        return optimizer.param_groups[0]["lr"]


def build_schedule(config, epochs: int) -> Schedule:
    """From the `schedule` section of the configuration and the length of training."""
    return Schedule(
        config.name,
        epochs,
        config.warmup_epochs,
        config.warmup_factor,
        tuple(config.milestones),
        config.gamma,
        config.final_factor,
        config.per_epoch,
    )
