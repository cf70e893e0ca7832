# SPDX-License-Identifier: Apache-2.0
"""Networks against numbers of deep-person-reid, filled by the same rule (golden/deep_person_reid/README.md)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastreid_ops.layers.harmonious_attention import HarmAttn
from fastreid_ops.layers.osnet_gate import ChannelGate
from fastreid_ops.layers.squeeze_excitation import SEModule
from fastreid_ops.models import MODELS, create_model
from fastreid_ops.models.mudeep import MuDeep

FOLDER = Path(__file__).parents[1] / "golden" / "deep_person_reid"
COUNTS = json.loads((FOLDER / "params.json").read_text())

# file: options; a file's meta names its model.
GOLDENS = {
    "osnet_x1_0": {},
    "osnet_x0_5": {},
    "osnet_x0_25": {},
    "osnet_ibn_x1_0": {},
    "osnet_ain_x1_0": {},
    "osnet_ain_x0_25": {},
    "hacnn": {},
    "hacnn_legacy_align_corners": {"align_corners": True},
    "mudeep": {},
    "mlfn": {},
    "pcb_p6": {},
    "resnet50": {},
    "resnet50_fc512": {},
    "resnet50mid": {},
    "resnet50_ibn_a": {},
    "se_resnet50": {},
    "mobilenetv2_x1_0": {},
    "shufflenet": {},
    "shufflenet_v2_x1_0": {},
    "squeezenet1_0": {},
    "nasnsetmobile": {},
    "densenet121": {},
    "inceptionv4": {},
    "inceptionresnetv2": {},
    "xception": {},
}


def load(name, golden):
    want = golden.read(name)
    model = create_model(want["meta"]["model"], 751, **GOLDENS[name])
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    golden.fill(model, want["meta"]["gain"])
    return want, model.eval(), shapes, golden.images(2, *want["meta"]["size"])


@pytest.fixture(scope="module", params=list(GOLDENS))
def case(request, golden, need_timm):
    need_timm(golden.read(request.param)["meta"]["model"])
    return load(request.param, golden)


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
    assert golden.relative(torch.stack(output.logits).detach(), want["logits"]) < 1e-4
    feature = want["train_feat"] if want["train_feat"].size else want["feat"]
    assert golden.relative(torch.cat(output.features, 1).detach(), feature) < 1e-4

    model.zero_grad(set_to_none=True)
    losses = [F.cross_entropy(x / float(want["logit_scale"]), torch.tensor([0, 1])) for x in output.logits]
    loss = sum(losses) / len(losses)
    assert loss.item() == pytest.approx(float(want["loss_n"]), abs=1e-4)
    loss.backward()
    norms = dict(zip(want["grad_keys"], want["grad_norms"].tolist(), strict=True))
    assert set(norms) == {name for name, _ in model.named_parameters()}
    total = sum(n * n for n in norms.values() if n > 0) ** 0.5
    for name, parameter in model.named_parameters():
        if norms[name] < 0:
            assert parameter.grad is None or not parameter.grad.any(), name
        else:
            assert abs(parameter.grad.norm(dtype=torch.float64).item() - norms[name]) < 2e-3 * total, name


# Networks of the same rule of which only figures are recorded: gain, size, options; L2 norm and largest entry of the
# features, largest entry of the logits.
FIGURES = {
    "hacnn": (2.0, (160, 64), {"learn_region": False}, (13.932369, 2.418787, 2.537122)),
    "osnet_x0_75": (1.2, (256, 128), {}, (14.044176, 2.063775, 1.742140)),
    "pcb_p4": (1.0, (256, 128), {}, (2.828428, 0.089492, 4.178326)),
    "resnet50_ibn_b": (1.0, (256, 128), {}, (55.803411, 3.397747, 2.854110)),
}


@pytest.mark.parametrize("name", list(FIGURES))
def test_figures(name, golden):
    gain, size, options, (norm, largest, logit) = FIGURES[name]
    model = golden.fill(create_model(name, 751, **options), gain).eval()
    images = golden.images(2, *size)
    with torch.no_grad():
        feature = model(images)
        model.training = True
        logits = torch.stack(model(images).logits)
    assert feature.norm().item() == pytest.approx(norm, rel=1e-5)
    assert feature.abs().max().item() == pytest.approx(largest, rel=1e-4)
    assert logits.abs().max().item() == pytest.approx(logit, rel=1e-4)


def multiply_adds(model, size):
    """Those of the convolutions and linear layers for one image, as the original executes them."""
    total = 0

    def count(module, inputs, output):
        nonlocal total
        if isinstance(
            module, (ChannelGate, SEModule)
        ):  # read their layers' weights without calling them, once a map
            maps = len(inputs[0]) if isinstance(inputs[0], (list, tuple)) else 1
            total += maps * (module.fc1.weight.numel() + module.fc2.weight.numel())
        elif isinstance(module, HarmAttn):  # a convolution at every position, which ours does once a channel
            total += module.soft_attn.conv.conv.weight.numel() * output[0][0, 0].numel()
        elif isinstance(module, nn.Conv2d):
            total += output.numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            total += output.numel() * module.in_features

    for module in model.modules():
        module.register_forward_hook(count)
    model(torch.zeros(1, 3, *size, device="meta"))
    if isinstance(model, MuDeep):  # runs its classifier in evaluation too
        total += model.classifier.weight.numel()
    return total


# Positions that the original's separable convolutions compute beside the map and drop: 49, 25 and 13 at its three
# reductions of an even size, in four branches of stride 2 and one of stride 1.
NOT_COMPUTED = {"nasnsetmobile": 3_973_882}


@pytest.mark.parametrize("name", [name for name in MODELS if name in COUNTS])
def test_counts(name, need_timm):
    need_timm(name)
    want = COUNTS[name]
    with torch.device("meta"):  # shapes only: nothing is computed or stored
        model = create_model(name, 751).eval()
    assert sum(p.numel() for p in model.parameters()) == want["P"]
    headless = [p.numel() for n, p in model.named_parameters() if not n.startswith("classifier")]
    assert sum(headless) == want["headless"]
    assert len(model.state_dict()) == want["keys"]
    assert model.feature_dim == want["feat"][1]
    norms = [type(m) for m in model.modules()]
    assert sum(issubclass(t, nn.modules.batchnorm._BatchNorm) for t in norms) == want["bn"]
    assert sum(issubclass(t, nn.modules.instancenorm._InstanceNorm) for t in norms) == want["inn"]
    assert multiply_adds(model, want["size"]) == want["macs"] - NOT_COMPUTED.get(name, 0)


@pytest.mark.parametrize("name", ["osnet_x0_25", "resnet50"])
def test_a_seeded_bug_is_seen(name, golden):
    """The tolerance is tight enough: a leaky activation of slope 1e-3 in the stem is far outside it."""
    want, model, _, images = load(name, golden)
    leak = model.relu if hasattr(model, "relu") else model.conv1.relu
    leak.register_forward_hook(lambda module, inputs, output: output - 1e-3)
    with torch.no_grad():
        assert golden.relative(model(images), want["feat"]) > 1e-4
