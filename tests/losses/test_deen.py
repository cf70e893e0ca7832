# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cosine_similarity

from fastreid_ops.losses import CPMLoss, OrthogonalityLoss

LABELS = torch.tensor([0, 0, 1, 1, 2, 2] * 2)


def pairs(seed=0, rows=12, scale=0.2):
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(rows, 4, generator=generator, dtype=torch.float64) for _ in range(2)]


def cpm(original, generated, labels, margin, form):
    """Term by term from the equations."""
    half = len(labels) // 2
    ids = sorted(set(labels.tolist()))

    def centres(x, part):
        return [x[part][labels[part] == i].mean(0) for i in ids]

    first, second = slice(0, half), slice(half, None)
    v, n = centres(original, first), centres(original, second)
    v_new, n_new = centres(generated, first), centres(generated, second)

    def d(a, b):
        return (a - b).pow(2).sum().sqrt()

    def near(c, j):
        return min((d(c[j], c[k]) for k in range(len(c)) if k != j), key=lambda x: x.item())

    total = 0
    for own, other, new in ((v, n, v_new), (n, v, n_new)):
        for j in range(len(ids)):
            across = d(other[j], new[j])
            if form == "paper":
                total = total + (across - d(own[j], new[j]) - near(own, j) + margin).relu()
            else:
                total = total + 0.5 * (across - d(own[j], new[j]).detach() + margin).relu()
                total = total + 0.25 * (across - near(new, j) + margin).relu()
                total = total + 0.25 * (across - near(own, j) + margin).relu()
    return total / len(ids)


@pytest.mark.parametrize("scale", [1, 0.05])
def test_golden_cpm(recorded, value_and_gradient, scale):
    want = recorded("visible_infrared/losses")
    z = scale * want["z"]
    labels = want["labels4"][:24]
    value_and_gradient(
        lambda a, b: CPMLoss()(a, b, labels),
        [z[:24], z[24:]],
        want["cpm_x4" if scale == 1 else "cpm_x4_scaled"],
    )


def test_golden_of_both_branches(recorded, value_and_gradient):
    want = recorded("visible_infrared/losses")
    labels = want["labels6"][:24]
    value_and_gradient(
        lambda f, g1, g2: 0.8 * (CPMLoss()(f, g1, labels) + CPMLoss()(f, g2, labels)),
        want["z6"].chunk(3),
        want["cpm_total_x6"],
    )
    value_and_gradient(
        lambda g1, g2: OrthogonalityLoss("code")([g1, g2]), want["z6"].chunk(3)[1:], want["ort_x6"]
    )


def test_golden_branch_orthogonality(recorded, value_and_gradient):
    want = recorded("visible_infrared/self_losses")
    value_and_gradient(lambda b: OrthogonalityLoss("cosine")(list(b)), [want["br"]], want["branch_orth"])


@pytest.mark.parametrize("form", ["code", "paper"])
@pytest.mark.parametrize("margin", [0.0, 0.2, 0.9])
def test_cpm_definition_in_float64(same_in_float64, form, margin):
    loss = CPMLoss(margin, form=form)
    original, generated = pairs()
    # Nothing depends on the order of the rows in a half; the infrared half has another one.
    order = torch.tensor([0, 1, 2, 3, 4, 5, 9, 6, 11, 7, 10, 8])
    labels = LABELS[order]
    same_in_float64(
        lambda a, b: loss(a, b, labels), lambda a, b: cpm(a, b, labels, margin, form), original, generated
    )


def test_cpm_with_unequal_counts(same_in_float64):
    labels = torch.tensor([7, 7, 3, 3, 7, 3])
    same_in_float64(
        lambda a, b: CPMLoss()(a, b, labels), lambda a, b: cpm(a, b, labels, 0.2, "code"), *pairs(1, 6)
    )


