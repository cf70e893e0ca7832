# SPDX-License-Identifier: Apache-2.0
"""Identity loss."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from fastreid_ops.losses import _checks as check
from fastreid_ops.losses._numeric import full

SMOOTHING = ("uniform", "others")


class LabelSmoothedCrossEntropy(nn.Module):
    """Cross entropy against smoothed targets q, mean over the batch of -sum_k q_k log softmax(x)_k.

    =============  ===================================  =====================================================
    ``smoothing``  target                               used by
    =============  ===================================  =====================================================
    ``uniform``    q = (1 - eps) onehot(y) + eps / K    deep-person-reid, NAIC_ReID, Simple-CCReID; Szegedy et
                                                        al., "Rethinking the Inception architecture", CVPR
                                                        2016, section 7
    ``others``     q_y = 1 - eps, eps / (K - 1) else    fast-reid, and so WRIM-Net
    =============  ===================================  =====================================================

    fast-reid divides by the number of rows whose loss is not exactly 0; here it is the mean over the batch, which is
    the same for every eps above 0.

    Args:
        epsilon: in [0, 1); 0 is plain cross entropy.
        smoothing: the convention, see above.
        num_classes: refuse logits of another width. The cloth-changing network's original smoothed its clothes logits
            with the number of identities, so that the targets of a row did not sum to 1.
        check_inputs: refuse labels outside 0..K - 1 by name. Costs one wait for the device per call on a GPU, where it
            may be left out when the labels come from a relabelled manifest.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: epsilon outside [0, 1), an unknown convention, num_classes below 1.
    """

    def __init__(
        self,
        epsilon: float = 0.1,
        *,
        smoothing: str = "uniform",
        num_classes: int | None = None,
        check_inputs: bool = True,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.epsilon = check.number(name, "epsilon", epsilon, at_least=0, below=1)
        self.smoothing = check.choice(name, "smoothing", smoothing, SMOOTHING)
        self.num_classes = None if num_classes is None else check.count(name, "num_classes", num_classes)
        self.check_inputs = check.flag(type(self).__name__, "check_inputs", check_inputs)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits (B, K) floating, labels (B,) int64 in 0..K - 1 -> 0-d tensor, float32 for half-precision logits.

        Raises:
            TypeError: logits not floating, labels not int64.
            ValueError: shapes that do not fit, a label out of range, or fewer than 2 classes for ``others``.
        """
        name = type(self).__name__
        check.class_labels(name, "logits", logits, labels, check_range=self.check_inputs)
        classes = logits.shape[1]
        if self.num_classes is not None and classes != self.num_classes:
            raise ValueError(f"{name}: logits: got {classes} classes, expected {self.num_classes}")
        if self.smoothing == "others" and classes < 2:
            raise ValueError(
                f"{name}: logits: got {classes} class, expected at least 2 to smooth over the others"
            )
        logits = full(logits)
        # eps over the others is eps K / (K - 1) over all, of which the true class gets its part back.
        mass = self.epsilon * (1 if self.smoothing == "uniform" else classes / (classes - 1))
        if mass <= 1:
            return F.cross_entropy(logits, labels, label_smoothing=mass)
        true, flat = (F.cross_entropy(logits, labels, label_smoothing=m) for m in (0.0, 1.0))
        return (1 - mass) * true + mass * flat

    def extra_repr(self) -> str:
        classes = "" if self.num_classes is None else f", num_classes={self.num_classes}"
        return f"epsilon={self.epsilon}, smoothing={self.smoothing!r}{classes}"
