# SPDX-License-Identifier: Apache-2.0
"""CAL against recorded numbers of its original and against its loop in plain torch."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from clothes_support import OWN, Given, Small, make_batch, make_state, manifest, train_step
from torch import nn
from torch.nn import functional as F

from fastreid_ops.engine.methods import cal

RECORDED = Path(__file__).parents[1] / "golden" / "naic_and_cloth_changing" / "cal_losses.npz"


@pytest.fixture(scope="module")
def recorded(golden):
    with np.load(RECORDED) as file:
        want = {name: torch.from_numpy(np.atleast_1d(file[name])) for name in file.files}
    feature = torch.from_numpy((1.5 * golden.noise("cal_feat", 128)).reshape(8, 16).astype(np.float32))
    weight = torch.from_numpy(golden.noise("cal_w", 192).reshape(12, 16).astype(np.float32))
    return want, feature, weight


def recorded_state(recorded, lr, **clothes):
    want, feature, weight = recorded
    pairs = [
        (p, c) for p, row in enumerate(want["pid2clothes"].tolist()) for c, mine in enumerate(row) if mine
    ]
    model = Given(feature.clone(), want["cos"].clone())
    loss = {"triplet": 1.0, "label_smoothing": 0.1, "clothes": clothes}
    groups = [] if clothes.get("memory") else [{**OWN, "lr": lr}]
    state = make_state(cal, model, manifest(pairs), loss=loss, optim={"groups": groups, "weight_decay": 0.0})
    if groups:
        state.criteria["clothes_classifier"].weight.data.copy_(weight)
    return state, make_batch(None, want["pid"], want["clothes"])


@pytest.mark.parametrize(
    ("pairs", "key"),
    [
        ("triplet", "pair_triplet_cos_m0.3"),
        ("cosface", "pair_cosface"),
        ("circle", "pair_circle"),
        ("contrastive", "pair_contrastive"),
    ],
)
def test_cal_gives_the_recorded_losses(recorded, golden, pairs, key):
    want, feature, weight = recorded
    state, batch = recorded_state(recorded, 1e-20, pairs=pairs)
    losses = cal.step(state, batch)
    expected = {"pairs": key, "clothes": "cls_cosface_m0", "adversarial": "cal_s16_e0.1"}
    assert list(losses) == ["id", *expected]
    identity = F.cross_entropy(want["cos"], want["pid"], label_smoothing=0.1)
    assert golden.relative(losses["id"].detach(), identity) < 1e-5
    for name, recorded_as in expected.items():
        assert golden.relative(losses[name].detach(), want[recorded_as][0]) < 1e-5, name
    assert not losses["clothes"].requires_grad
    losses["adversarial"].backward()
    again = feature.clone().requires_grad_()
    (F.normalize(again) @ F.normalize(weight).T).backward(want["cal_s16_e0.1_grad"])
    assert golden.relative(state.model.feature.grad, again.grad) < 1e-4
    assert state.criteria["clothes_classifier"].weight.grad is None


def test_cal_with_a_bank_gives_the_recorded_loss(recorded, golden):
    want, _, _ = recorded
    state, batch = recorded_state(recorded, None, memory=True)
    losses = cal.step(state, batch)
    assert list(losses) == ["id", "pairs", "adversarial"]
    assert golden.relative(losses["adversarial"].detach(), want["calmem_step1"][0]) < 1e-5
    assert golden.relative(state.criteria["adversarial"].feature_memory, want["calmem_mem1"]) < 1e-5


def adversarial(cosine, clothes, owner, pids, s, epsilon):
    """The published formula, row by row."""
    total = 0
    for row, label, pid in zip(s * cosine, clothes, pids, strict=True):
        mine = [k for k in range(len(owner)) if owner[k] == pid]
        others = sum(row[k].exp() for k in range(len(owner)) if owner[k] != pid)
        for k in mine:
            weight = epsilon / len(mine) + (1 - epsilon) * (k == label)
            total = total - weight * (row[k] - (row[k].exp() + others).log())
    return total / len(cosine)


def test_cal_is_the_originals_loop():
    """Two optimizers and two backward passes in the order of the source, three batches: weights agree."""
    torch.manual_seed(0)
    owner = [0, 0, 1, 2, 2, 2]
    state = make_state(
        cal,
        Small(),
        manifest([(p, c) for c, p in enumerate(owner)]),
        loss={"triplet": 0.0, "clothes": {"scale": 8.0, "epsilon": 0.2}},
        optim={"name": "adam", "lr": 0.01, "weight_decay": 0.0},
    )
    net, head = Small(), nn.Parameter(torch.empty(6, 6))
    net.load_state_dict(state.model.state_dict())
    head.data.copy_(state.criteria["clothes_classifier"].weight)
    first, second = torch.optim.Adam(net.parameters(), lr=0.01), torch.optim.Adam([head], lr=0.01)
    for turn in range(3):
        images, clothes = torch.randn(8, 5), torch.randint(6, (8,))
        pids = torch.tensor(owner)[clothes]
        got = train_step(cal, state, make_batch(images, pids, clothes))
        output = net(images)
        feature = output.features[0]
        cosine = F.normalize(feature.detach()) @ F.normalize(head).T
        own = F.cross_entropy(8 * cosine, clothes)
        second.zero_grad()
        own.backward()
        second.step()
        identity = F.cross_entropy(output.logits[0], pids, label_smoothing=0.1)
        against = adversarial(F.normalize(feature) @ F.normalize(head).T, clothes, owner, pids, 8.0, 0.2)
        first.zero_grad()
        (identity + against).backward()
        first.step()
        want = {"id": identity.item(), "clothes": own.item(), "adversarial": against.item()}
        assert got == pytest.approx(want, rel=1e-4), turn
    torch.testing.assert_close(state.criteria["clothes_classifier"].weight, head, rtol=1e-4, atol=1e-5)
    for (name, mine), its in zip(state.model.named_parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("memory", [False, True])
def test_cal_begins_with_its_epoch_and_comes_back(memory):
    def new():
        torch.manual_seed(1)
        optim = {"groups": [] if memory else [OWN]}
        clothes = {"from_epoch": 2, "memory": memory}
        pairs = [(p, c) for p in range(3) for c in range(2)]
        return make_state(
            cal, Small(), manifest(pairs), loss={"triplet": 0.0, "clothes": clothes}, optim=optim
        )

    def batch(number):
        generator = torch.Generator().manual_seed(number)
        clothes = torch.randint(6, (8,), generator=generator)
        return make_batch(torch.randn(8, 5, generator=generator), clothes // 2, clothes)

    state = new()
    before = {name: value.clone() for name, value in state.criteria.state_dict().items()}
    state.epoch = 1
    assert list(train_step(cal, state, batch(0))) == ["id"]
    assert all(torch.equal(before[name], value) for name, value in state.criteria.state_dict().items())
    state.epoch = 2
    assert list(train_step(cal, state, batch(1))) == ["id", *([] if memory else ["clothes"]), "adversarial"]
    assert any(not torch.equal(before[name], value) for name, value in state.criteria.state_dict().items())
    other = new()
    other.restore(copy.deepcopy(state.capture(0, {})))
    for number in (2, 3):
        assert train_step(cal, state, batch(number)) == train_step(cal, other, batch(number))
    for name, value in state.criteria.state_dict().items():
        assert torch.equal(value, other.criteria.state_dict()[name]), name
    for name, value in state.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name]), name


def test_the_classifier_steps_in_float32_under_mixed_precision():
    def step(amp):
        torch.manual_seed(2)
        pairs = manifest([(p, c) for p in range(3) for c in range(2)])
        state = make_state(cal, Small(), pairs, loss={"triplet": 0.0}, train={"amp": amp})
        clothes = torch.arange(6)
        with state.autocast():
            losses = cal.step(state, make_batch(torch.randn(6, 5), clothes // 2, clothes))
        return losses, state.criteria["clothes_classifier"].weight

    (exact, head), (half, same) = step("off"), step("bf16")
    assert {name: value.dtype for name, value in half.items()} == dict.fromkeys(exact, torch.float32)
    assert same.dtype == torch.float32
    for name, value in exact.items():
        assert half[name].item() == pytest.approx(value.item(), rel=0.03), name
    assert not torch.equal(head, same)  # the features were bfloat16
    torch.testing.assert_close(head, same, rtol=0.05, atol=0.01)