@pytest.mark.parametrize("form", ["code", "paper"])
def test_cpm_without_checks(same_in_float64, form):
    """The same numbers without the wait that counts the identities; those of one half only are left out."""
    loss = CPMLoss(0.4, form=form, check_inputs=False)
    same_in_float64(lambda a, b: loss(a, b, LABELS), lambda a, b: cpm(a, b, LABELS, 0.4, form), *pairs(2))
    labels = torch.tensor([5, 0, 0, 1, 1, 2, 0, 0, 1, 1, 2, 9])
    both = (labels != 5) & (labels != 9)
    same_in_float64(
        lambda a, b: loss(a, b, labels),
        lambda a, b: cpm(a[both], b[both], labels[both], 0.4, form),
        *pairs(3),
    )


def test_cpm_margin_is_used():
    """The published code takes a margin and uses 0.2 whatever it is."""
    a, b = pairs()
    assert CPMLoss(0.9)(a, b, LABELS).item() > CPMLoss(0.2)(a, b, LABELS).item() + 0.5


@pytest.mark.parametrize("shape", [(6, 4), (3, 5, 4)])
def test_orthogonality_definitions_in_float64(same_in_float64, shape):
    generator = torch.Generator().manual_seed(0)
    three = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3)]
    couples = ((0, 1), (0, 2), (1, 2))
    inner = lambda *b: sum((b[i] * b[j]).sum(-1).mean() for i, j in couples)  # noqa: E731
    same_in_float64(lambda *b: OrthogonalityLoss("code")(b), lambda *b: inner(*b) / 4, *three)
    same_in_float64(lambda *b: OrthogonalityLoss("paper")(b), inner, *three)
    same_in_float64(
        lambda *b: OrthogonalityLoss("cosine")(b),
        lambda *b: sum(cosine_similarity(b[i], b[j], dim=-1).abs().mean() for i, j in couples) / 3,
        *three,
    )


def test_orthogonality_is_between_branches():
    """The snippets' loss pushed the tokens of one image apart and doubled with the batch: orthogonal branches of equal
    tokens cost nothing here, equal branches everything, whatever the batch."""
    a, b = torch.zeros(2, 5, 4), torch.zeros(2, 5, 4)
    a[..., 0], b[..., 1] = 2.0, -3.0
    loss = OrthogonalityLoss("cosine")
    assert loss([a, b]).item() == 0
    assert loss([a, 5 * a]).item() == pytest.approx(1.0)
    assert loss([a.repeat(2, 1, 1), a.repeat(2, 1, 1)]).item() == pytest.approx(1.0)


def test_malformed_cpm():
    a, b = (x.float() for x in pairs())
    loss = CPMLoss()
    with pytest.raises(ValueError, match="labels: got one identity in a batch of 12"):
        loss(a, b, torch.zeros(12, dtype=torch.int64))
    with pytest.raises(
        ValueError, match=r"labels: got 2 of 6 rows without a visible row of their identity .*row 4"
    ):
        loss(a, b, torch.tensor([0, 0, 1, 1, 1, 1, 0, 0, 1, 1, 2, 2]))
    with pytest.raises(
        ValueError, match=r"labels: got 2 of 6 rows without an infrared row of their identity .*row 4"
    ):
        loss(a, b, torch.tensor([0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 1, 1]))
    with pytest.raises(ValueError, match="original: got 11 rows, expected an even number"):
        loss(a[:11], b[:11], LABELS[:11])
    with pytest.raises(
        ValueError, match=r"generated: got shape \(11, 4\), expected \(12, 4\), that of original"
    ):
        loss(a, b[:11], LABELS)
    with pytest.raises(ValueError, match="form: got 'book', expected one of code or paper"):
        CPMLoss(form="book")
    with pytest.raises(ValueError, match=r"margin: got -0\.2"):
        CPMLoss(-0.2)


def test_malformed_branches():
    a = torch.randn(3, 4)
    for branches, error, text in (
        ([a], ValueError, "got 1, expected at least 2"),
        ([a, a[:2]], ValueError, r"got shape \(2, 4\)"),
        ([a[0], a[0]], ValueError, r"got shape \(4,\)"),
        ([a, a.long()], TypeError, r"got int64"),
        ([a, None], TypeError, "got NoneType"),
    ):
        with pytest.raises(error, match=f"OrthogonalityLoss: branches: {text}"):
            OrthogonalityLoss()(branches)
    with pytest.raises(ValueError, match="form: got 'sine'"):
        OrthogonalityLoss("sine")
