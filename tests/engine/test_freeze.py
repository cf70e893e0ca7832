# SPDX-License-Identifier: Apache-2.0
"""What stands still: a fixed base, statistics of batch normalisation. Beside torchreid's engine: tests/systems."""

import copy

import pytest
import torch
from torch import nn

from fastreid_ops.config import ConfigError, from_dict, validate
from fastreid_ops.config.schema import TrainConfig
from fastreid_ops.engine import setup
from fastreid_ops.engine.freeze import check_open_layers, set_bn_to_eval, set_training_mode
from fastreid_ops.engine.loop import fit


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.base = nn.Sequential(
            nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.InstanceNorm2d(4), nn.Dropout(0.5)
        )
        self.head = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.base[0].bias.requires_grad_(False)  # never trained, whatever happens


def modes(model):
    return {name: module.training for name, module in model.named_modules()}


def wants(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


def test_fixed_base_and_back():
    model = Net().eval()
    moved = [p for p in model.parameters() if p.requires_grad]
    every = wants(model)
    section = TrainConfig(fixed_base_epochs=2, open_layers=["head"])
    for epoch in (0, 1):
        set_training_mode(model, moved, section, epoch)
        assert {name for name, on in modes(model).items() if on} == {"", "head", "head.0", "head.1"}
        assert wants(model) == {name for name in every if name.startswith("head.")}
    set_training_mode(model, moved, section, 2)
    assert all(modes(model).values())
    assert wants(model) == every == {n for n, _ in model.named_parameters()} - {"base.0.bias"}


def test_a_tensor_that_an_open_child_shares_is_trained():
    model = Net()
    model.other = nn.Sequential(model.head[0])
    set_training_mode(
        model, list(model.parameters()), TrainConfig(fixed_base_epochs=1, open_layers=["head"]), 0
    )
    assert model.head[0].weight.requires_grad


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm])
def test_every_batch_norm_is_known(kind):
    model = nn.Sequential(kind(3), nn.InstanceNorm2d(3), nn.GroupNorm(1, 3)).train()
    set_bn_to_eval(model)
    assert [module.training for module in model] == [False, True, True]


def test_frozen_statistics_are_used_and_stay_while_weights_move(run):
    state = run.state(train={"freeze_bn": True, "epochs": 2}, eval={"every": 0})
    before = copy.deepcopy(state.model.state_dict())
    fit(state, run.tools())
    after = state.model.state_dict()
    for key in ("body.1.running_mean", "body.1.running_var", "body.1.num_batches_tracked"):
        assert torch.equal(before[key], after[key])
    for key in ("body.1.weight", "body.1.bias", "body.0.weight"):
        assert not torch.equal(before[key], after[key])


def test_weight_decay_leaves_the_fixed_base_alone(run):
    sections = {"optim": {"weight_decay": 0.5}, "eval": {"every": 0}}
    state = run.state(train={"epochs": 1, "fixed_base_epochs": 1, "open_layers": ["heads"]}, **sections)
    before = copy.deepcopy(state.model.state_dict())
    fit(state, run.tools())
    changed = {key for key, value in state.model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"heads.0.weight", "heads.0.bias"}


def test_refusals():
    with pytest.raises(ValueError, match=r"train.open_layers: got 'clasifier', expected .*: base, head"):
        check_open_layers(Net(), ["head", "clasifier"])
    wrong = from_dict({"train": {"fixed_base_epochs": 1, "open_layers": ["classifierr"]}})
    with pytest.raises(ConfigError, match=r"train.open_layers: got 'classifierr'"):
        setup.build_state(wrong, None, {1: 0, 2: 1}, torch.device("cpu"), print)
    with pytest.raises(ConfigError, match=r"train.open_layers: got \[\]"):
        validate(from_dict({"train": {"fixed_base_epochs": 1}}))
    with pytest.raises(ConfigError, match=r"train.fixed_base_epochs: got 30, expected at most"):
        validate(from_dict({"train": {"fixed_base_epochs": 30, "open_layers": ["x"]}}))
    groups = [{"match": "a", "lr_factor": 0}, {"match": "b", "weight_decay": -1}]
    with pytest.raises(
        ConfigError, match=r"optim.groups: 0: lr_factor: got 0.0[\s\S]*1: weight_decay: got -1"
    ):
        validate(from_dict({"optim": {"groups": groups}}))
