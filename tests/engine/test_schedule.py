# SPDX-License-Identifier: Apache-2.0
"""Learning rates against torch's own schedulers and against the formulas of the papers."""

import math
from itertools import pairwise

import pytest
import torch

from fastreid_ops.config.schema import ScheduleConfig
from fastreid_ops.engine.schedule import Schedule, build_schedule


def rates(make, epochs):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    found = []
    for _ in range(epochs):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_multistep_as_torch():
    schedule = Schedule("multistep", 120, milestones=(40, 70), gamma=0.1)
    torchs = rates(lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [40, 70], 0.1), 120)
    assert [schedule.factor(e) for e in range(120)] == pytest.approx(torchs, rel=1e-12)


def test_cosine_as_torch():
    schedule = Schedule("cosine", 50, final_factor=0.1)
    torchs = rates(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 50, eta_min=0.1), 50)
    assert [schedule.factor(e) for e in range(50)] == pytest.approx(torchs, rel=1e-9)


def test_bag_of_tricks():
    """Section 3.1: from 3.5e-5 to 3.5e-4 over ten epochs, then 3.5e-5 from the 40th and 3.5e-6 from the 70th."""
    schedule = build_schedule(ScheduleConfig("multistep", 10.0, 0.1, [40, 70], 0.1, 0.0), 120)
    for progress, rate in [
        (0, 3.5e-5),
        (5, 1.925e-4),
        (10, 3.5e-4),
        (39.99, 3.5e-4),
        (40, 3.5e-5),
        (70, 3.5e-6),
        (119.9, 3.5e-6),
    ]:
        assert 3.5e-4 * schedule.factor(progress) == pytest.approx(rate, rel=1e-9)


@pytest.mark.parametrize("name", ["constant", "multistep", "cosine"])
def test_warmup_rises_every_step_without_a_jump(name):
    schedule = Schedule(name, 20, 3.0, 0.1, (10,), 0.1, 0.0)
    steps = [schedule.factor(i / 37) for i in range(3 * 37 + 1)]
    assert steps[0] == pytest.approx(0.1)
    assert all(b > a for a, b in pairwise(steps))
    assert steps[-1] == pytest.approx(1.0)
    assert max(b - a for a, b in pairwise(steps)) == pytest.approx(0.9 / 3 / 37)


def test_cosine_ends_at_its_final_factor_and_stays():
    schedule = Schedule("cosine", 20, 2.0, 0.1, final_factor=0.01)
    assert schedule.factor(20) == pytest.approx(0.01)
    assert schedule.factor(25) == pytest.approx(0.01)
    assert schedule.factor(11) == pytest.approx(0.01 + 0.99 * (1 + math.cos(math.pi / 2)) / 2)


def test_warmup_over_all_epochs():
    schedule = Schedule("cosine", 3, 3.0, 0.0)
    assert schedule.factor(1.5) == pytest.approx(0.5)
    assert schedule.factor(3) == pytest.approx(0.0)


def test_apply_keeps_the_ratio_of_groups():
    a, b = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    optimizer = torch.optim.SGD([{"params": [a], "base_lr": 1.0}, {"params": [b], "base_lr": 0.1}], lr=1.0)
    assert Schedule("constant", 10, 2.0, 0.5).apply(optimizer, 1.0) == pytest.approx(0.75)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.75, 0.075])
