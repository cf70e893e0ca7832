# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn.functional import normalize

from fastreid_ops.losses import CMKICLoss, CrossModalContrastiveLoss

VISIBLE_LABELS = torch.tensor([0, 0, 0, 1, 1, 2])
INFRARED_LABELS = torch.tensor([2, 0, 1, 0, 1, 1, 2, 2])


def embeddings(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(n, 4, generator=generator, dtype=torch.float64) for n in (6, 8))


def one_way(anchors, others, labels, other_labels, k, temperature, other_positives):
    anchors, others = normalize(anchors), normalize(others)
    total = 0
    for anchor, label in zip(anchors, labels, strict=True):
        s = others @ anchor / temperature
        positives, negatives = s[other_labels == label], s[other_labels != label]
        key = positives.sort().values[:k]
        for p in key:
            competitors = s.exp().sum() if other_positives else p.exp() + negatives.exp().sum()
            total = total + (competitors.log() - p) / len(key)
    return total / len(anchors)


@pytest.mark.parametrize("k", [1, 5, 8])
def test_golden_of_cmkic(recorded, value_and_gradient, k):
    want = recorded("visible_infrared/self_losses")
    loss = CMKICLoss(k)
    value_and_gradient(lambda v, i: loss(v, i, want["y"]), [want["zv"], want["zi"]], want[f"cmkic_k{k}"])


def test_golden_of_the_contrastive_loss(recorded, value_and_gradient):
    want = recorded("visible_infrared/self_losses")
    loss = CrossModalContrastiveLoss()
    value_and_gradient(lambda v, i: loss(v, i, want["y"]), [want["zv"], want["zi"]], want["contrast"])


def test_cmkic_falls_with_the_number_of_key_instances(recorded):
    want = recorded("visible_infrared/self_losses")
    values = [CMKICLoss(k)(want["zv"], want["zi"], want["y"]).item() for k in range(1, 10)]
    assert all(a > b for a, b in itertools.pairwise(values[:8]))
    assert values[8] == values[7]  # there are 8 positives


@pytest.mark.parametrize("k", [1, 2, 9])
@pytest.mark.parametrize("other_positives", [False, True])
def test_cmkic_definition_in_float64(same_in_float64, k, other_positives):
    """Different numbers of rows in the two modalities, and of positives per row."""
    loss = CMKICLoss(k, temperature=0.3, other_positives=other_positives)

    def oracle(v, i):
        a = one_way(v, i, VISIBLE_LABELS, INFRARED_LABELS, k, 0.3, other_positives)
        return a + one_way(i, v, INFRARED_LABELS, VISIBLE_LABELS, k, 0.3, other_positives)

    same_in_float64(lambda v, i: loss(v, i, VISIBLE_LABELS, INFRARED_LABELS), oracle, *embeddings())


def test_contrastive_definition_in_float64(same_in_float64):
    loss = CrossModalContrastiveLoss(0.3)

    def oracle(v, i):
        a = one_way(v, i, VISIBLE_LABELS, INFRARED_LABELS, 9, 0.3, True)
        return (a + one_way(i, v, INFRARED_LABELS, VISIBLE_LABELS, 9, 0.3, True)) / 2

    same_in_float64(lambda v, i: loss(v, i, VISIBLE_LABELS, INFRARED_LABELS), oracle, *embeddings(1))


def test_the_contrastive_loss_reads_the_labels():
    """SS-DEC's snippet ignored them: relabelling changed nothing."""
    v, i = embeddings()
    loss = CrossModalContrastiveLoss()
    a = loss(v, i[:6], torch.tensor([0, 0, 1, 1, 2, 2]))
    b = loss(v, i[:6], torch.tensor([0, 1, 2, 0, 1, 2]))
    assert abs(a.item() - b.item()) > 1e-3


def test_length_does_not_matter():
    v, i = embeddings()
    loss = CMKICLoss(2)
    torch.testing.assert_close(
        loss(v, i, VISIBLE_LABELS, INFRARED_LABELS), loss(7 * v, 0.1 * i, VISIBLE_LABELS, INFRARED_LABELS)
    )


@pytest.mark.parametrize("loss", [CMKICLoss(), CrossModalContrastiveLoss()])
def test_malformed(loss):
    name = type(loss).__name__
    x, y = torch.randn(4, 3), torch.tensor([0, 0, 1, 1])
    with pytest.raises(ValueError, match=f"{name}: visible_labels: got 4 of 4 rows without a negative"):
        loss(x, x, torch.zeros_like(y))
    with pytest.raises(
        ValueError, match=r"visible_labels: got 2 of 4 rows without a positive .*first is row 2"
    ):
        loss(x, x, y, torch.tensor([0, 0, 0, 2]))
    with pytest.raises(ValueError, match=r"infrared_labels: got 1 of 4 rows without a positive .*row 3"):
        loss(x, x, y, torch.tensor([0, 0, 1, 2]))
    with pytest.raises(ValueError, match=f"{name}: infrared: got width 2, expected 3"):
        loss(x, x[:, :2], y)
    with pytest.raises(ValueError, match=r"infrared_labels: got shape \(4,\), expected \(3,\)"):
        loss(x, x[:3], y)
    with pytest.raises(TypeError, match=r"visible_labels: got float32"):
        loss(x, x, y.float())


def test_unchecked_rows_without_partners_add_nothing():
    v, i = (x.requires_grad_() for x in embeddings())
    loss = CMKICLoss(2, check_inputs=False)(v, i[:6], torch.zeros(6, dtype=torch.int64))
    assert loss.item() == 0
    loss.backward()
    assert v.grad.isfinite().all()
    for other_positives in (False, True):  # rows without a positive, and with fewer than k
        loss = CMKICLoss(2, other_positives=other_positives, check_inputs=False)
        (gradient,) = torch.autograd.grad(loss(v, i, VISIBLE_LABELS + 1, INFRARED_LABELS), v)
        assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"k": 0}, ValueError, "k: got 0, expected an int of at least 1"),
        ({"k": 2.0}, TypeError, "k: got float, expected an int"),
        ({"temperature": 0.0}, ValueError, r"temperature: got 0\.0, expected a finite number above 0"),
    ],
)
def test_bad_options(arguments, error, text):
    with pytest.raises(error, match=f"CMKICLoss: {text}"):
        CMKICLoss(**arguments)
