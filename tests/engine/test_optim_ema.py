# SPDX-License-Identifier: Apache-2.0
"""The optimizer step and the averaged weights against plain arithmetic."""

import copy

import pytest
import torch
from torch import nn

from fastreid_ops.config.schema import OptimConfig
from fastreid_ops.engine.ema import Ema
from fastreid_ops.engine.optim import build_optimizer, optimizer_step, parameter_groups


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


PLAIN = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=5e-4, foreach=False),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=5e-4, foreach=False),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=5e-4, foreach=False),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=5e-4, amsgrad=True, foreach=False),
}


@pytest.mark.parametrize("name", list(PLAIN))
def test_a_parameter_whose_gradients_begin_later(name):
    ours = nn.ParameterList([torch.ones(3), torch.ones(2)])
    theirs = copy.deepcopy(ours)
    optimizer, plain = build_optimizer({"model": ours}, OptimConfig(name=name, lr=0.1)), PLAIN[name](theirs)
    for step in range(4):
        for parameters in (ours, theirs):
            for place, parameter in enumerate(parameters):
                late = place == 1 and step < 2
                parameter.grad = None if late else torch.full_like(parameter, 0.5 + step)
        optimizer_step(optimizer, None, None)
        plain.step()
    for mine, his in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, his, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", list(PLAIN))
def test_every_optimizer_is_the_one_of_its_name(name):
    # without a norm: the bias before one has no gradient but noise, which Adam blows up
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    theirs = copy.deepcopy(ours)
    optimizer = build_optimizer({"model": ours}, OptimConfig(name=name, lr=0.1))
    plain = PLAIN[name](theirs.parameters())
    x = torch.randn(8, 4)
    for _ in range(4):
        for model in (ours, theirs):
            model(x).square().mean().backward()
        optimizer_step(optimizer, None, None)
        plain.step()
        plain.zero_grad()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_groups():
    model = network()
    model[2].bias.requires_grad_(False)
    twice = {"model": model, "criteria": model}
    ((_, groups),) = parameter_groups(twice, OptimConfig(decay_bias_and_norm=False, weight_decay=0.5))
    assert [sorted(p.ndim for p in g["params"]) for g in groups] == [[2, 2], [1, 1, 1]]
    assert [g["weight_decay"] for g in groups] == [0.5, 0.0]
    ((_, groups),) = parameter_groups({"model": model}, OptimConfig())
    assert [len(g["params"]) for g in groups] == [5]
    with pytest.raises(ValueError, match="no trainable parameter"):
        build_optimizer({"model": nn.ReLU()}, OptimConfig())


def test_norm_and_clip():
    model = nn.Linear(3, 1, bias=False)
    optimizer = build_optimizer(
        {"model": model}, OptimConfig(name="sgd", lr=1.0, momentum=0.0, weight_decay=0.0)
    )
    before = model.weight.detach().clone()
    model.weight.grad = torch.tensor([[3.0, 4.0, 12.0]])
    assert optimizer_step(optimizer, None, 1.0).item() == pytest.approx(13.0)
    torch.testing.assert_close(
        before - model.weight.detach(), torch.tensor([[3.0, 4.0, 12.0]]) / 13, rtol=1e-5, atol=1e-6
    )
    assert model.weight.grad is None
    model.weight.grad = torch.tensor([[0.3, 0.4, 0.0]])
    before = model.weight.detach().clone()
    optimizer_step(optimizer, None, 1.0)
    torch.testing.assert_close(before - model.weight.detach(), torch.tensor([[0.3, 0.4, 0.0]]))


def test_scaler_unscales_before_the_clip_and_skips_overflow():
    model = nn.Linear(2, 1, bias=False)
    optimizer = build_optimizer(
        {"model": model}, OptimConfig(name="sgd", lr=1.0, momentum=0.0, weight_decay=0.0)
    )
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    x = torch.tensor([[3.0, 4.0]])
    before = model.weight.detach().clone()
    scaler.scale(model(x).sum()).backward()
    assert optimizer_step(optimizer, scaler, 2.5).item() == pytest.approx(5.0)
    torch.testing.assert_close(before - model.weight.detach(), x / 2)
    before = model.weight.detach().clone()
    scaler.scale(model(x * float("inf")).sum()).backward()
    optimizer_step(optimizer, scaler, None)
    assert torch.equal(before, model.weight)
    assert scaler.get_scale() == 4.0


def test_ema_follows_the_formula():
    model = network().train()
    ema = Ema(model, 0.9)
    assert not ema.model.training
    assert not any(p.requires_grad for p in ema.model.parameters())
    expected = {k: v.clone().double() for k, v in model.state_dict().items()}
    for step in range(1, 200, 7):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p))
        model(torch.randn(5, 4))
        ema.update(model, step)
        d = min(0.9, (1 + step) / (10 + step))
        for key, value in model.state_dict().items():
            expected[key] = (
                d * expected[key] + (1 - d) * value.double() if value.is_floating_point() else value.double()
            )
    for key, value in ema.model.state_dict().items():
        torch.testing.assert_close(value.double(), expected[key], rtol=1e-5, atol=1e-5)


def test_ema_does_not_touch_its_source():
    model = network()
    before = copy.deepcopy(model.state_dict())
    ema = Ema(model, 0.5)
    ema.update(model, 1)
    ema.model[0].weight.data.zero_()
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
