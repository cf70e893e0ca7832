# SPDX-License-Identifier: Apache-2.0
"""Parameters with rates and optimizers of their own, against the optimizers they stand for; Ranger and the schedules
against recorded numbers of the sources."""

import copy
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fastreid_ops.config import from_dict
from fastreid_ops.config.schema import OptimConfig, OptimGroup, ScheduleConfig
from fastreid_ops.engine.optim import SeveralOptimizers, build_optimizer, optimizer_step, parameter_groups
from fastreid_ops.engine.ranger import Ranger
from fastreid_ops.engine.schedule import build_schedule

GOLDEN = Path(__file__).parents[1] / "golden"


def recorded(name):
    with np.load(GOLDEN / "naic_and_cloth_changing" / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def noise(name):
    path = GOLDEN / "deep_person_reid" / "golden_rule.py"
    spec = importlib.util.spec_from_file_location("golden_rule", path)
    rule = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rule)
    return torch.from_numpy(rule.noise(name, 8).astype(np.float32))


def network():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(4, 3), nn.Tanh())
    return nn.ModuleDict({"body": body, "classifier": nn.Linear(3, 2)})


def forward(model, x):
    return model["classifier"](model["body"](x)).square().mean()


def named(groups):
    return [[len(g["params"]), g["base_lr"], g["weight_decay"]] for g in groups]


def test_first_match_decides():
    config = OptimConfig(
        lr=0.1,
        weight_decay=0.5,
        groups=[
            OptimGroup("model.classifier.bias", lr=0.2, weight_decay=0.0),
            OptimGroup("model.classifier.*", lr_factor=10.0),
            OptimGroup("criteria.*", lr=4.0, lr_factor=0.5),
        ],
    )
    criteria = nn.ModuleDict({"centres": nn.Linear(3, 2, bias=False)})
    ((name, groups),) = parameter_groups({"model": network(), "criteria": criteria}, config)
    assert name is None
    assert named(groups) == [[2, 0.1, 0.5], [1, 0.2, 0.0], [1, 1.0, 0.5], [1, 2.0, 0.5]]
    config.decay_bias_and_norm = False
    ((_, groups),) = parameter_groups({"model": network(), "criteria": criteria}, config)
    assert named(groups) == [[1, 0.1, 0.5], [1, 0.1, 0.0], [1, 0.2, 0.0], [1, 1.0, 0.5], [1, 2.0, 0.5]]


@pytest.mark.parametrize("pattern", ["model.clasifier.*", "classifier.*", "model.body.0.weight.*"])
def test_a_pattern_that_fits_nothing_is_named(pattern):
    with pytest.raises(
        ValueError, match=r"optim.groups: 1: match: got .*model.body, model.classifier"
    ) as error:
        build_optimizer({"model": network()}, OptimConfig(groups=[OptimGroup("*.bias"), OptimGroup(pattern)]))
    assert repr(pattern) in str(error.value)


def test_a_pattern_whose_parameters_are_all_taken_fits_nothing():
    groups = [OptimGroup("model.*"), OptimGroup("model.classifier.*")]
    with pytest.raises(ValueError, match=r"optim.groups: 1: match: .* names that begin with one of: none"):
        build_optimizer({"model": network()}, OptimConfig(groups=groups))


def test_several_optimizers_are_those_of_their_names():
    ours, theirs = network(), network()
    config = OptimConfig(
        name="adam",
        lr=0.1,
        weight_decay=0.01,
        groups=[OptimGroup("model.classifier.*", optimizer="sgd", lr=0.5, momentum=0.0, weight_decay=0.0)],
    )
    optimizer = build_optimizer({"model": ours}, config)
    assert isinstance(optimizer, SeveralOptimizers)
    plain = [
        torch.optim.Adam(theirs["body"].parameters(), lr=0.1, weight_decay=0.01, foreach=False),
        torch.optim.SGD(theirs["classifier"].parameters(), lr=0.5, foreach=False),
    ]
    x = torch.randn(8, 4)
    for _ in range(4):
        forward(ours, x).backward()
        optimizer_step(optimizer, None, None)
        forward(theirs, x).backward()
        for each in plain:
            each.step()
            each.zero_grad()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def mixed(name):
    own = OptimGroup("model.classifier.*", optimizer=name, lr=0.05)
    return OptimConfig(name="amsgrad", lr=0.01, groups=[OptimGroup("*.bias", lr_factor=2.0), own])


