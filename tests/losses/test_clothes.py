# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from fastreid_ops.losses import ClothesAdversarialLoss, ClothesAdversarialMemoryLoss


@pytest.fixture
def cal(recorded, hashed):
    want = recorded("naic_and_cloth_changing/cal_losses")
    positives = want["pid2clothes"][want["pid"]]
    return want, hashed("cal_feat", (8, 16), 1.5), want["clothes"], positives


def oracle(cosine, clothes, positives, s, epsilon, known=None):
    """Row by row, sums of exponentials as they stand."""
    total = 0
    for row, label, mask in zip(cosine, clothes, positives.bool(), strict=True):
        negative = ~mask if known is None else ~mask & known
        mask = mask if known is None else mask & known
        others = (s * row[negative]).exp().sum()
        for j in mask.nonzero().flatten():
            weight = epsilon / mask.sum().item() + ((1 - epsilon) if j == label else 0)
            total = total - weight * ((s * row[j]).exp() / ((s * row[j]).exp() + others)).log()
    return total / len(cosine)


@pytest.mark.parametrize("epsilon", [0.1, 1.0])
def test_golden(value_and_gradient, cal, epsilon):
    want, _, clothes, positives = cal
    loss = ClothesAdversarialLoss(epsilon=epsilon)
    key = f"cal_s16_e{epsilon}"
    value_and_gradient(lambda c: loss(c, clothes, positives), [want["cos"]], want[key], [want[f"{key}_grad"]])


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_definition_in_float64(same_in_float64, cal, epsilon):
    want, _, clothes, positives = cal
    loss = ClothesAdversarialLoss(5.0, epsilon)
    same_in_float64(
        lambda c: loss(c, clothes, positives.bool()),
        lambda c: oracle(c, clothes, positives, 5.0, epsilon),
        want["cos"],
    )


def last_feature_bank(features, clothes, count):
    """What the released bank holds: its dict is keyed by tensors, no two of which are equal keys."""
    bank = torch.zeros(count, features.shape[1])
    collected = {}
    for feature, label in zip(features, clothes, strict=True):
        collected.setdefault(label, []).append(feature)
    for label, values in collected.items():
        bank[label] = torch.stack(values).mean(0)
    return bank


def test_golden_memory(golden, cal):
    want, features, clothes, positives = cal
    untouched = positives.clone()
    loss = ClothesAdversarialMemoryLoss(12, 16)
    value = loss(features, clothes, positives)
    assert golden.relative(value, want["calmem_step1"]) < 1e-5
    assert golden.relative(loss.feature_memory, want["calmem_mem1"]) < 1e-5
    assert torch.equal(positives, untouched)
    assert loss.label_memory.tolist() == [0, 1, 2, 3, 4, 5] + 6 * [-1]


def test_memory_takes_the_mean_of_an_outfit(golden, cal):
    want, features, clothes, positives = cal
    original = last_feature_bank(features, clothes, 12)
    assert torch.equal(original[1], features[2])  # the last of two
    cosine = normalize(features) @ normalize(original).T
    known = torch.arange(12) < 6
    value = oracle(cosine.double(), clothes, positives, 16.0, 0.1, known)
    assert golden.relative(value, want["calmem_step1_original_tensor_keyed"]) < 1e-5
    loss = ClothesAdversarialMemoryLoss(12, 16)
    assert abs(loss(features, clothes, positives).item() - value.item()) > 1
    torch.testing.assert_close(loss.feature_memory[1], features[1:3].mean(0))


def test_memory_definition_in_float64(same_in_float64, cal):
    _, features, clothes, positives = cal
    loss = ClothesAdversarialMemoryLoss(12, 16, scale=5.0).double()
    loss.remember(features.double(), clothes)
    bank = loss.feature_memory.clone()
    known = torch.arange(12) < 6
    same_in_float64(
        lambda f: loss(f, clothes, positives, remember=False),
        lambda f: oracle(normalize(f) @ normalize(bank).T, clothes, positives, 5.0, 0.1, known),
        torch.randn(8, 16, generator=torch.Generator().manual_seed(0)),
    )
    assert torch.equal(loss.feature_memory, bank)


def test_memory_momentum_starts_when_the_bank_is_full():
    loss = ClothesAdversarialMemoryLoss(2, 1, momentum=0.75)
    loss.remember(torch.tensor([[1.0]]), torch.tensor([0]))
    loss.remember(torch.tensor([[3.0]]), torch.tensor([0]))
    assert loss.feature_memory.flatten().tolist() == [3, 0]
    loss.remember(torch.tensor([[5.0]]), torch.tensor([1]))
    loss.remember(torch.tensor([[7.0], [9.0]]), torch.tensor([1, 1]))
    assert loss.feature_memory.flatten().tolist() == [3, 0.75 * 5 + 0.25 * 8]


