# SPDX-License-Identifier: Apache-2.0
"""Networks against numbers of deep-person-reid, filled by the same rule (golden/deep_person_reid/README.md)."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastreid_ops.layers.osnet_gate import ChannelGate
from fastreid_ops.models import create_model


@pytest.fixture(scope="module", params=["osnet_x1_0", "osnet_x0_5", "osnet_x0_25", "resnet50"])
def case(request, golden):
    want = golden.read(request.param)
    model = create_model(request.param, 751)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    golden.fill(model, want["meta"]["gain"])
    return want, model.eval(), shapes, golden.images(2, *want["meta"]["size"])


def test_names_and_shapes(case):
    want, _, shapes, _ = case
    assert shapes == want["state_keys"]


def test_feature(case, golden):
    want, model, _, images = case
    with torch.no_grad():
        assert golden.relative(model(images), want["feat"]) < 1e-4


def test_logits_and_gradients_with_frozen_statistics(case, golden):
    want, model, _, images = case
    model.training = True  # the root only: every child keeps its running statistics
    try:
        output = model(images)
    finally:
        model.training = False
    assert len(output.logits) == len(output.features) == 1
    assert golden.relative(output.logits[0].detach(), want["logits"][0]) < 1e-4
    assert golden.relative(output.features[0].detach(), want["feat"]) < 1e-4

    model.zero_grad(set_to_none=True)
    loss = F.cross_entropy(output.logits[0] / float(want["logit_scale"]), torch.tensor([0, 1]))
    assert loss.item() == pytest.approx(float(want["loss_n"]), abs=1e-4)
    loss.backward()
    norms = dict(zip(want["grad_keys"], want["grad_norms"].tolist(), strict=True))
    assert set(norms) == {name for name, _ in model.named_parameters()}
    total = sum(n * n for n in norms.values() if n > 0) ** 0.5
    for name, parameter in model.named_parameters():
        assert abs(parameter.grad.norm().item() - norms[name]) < 2e-3 * total, name


@pytest.mark.parametrize("name", ["osnet_x1_0", "osnet_x0_75", "osnet_x0_5", "osnet_x0_25", "resnet50"])
def test_counts(name, golden):
    want = golden.counts()[name]
    model = create_model(name, 751).eval()
    assert sum(p.numel() for p in model.parameters()) == want["P"]
    assert (
        sum(p.numel() for n, p in model.named_parameters() if not n.startswith("classifier"))
        == want["headless"]
    )
    assert len(model.state_dict()) == want["keys"]
    assert model.feature_dim == want["attrs"]["feature_dim"]
    macs = 0

    def count(module, inputs, output):
        nonlocal macs
        if isinstance(module, ChannelGate):  # reads its layers' weights without calling them, once a stream
            macs += len(inputs[0]) * (module.fc1.weight.numel() + module.fc2.weight.numel())
        elif isinstance(module, nn.Conv2d):
            macs += output.numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            macs += output.numel() * module.in_features

    for module in model.modules():
        module.register_forward_hook(count)
    with torch.no_grad():
        model(torch.zeros(1, 3, *want["size"]))
    assert macs == want["macs"]


def test_a_seeded_bug_is_seen(case, golden):
    """The tolerance is tight enough: a leaky activation of slope 1e-3 in the stem is far outside it."""
    want, model, _, images = case
    leak = model.relu if hasattr(model, "relu") else model.conv1.relu
    handle = leak.register_forward_hook(lambda module, inputs, output: output - 1e-3)
    try:
        with torch.no_grad():
            assert golden.relative(model(images), want["feat"]) > 1e-4
    finally:
        handle.remove()
