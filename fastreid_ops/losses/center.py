# SPDX-License-Identifier: Apache-2.0
"""Centre loss, and the optimiser of its centres."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastreid_ops.losses import _checks as check
from fastreid_ops.losses._numeric import SMALLEST_SQUARE, full

LARGEST_SQUARE = 1e12  # of the sources' clamp


class CenterLoss(nn.Module):
    """Mean over the batch of clamp(|f_i - C_{y_i}|^2, 1e-12, 1e12), with learnt centres C.

    Wen et al., "A discriminative feature learning approach for deep face recognition", ECCV 2016, equation 2, without
    its factor 1/2 and with the mean, as in deep-person-reid and NAIC_ReID. No gradient outside the clamp.

    The centres are a parameter of the loss: give them to an optimiser (`CenterOptimizer` does it as NAIC_ReID does).
    Only B rows of C are read, nothing of size B x K is built.

    Args:
        num_classes: K, the number of training identities.
        feature_dim: D.
        check_inputs: refuse labels outside 0..K - 1 by name, which waits for a GPU.

    State: ``centers`` (K, D) float32, drawn from N(0, 1).

    Raises:
        TypeError, ValueError: sizes that are not ints of at least 1.
    """

    def __init__(self, num_classes: int, feature_dim: int, *, check_inputs: bool = True) -> None:
        super().__init__()
        check.count("CenterLoss", "num_classes", num_classes)
        check.count("CenterLoss", "feature_dim", feature_dim)
        self.centers = nn.Parameter(torch.randn(num_classes, feature_dim))
        self.check_inputs = check.flag("CenterLoss", "check_inputs", check_inputs)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Features (B, D) floating, labels (B,) int64 in 0..K - 1 -> 0-d tensor, at least float32.

        Raises:
            TypeError: features not floating, labels not int64.
            ValueError: shapes that do not fit, or a label out of range.
        """
        check.rows_and_labels("CenterLoss", "features", features, labels)
        check.width("CenterLoss", "features", features, self.centers, self.centers.shape[1], "the centres")
        if self.check_inputs:
            check.class_range("CenterLoss", "labels", labels, len(self.centers))
        square = (full(features) - full(self.centers[labels])).square().sum(1)
        return square.clamp(SMALLEST_SQUARE, LARGEST_SQUARE).mean()

    def extra_repr(self) -> str:
        return f"num_classes={self.centers.shape[0]}, feature_dim={self.centers.shape[1]}"


class CenterOptimizer:
    """SGD on the centres at their own rate, whatever weight the centre loss has in the total.

    The total contains weight * centre loss. After its backward the gradient of the centres is multiplied by 1 / weight,
    so that they follow the gradient of the unweighted loss, and a plain SGD step is taken (NAIC_ReID: weight 0.0003 or
    0.003, rate 0.5). In a training loop:

        centers = CenterOptimizer(center_loss, weight=3e-4)
        (identity + 3e-4 * center_loss(features, labels)).backward()
        optimizer.step()
        centers.step()
        centers.zero_grad()

    With a ``torch.amp.GradScaler`` call ``centers.step(scaler)`` in place of ``centers.step()`` and before
    ``scaler.update()``: the scaler then takes its scale out of the gradient (NAIC_ReID left it in) and skips the step
    where the gradient is infinite.

    Args:
        loss: the `CenterLoss`.
        weight: of the centre loss in the total, above 0.
        lr: above 0.

    Raises:
        TypeError: loss not a `CenterLoss`, or weight or lr no numbers.
        ValueError: weight or lr not above 0.
    """

    def __init__(self, loss: CenterLoss, *, weight: float, lr: float = 0.5) -> None:
        if not isinstance(loss, CenterLoss):
            raise TypeError(f"CenterOptimizer: loss: got {type(loss).__name__}, expected a CenterLoss")
        self.weight = check.number("CenterOptimizer", "weight", weight, above=0)
        self.optimizer = torch.optim.SGD(
            [loss.centers], lr=check.number("CenterOptimizer", "lr", lr, above=0)
        )

    @torch.no_grad()
    def step(self, scaler: torch.amp.GradScaler | None = None) -> None:
        """Divide the gradient by the weight, step. Without a gradient nothing happens."""
        (centers,) = self.optimizer.param_groups[0]["params"]
        if centers.grad is None:
            return
        centers.grad.mul_(1 / self.weight)
        if scaler is None:
            self.optimizer.step()
        else:
            scaler.step(self.optimizer)  # unscales, unless somebody has

    def zero_grad(self) -> None:
        self.optimizer.zero_grad()

    def state_dict(self) -> dict:
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self.optimizer.load_state_dict(state)