@pytest.mark.parametrize("name", ["ranger", "rmsprop", "radam", "sgd"])
def test_resumed_to_the_bit(name):
    """Seven steps, so that Ranger's slow weights have been used once and must be those of before."""

    def steps(model, optimizer, first, last):
        for step in range(first, last):
            torch.manual_seed(step)
            forward(model, torch.randn(8, 4)).backward()
            optimizer_step(optimizer, None, None)

    through = network()
    optimizer = build_optimizer({"model": through}, mixed(name))
    steps(through, optimizer, 0, 4)
    model, content = copy.deepcopy(through.state_dict()), copy.deepcopy(optimizer.state_dict())
    steps(through, optimizer, 4, 13)
    again = network()
    resumed = build_optimizer({"model": again}, mixed(name))
    again.load_state_dict(model)
    resumed.load_state_dict(content)
    steps(again, resumed, 4, 13)
    for a, b in zip(through.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_another_number_of_optimizers_is_refused():
    one = build_optimizer({"model": network()}, OptimConfig())
    with pytest.raises(ValueError, match="got 1 optimizers, expected 2"):
        build_optimizer({"model": network()}, mixed("sgd")).load_state_dict(one.state_dict())


def test_rates_of_groups_follow_the_schedule_unless_told_not_to():
    model = network()
    groups = [
        OptimGroup("model.classifier.weight", lr_factor=10.0),
        OptimGroup("model.classifier.bias", optimizer="sgd", lr=0.5, scheduled=False),
    ]
    optimizer = build_optimizer({"model": model}, OptimConfig(lr=0.1, groups=groups))
    schedule = build_schedule(ScheduleConfig("multistep", 0.0, 1.0, [2], 0.1), 4)
    assert schedule.apply(optimizer, 2.5) == pytest.approx(0.01)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.01, 0.1, 0.5])


def test_scaler_with_several_optimizers():
    """Each is unscaled once; one without a gradient in this step is left alone."""
    model = network()
    optimizer = build_optimizer(
        {"model": model},
        OptimConfig(
            name="sgd",
            lr=1.0,
            momentum=0.0,
            weight_decay=0.0,
            groups=[OptimGroup("model.classifier.*", optimizer="sgd")],
        ),
    )
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    before = copy.deepcopy(model)
    x = torch.randn(8, 4)
    scaler.scale(forward(model, x)).backward()
    optimizer_step(optimizer, scaler, None)
    forward(before, x).backward()
    for a, b in zip(model.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(a, b - b.grad)
    scaler.scale(model["body"](x).sum()).backward()
    kept = model["classifier"].weight.clone()
    optimizer_step(optimizer, scaler, None)
    assert torch.equal(kept, model["classifier"].weight)


def test_ranger_golden():
    p = nn.Parameter(noise("ranger_p"))
    optimizer = Ranger([p], lr=0.01, weight_decay=5e-4)
    for step, want in enumerate(recorded("naic_ranger")["trace"]):
        p.grad = noise(f"ranger_g{step}")
        optimizer.step()
        torch.testing.assert_close(p.detach(), torch.from_numpy(want), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("key", "lr", "factor", "milestones"),
    [
        ("naic_lr/naic_b", 0.01, 0.01, [25, 40]),
        ("naic_lr/naic_a", 0.006, 0.01, [25, 40]),
        ("naic_lr/default", 3e-4, 0.01, [40, 70]),
        ("cc_lr/lr", 3.5e-4, 0.1, [20, 40]),
    ],
)
def test_schedules_of_the_sources(key, lr, factor, milestones):
    """The rate at the first and at the last batch of every epoch."""
    file, name = key.split("/")
    want = recorded(file)[name]
    section = ScheduleConfig("multistep", 10.0, factor, milestones, 0.1, per_epoch=True)
    schedule = build_schedule(section, len(want))
    for into in (0.0, 0.999):
        assert [lr * schedule.factor(e + into) for e in range(len(want))] == pytest.approx(want, rel=1e-9)


def test_groups_of_a_recipe_and_their_errors():
    own = {"match": "criteria.*", "optimizer": "sgd"}
    values = {"optim": {"groups": [{"match": "model.*", "lr_factor": 2, "optimizer": None}, own]}}
    wanted = [OptimGroup("model.*", lr_factor=2.0), OptimGroup("criteria.*", optimizer="sgd")]
    assert from_dict(values).optim.groups == wanted
    with pytest.raises(ValueError, match=r"optim.groups.0.optimizer: got 'sdg', expected one of adam, adamw"):
        from_dict({"optim": {"groups": [{"match": "*", "optimizer": "sdg"}]}})
    with pytest.raises(ValueError, match=r"optim.groups.0.match: got nothing, expected a value"):
        from_dict({"optim": {"groups": [{"lr": 2}]}})
    with pytest.raises(
        ValueError, match=r"unknown key optim.groups.0.lr_facto; nearest: optim.groups.0.lr_factor"
    ):
        from_dict({"optim": {"groups": [{"match": "*", "lr_facto": 2}]}})
