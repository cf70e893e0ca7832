# SPDX-License-Identifier: Apache-2.0
"""What a margin does to cosine logits. With c = cos(theta), m the margin and s the scale, per entry of (B, K)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Under the root of sin(theta) = sqrt(1 - c^2): at c = +-1, and just beyond it by rounding, its slope is infinite. The
# original's 0 * inf made every gradient NaN as soon as any class stood there.
SMALLEST_SQUARED_SINE = 1e-12


def arcface(
    cosine: Tensor,
    labels: Tensor,
    *,
    scale: float,
    margin: float,
    easy_margin: bool = False,
    ls_eps: float = 0.0,
) -> Tensor:
    """s cos(theta + m) on the true class and s c elsewhere.

    Deng et al., "ArcFace: additive angular margin loss for deep face recognition", CVPR 2019, equation 3. Where
    theta + m would pass pi, that is c <= cos(pi - m), the true class gets c - m sin(pi - m) instead; with
    ``easy_margin`` every c <= 0 stays c. ``ls_eps`` is the option of NAIC_ReID: every class gets the share
    q = (1 - ls_eps) onehot + ls_eps / K of the difference between the two.
    """
    if ls_eps == 0:
        index = labels.unsqueeze(1)
        target = _arcface_target(cosine.gather(1, index), margin, easy_margin)
        return cosine.scatter(1, index, target) * scale
    share = torch.full_like(cosine, ls_eps / cosine.shape[1])
    share = share.scatter_add(1, labels.unsqueeze(1), share.new_full((len(labels), 1), 1 - ls_eps))
    return (cosine + share * (_arcface_target(cosine, margin, easy_margin) - cosine)) * scale


def _arcface_target(cosine: Tensor, margin: float, easy_margin: bool) -> Tensor:
    sine = ((1 - cosine) * (1 + cosine)).clamp_min(SMALLEST_SQUARED_SINE).sqrt()
    shifted = cosine * math.cos(margin) - sine * math.sin(margin)
    if easy_margin:
        return torch.where(cosine > 0, shifted, cosine)
    fallback = cosine - margin * math.sin(math.pi - margin)
    return torch.where(cosine > math.cos(math.pi - margin), shifted, fallback)


def cosface(cosine: Tensor, labels: Tensor, *, scale: float, margin: float) -> Tensor:
    """s (c - m) on the true class and s c elsewhere.

    Wang et al., "CosFace: large margin cosine loss for deep face recognition", CVPR 2018, equation 4; Wang et al.,
    "Additive margin softmax for face verification", 2018, is the same.
    """
    index = labels.unsqueeze(1)
    return cosine.scatter_add(1, index, cosine.new_full((len(labels), 1), -margin)) * scale


def circle(cosine: Tensor, labels: Tensor, *, scale: float, margin: float) -> Tensor:
    """s a_p (c - 1 + m) on the true class and s a_n (c - m) elsewhere, a_p = relu(1 + m - c) and a_n = relu(c + m)
    without gradient.

    Sun et al., "Circle loss: a unified perspective of pair similarity optimization", CVPR 2020, equations 5 and 6,
    with class-level labels.
    """
    weight = (cosine.detach() + margin).clamp_min(0)
    logits = weight * (cosine - margin)
    index = labels.unsqueeze(1)
    true = cosine.gather(1, index)
    weight = (1 + margin - true.detach()).clamp_min(0)
    return logits.scatter(1, index, weight * (true - 1 + margin)) * scale
