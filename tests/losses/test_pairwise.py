# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from fastreid_ops.losses import (
    BatchHardTripletLoss,
    ContrastiveLoss,
    PairwiseCircleLoss,
    PairwiseCosFaceLoss,
)

LABELS = torch.tensor([0, 0, 1, 1, 1, 2, 2, 0, 0])
LOSSES = {
    "cosface": PairwiseCosFaceLoss(),
    "cosface_m0.25": PairwiseCosFaceLoss(margin=0.25),
    "circle": PairwiseCircleLoss(),
    "contrastive": ContrastiveLoss(),
    "triplet_cos_m0.3": BatchHardTripletLoss(0.3, metric="cosine"),
}


@pytest.mark.parametrize("key", LOSSES)
def test_golden(recorded, hashed, value_and_gradient, key):
    want = recorded("naic_and_cloth_changing/cal_losses")
    value_and_gradient(
        lambda f: LOSSES[key](f, want["pid"]),
        [hashed("cal_feat", (8, 16), 1.5)],
        want[f"pair_{key}"],
        [want[f"pair_{key}_grad"]],
    )


def oracle(key, features, labels, s, m):
    """Row by row, sums of exponentials as they stand."""
    unit = normalize(features)
    terms = []
    for i in range(len(labels)):
        c = torch.stack([unit[i] @ u for u in unit])
        mine = (labels == labels[i]) & (torch.arange(len(labels)) != i)
        p, n = c[mine], c[labels != labels[i]]
        if key == "contrastive":
            terms.append(
                -torch.stack(
                    [((s * a).exp() / ((s * a).exp() + (s * n).exp().sum())).log() for a in p]
                ).mean()
            )
        elif key == "triplet":
            # its own cosine, 1, is never the smallest of the positives
            terms.append((n.max() - p.min() + m).relu())
        else:
            if key == "circle":
                apart = s * (n + m).detach().relu() * (n - m)
                together = s * (1 + m - p).detach().relu() * (1 - m - p)
            else:
                apart, together = s * (n + m), -s * p
            terms.append((1 + apart.exp().sum() * together.exp().sum()).log())
    return torch.stack(terms).mean()


@pytest.mark.parametrize(
    ("key", "loss"),
    [
        ("cosface", PairwiseCosFaceLoss(6.0, 0.1)),
        ("circle", PairwiseCircleLoss(6.0, 0.1)),
        ("contrastive", ContrastiveLoss(6.0)),
        ("triplet", BatchHardTripletLoss(0.1, metric="cosine")),
    ],
)
def test_definition_in_float64(same_in_float64, key, loss):
    """Identities with different numbers of rows."""
    x = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    same_in_float64(lambda f: loss(f, LABELS), lambda f: oracle(key, f, LABELS, 6.0, 0.1), x)


@pytest.mark.parametrize("loss", [PairwiseCosFaceLoss(), PairwiseCircleLoss(), ContrastiveLoss()])
def test_malformed(loss):
    """Without a positive the originals take the logarithm of 0, or 0 / 0."""
    name = type(loss).__name__
    x = torch.randn(4, 3)
    with pytest.raises(ValueError, match=f"{name}: labels: got one identity in a batch of 4"):
        loss(x, torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match=f"{name}: labels: got 2 of 4 rows without another row of the same"):
        loss(x, torch.tensor([0, 0, 1, 2]))
    with pytest.raises(TypeError, match=f"{name}: features: got int64"):
        loss(x.long(), torch.tensor([0, 0, 1, 1]))
    with pytest.raises(ValueError, match=f"{name}: scale: got -1, expected a finite number above 0"):
        type(loss)(-1)


@pytest.mark.parametrize("kind", [PairwiseCosFaceLoss, PairwiseCircleLoss, ContrastiveLoss])
def test_unchecked_rows_without_a_positive_add_nothing(kind):
    x = torch.randn(4, 3, requires_grad=True)
    loss = kind(check_inputs=False)(x, torch.arange(4))
    assert loss.item() == 0
    loss.backward()
    assert x.grad.isfinite().all()
