# SPDX-License-Identifier: Apache-2.0
"""Losses on clothes labels, for cloth-changing re-identification."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastreid_ops.losses import _checks as check
from fastreid_ops.losses._numeric import cosine_logits, full, logsumexp_without
from fastreid_ops.losses.cross_entropy import LabelSmoothedCrossEntropy


class ClothesCrossEntropy(LabelSmoothedCrossEntropy):
    """Label-smoothed cross entropy on clothes logits, smoothed over the number of clothes.

    The loss of the correction branch of the cloth-changing network, whose original smoothed with the number of
    identities: its targets then sum to 1 - eps + eps * clothes / identities. Logits of another width are refused.

    Args:
        num_clothes: K of the logits.
        epsilon: in [0, 1).
        smoothing, check_inputs: as for `LabelSmoothedCrossEntropy`.
    """

    def __init__(
        self,
        num_clothes: int,
        epsilon: float = 0.1,
        *,
        smoothing: str = "uniform",
        check_inputs: bool = True,
    ) -> None:
        super().__init__(epsilon, smoothing=smoothing, num_classes=num_clothes, check_inputs=check_inputs)


class ClothesAdversarialLoss(nn.Module):
    """CAL's clothes-based adversarial loss: every outfit of a person should be as likely as the one worn.

    Gu et al., "Clothes-changing person re-identification with RGB modality only", CVPR 2022. With
    z = s * cosine, n the number of outfits of the person, and the log of the sum over the outfits of *other* persons
    N = log sum exp z_k:

        log p_j = z_j - log(exp z_j + exp N)            outfits of one person do not compete
        loss = mean over rows of -(1 - eps) log p_own - eps / n * sum over the person's outfits of log p_j

    The paper's weights are those of the released code, eps = 0.1; eps = 1 weighs all outfits of a person alike.

    Args:
        scale: s, above 0.
        epsilon: in [0, 1].
        check_inputs: refuse labels out of range and masks that do not fit them; waits for a GPU. Without it a row
            without a negative costs nothing.

    Raises:
        TypeError: scale or epsilon no numbers.
        ValueError: scale or epsilon out of range.
    """

    def __init__(self, scale: float = 16.0, epsilon: float = 0.1, *, check_inputs: bool = True) -> None:
        super().__init__()
        self.scale = check.number("ClothesAdversarialLoss", "scale", scale, above=0)
        self.epsilon = check.number("ClothesAdversarialLoss", "epsilon", epsilon, at_least=0, at_most=1)
        self.check_inputs = check.flag("ClothesAdversarialLoss", "check_inputs", check_inputs)

    def forward(self, cosine: Tensor, clothes: Tensor, positives: Tensor) -> Tensor:
        """Cosines (B, K) of a normalised clothes classifier, clothes (B,) int64 in 0..K - 1, positives (B, K) bool or
        0/1: the outfits of the row's person (rows of the pid x clothes matrix) -> 0-d tensor, at least float32.

        Raises:
            TypeError: cosines not floating, clothes not int64, positives no tensor.
            ValueError: shapes that do not fit, a label out of range, a row whose own outfit is no positive or whose
                positives leave no negative.
        """
        name = "ClothesAdversarialLoss"
        check.rows_and_labels(name, "cosine", cosine, clothes, labels_name="clothes")
        positive = _positives(name, positives, cosine.shape, clothes)
        if self.check_inputs:
            check.class_range(name, "clothes", clothes, cosine.shape[1])
            _check_masks(name, clothes, positive, ~positive)
        return _adversarial(full(cosine) * self.scale, clothes, positive, ~positive, self.epsilon)

    def extra_repr(self) -> str:
        return f"scale={self.scale}, epsilon={self.epsilon}"


class ClothesAdversarialMemoryLoss(nn.Module):
    """`ClothesAdversarialLoss` with cosines to a bank of the last features of every outfit instead of a classifier.

    Before the loss the bank takes in the batch: the row of every outfit in it becomes the mean of its features (once
    every row has been filled: momentum * old + (1 - momentum) * mean). Outfits never seen are left out, of the
    positives as of the negatives. No gradient reaches the bank. The released code keeps the *last* feature of each
    outfit, because it collects them under tensors, of which no two are the same key.

    Each process keeps its own bank; to fill it from several, gather the features, call `remember` and pass
    ``remember=False``.

    Args:
        num_clothes: K.
        feature_dim: D.
        momentum: in [0, 1); the source's 0.
        scale, epsilon: as for `ClothesAdversarialLoss`.
        check_inputs: as for `ClothesAdversarialLoss`, and refuse features that are not finite: they would stay in the
            bank.

    Memory: one copy of the bank; the bank itself is written in place, in the rows of the batch alone.

    State: ``feature_memory`` (K, D) float32 and ``label_memory`` (K,) int64, -1 where an outfit was never seen.

    Raises:
        TypeError, ValueError: arguments of a wrong type or out of range.
    """

    def __init__(
        self,
        num_clothes: int,
        feature_dim: int,
        *,
        momentum: float = 0.0,
        scale: float = 16.0,
        epsilon: float = 0.1,
        check_inputs: bool = True,
    ) -> None:
        super().__init__()
        name = "ClothesAdversarialMemoryLoss"
        check.count(name, "num_clothes", num_clothes)
        check.count(name, "feature_dim", feature_dim)
        self.momentum = check.number(name, "momentum", momentum, at_least=0, below=1)
        self.scale = check.number(name, "scale", scale, above=0)
        self.epsilon = check.number(name, "epsilon", epsilon, at_least=0, at_most=1)
        self.check_inputs = check.flag("ClothesAdversarialMemoryLoss", "check_inputs", check_inputs)
        self.register_buffer("feature_memory", torch.zeros(num_clothes, feature_dim))
        self.register_buffer("label_memory", torch.full((num_clothes,), -1))

    def forward(
        self, features: Tensor, clothes: Tensor, positives: Tensor, *, remember: bool = True
    ) -> Tensor:
        """Features (B, D) floating, clothes (B,) int64 in 0..K - 1, positives (B, K) as for `ClothesAdversarialLoss`
        -> 0-d tensor, at least float32.

        Raises:
            TypeError: features not floating, clothes not int64, positives no tensor.
            ValueError: shapes that do not fit, a label out of range, NaN or Inf, a row whose own outfit is no positive,
                or one without an outfit of another person in bank or batch (one identity in the first batch).
        """
        name = "ClothesAdversarialMemoryLoss"
        self._check(name, features, clothes)
        classes = len(self.feature_memory)
        positive = _positives(name, positives, (len(features), classes), clothes)
        known = self.label_memory >= 0
        if remember:
            known = known.index_fill(0, clothes, True)
        negative = ~positive & known
        positive = positive & known
        if self.check_inputs:
            _check_masks(name, clothes, positive, negative)
        if remember:
            self._remember(features, clothes)
        # Of a copy: another batch may write into the bank before the backward of this one.
        logits = cosine_logits(features, self.feature_memory.clone()) * self.scale
        return _adversarial(logits, clothes, positive, negative, self.epsilon)

    def remember(self, features: Tensor, clothes: Tensor) -> None:
        """Take features (B, D) and clothes (B,) into the bank. Raises as `forward`."""
        self._check("ClothesAdversarialMemoryLoss", features, clothes)
        self._remember(features, clothes)

    def _check(self, name: str, features: Tensor, clothes: Tensor) -> None:
        check.rows_and_labels(name, "features", features, clothes, labels_name="clothes")
        bank = self.feature_memory
        check.width(name, "features", features, bank, bank.shape[1], "the bank")
        if self.check_inputs:
            check.class_range(name, "clothes", clothes, len(bank))
            check.finite(name, "features", features)

    @torch.no_grad()
    def _remember(self, features: Tensor, clothes: Tensor) -> None:
        bank = self.feature_memory
        same = clothes.unsqueeze(1) == clothes
        first = same.int().argmax(dim=1)  # of the rows of an outfit, which add up in its place
        total = torch.zeros_like(features, dtype=bank.dtype).index_add(0, first, features.to(bank.dtype))
        mean = total[first] / same.sum(dim=1, keepdim=True)
        # A number on the device, not a branch on the host: nothing waits.
        keep = self.momentum * (self.label_memory >= 0).all()
        bank[clothes] = keep * bank[clothes] + (1 - keep) * mean  # rows of one outfit write the same
        self.label_memory[clothes] = clothes

    def extra_repr(self) -> str:
        classes, width = self.feature_memory.shape
        return f"{classes}, {width}, momentum={self.momentum}, scale={self.scale}, epsilon={self.epsilon}"


def _positives(name: str, positives: Tensor, shape: tuple[int, int], clothes: Tensor) -> Tensor:
    """The mask as bool (B, K)."""
    check.tensor(name, "positives", positives)
    if positives.shape != shape:
        raise ValueError(f"{name}: positives: got shape {tuple(positives.shape)}, expected {tuple(shape)}")
    check.same_device(name, "positives", positives, "clothes", clothes)
    return positives != 0


def _check_masks(name: str, clothes: Tensor, positive: Tensor, negative: Tensor) -> None:
    own = positive.gather(1, clothes.unsqueeze(1)).squeeze(1)
    check.every_row(name, "positives", own, "their own outfit")
    check.every_row(name, "positives", negative.any(1), "an outfit of another person")


def _adversarial(
    logits: Tensor, clothes: Tensor, positive: Tensor, negative: Tensor, epsilon: float
) -> Tensor:
    """Mean over the rows of the weighted log(1 + exp(N - z_j)), which is -log p_j."""
    term = nn.functional.softplus(logsumexp_without(logits, ~negative).unsqueeze(1) - logits)
    own = term.gather(1, clothes.unsqueeze(1)).squeeze(1)
    outfits = (term * positive).sum(1) / positive.sum(1).clamp_min(1)
    return ((1 - epsilon) * own + epsilon * outfits).mean()