def test_memory_takes_no_nan(cal):
    """One overflow would stay in the bank for good."""
    _, features, clothes, positives = cal
    loss = ClothesAdversarialMemoryLoss(12, 16)
    bad = features.clone()
    bad[2, 3], bad[5, 0] = torch.nan, torch.inf
    for run in (lambda: loss(bad, clothes, positives), lambda: loss.remember(bad, clothes)):
        with pytest.raises(
            ValueError,
            match=r"features: got NaN or Inf in 2 of 8 rows \(the first is row 2\), expected finite",
        ):
            run()
    assert not loss.feature_memory.any()
    assert (loss.label_memory == -1).all()


def test_memory_writes_the_rows_of_the_batch_alone(cal):
    """The bank of a large data set is hundreds of MB: no copy of it is made."""
    _, features, clothes, _ = cal
    loss = ClothesAdversarialMemoryLoss(5000, 16)
    place, version = loss.feature_memory.data_ptr(), loss.feature_memory[100:].clone().normal_()
    loss.feature_memory[100:] = version
    with torch.profiler.profile(profile_memory=True) as profile:
        loss.remember(features, clothes)
    assert max(event.cpu_memory_usage for event in profile.events()) < loss.feature_memory.nbytes / 10
    assert loss.feature_memory.data_ptr() == place
    assert torch.equal(loss.feature_memory[100:], version)
    for outfit in clothes.unique():
        torch.testing.assert_close(loss.feature_memory[outfit], features[clothes == outfit].mean(0))


def test_memory_of_several_batches_before_one_backward(cal):
    """Gradient accumulation: what the second batch writes must not reach the gradient of the first."""
    _, features, clothes, positives = cal
    gradients = []
    for accumulate in (False, True):
        loss = ClothesAdversarialMemoryLoss(12, 16)
        leaves = [features.clone().requires_grad_(), (features + 1).requires_grad_()]
        if accumulate:
            sum([loss(leaf, clothes, positives) for leaf in leaves]).backward()
        else:
            for leaf in leaves:
                loss(leaf, clothes, positives).backward()
        gradients.append([leaf.grad for leaf in leaves])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_memory_is_saved(cal):
    _, features, clothes, positives = cal
    loss, other = ClothesAdversarialMemoryLoss(12, 16), ClothesAdversarialMemoryLoss(12, 16)
    loss.remember(features, clothes)
    other.load_state_dict(loss.state_dict())
    a, b = (x(features, clothes, positives, remember=False) for x in (loss, other))
    assert torch.equal(a, b)


def test_malformed(cal):
    want, features, clothes, positives = cal
    loss = ClothesAdversarialLoss()
    with pytest.raises(ValueError, match="positives: got 8 of 8 rows without an outfit of another person"):
        loss(want["cos"], clothes, torch.ones(8, 12))
    wrong = positives.clone()
    wrong[3, clothes[3]] = 0
    with pytest.raises(ValueError, match=r"positives: got 1 of 8 rows without their own outfit .*row 3"):
        loss(want["cos"], clothes, wrong)
    with pytest.raises(ValueError, match=r"positives: got shape \(12, 8\), expected \(8, 12\)"):
        loss(want["cos"], clothes, positives.T)
    with pytest.raises(TypeError, match="positives: got list"):
        loss(want["cos"], clothes, positives.tolist())
    with pytest.raises(ValueError, match=r"clothes: got 12, expected 0\.\.11 for 12 classes"):
        loss(want["cos"], clothes + 7, positives)
    with pytest.raises(
        ValueError, match=r"epsilon: got 1\.1, expected a finite number of at least 0 and of at most 1"
    ):
        ClothesAdversarialLoss(epsilon=1.1)
    memory = ClothesAdversarialMemoryLoss(12, 16)
    with pytest.raises(ValueError, match="positives: got 4 of 4 rows without an outfit of another person"):
        memory(features[:4], clothes[:4], positives[:4])
    assert not memory.feature_memory.any()  # refused before any work
    with pytest.raises(ValueError, match="features: got width 15, expected 16"):
        memory(features[:, :15], clothes, positives)
    with pytest.raises(ValueError, match="momentum: got 1, expected"):
        ClothesAdversarialMemoryLoss(12, 16, momentum=1)
