# SPDX-License-Identifier: Apache-2.0
"""Networks against torchreid's own where it is installed: one state, the same images; names, outputs, statistics and
every gradient of a training step in float64, and the values both start from."""

from __future__ import annotations

import math

import pytest
import torch
from rivals.ranking import load_file, package_file
from torch import nn

from fastreid_ops.models import create_model

# Name: file, factory and options of the original. One of every kind of network that is small enough for a quick test.
NETWORKS = {
    "hacnn": ("hacnn", "HACNN", {"use_gpu": False}),
    "mobilenetv2_x1_0": ("mobilenetv2", "mobilenetv2_x1_0", {}),
    "osnet_x0_25": ("osnet", "osnet_x0_25", {}),
    "osnet_ain_x0_25": ("osnet_ain", "osnet_ain_x0_25", {}),
    "resnet18": ("resnet", "resnet18", {}),
    "shufflenet": ("shufflenet", "shufflenet", {}),
    "shufflenet_v2_x0_5": ("shufflenetv2", "shufflenet_v2_x0_5", {}),
    "squeezenet1_1": ("squeezenet", "squeezenet1_1", {}),
}
SIZES = {"hacnn": (160, 64)}

pytestmark = pytest.mark.filterwarnings("ignore:.*(deprecated|has changed):UserWarning")  # of the originals
CLASSES = 11


@pytest.fixture(scope="module", params=list(NETWORKS))
def pair(request):
    """Name, network, original."""
    file, factory, options = NETWORKS[request.param]
    place = package_file("torchreid", f"reid/models/{file}.py")
    if place is None:
        pytest.skip("torchreid is not installed")
    torch.manual_seed(0)
    make = getattr(load_file(place), factory)
    original = make(num_classes=CLASSES, loss="triplet", pretrained=False, **options)
    torch.manual_seed(1)
    return request.param, create_model(request.param, CLASSES), original


def kind(values):
    """Constant and its value, or deviation and shape (fourth moment: 3 for normal, 1.8 for uniform values)."""
    if values.eq(values.flatten()[0]).all():
        return values.flatten()[0].item()
    spread = values - values.mean()
    variance = spread.square().mean()
    return math.sqrt(variance), (spread.pow(4).mean() / variance.square()).item()


def test_initial_values(pair):
    _, network, original = pair
    for key, values in original.state_dict().items():
        if values.numel() == 1:  # drawn or not, it looks the same
            continue
        got, want = kind(network.state_dict()[key].double()), kind(values.double())
        if isinstance(want, float):
            assert got == want, key
        else:
            noise = 5 / math.sqrt(values.numel())
            assert got[0] == pytest.approx(want[0], rel=noise), key
            assert got[1] == pytest.approx(want[1], abs=max(8 * noise, 0.1)), key


def flat(output):
    return [output] if isinstance(output, torch.Tensor) else [one for part in output for one in flat(part)]


def near(got, want, tolerance=1e-9):
    return (got - want).abs().max() <= tolerance * want.abs().max()


def test_a_training_step(pair):
    name, network, original = pair
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():  # no parameter without an effect
        for key, value in original.state_dict().items():
            if value.ndim == 1 and not key.endswith("running_var"):
                value.add_(0.2 * torch.rand(value.shape, generator=generator))
    network.load_state_dict(original.state_dict())
    for model in (network, original):
        model.double().train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.momentum = 1.0  # so that evaluation has usual values too
    images = torch.randn(3, 3, *SIZES.get(name, (64, 32)), generator=generator, dtype=torch.float64)
    torch.set_default_dtype(torch.float64)  # the original's region grid has no dtype of its own
    try:
        wanted = flat(original(images))
    finally:
        torch.set_default_dtype(torch.float32)
    output = network(images)
    got = [*output.logits, *output.features]
    assert len(got) == len(wanted)
    weights = [torch.rand(one.shape, generator=generator, dtype=torch.float64) for one in wanted]
    for values in (wanted, got):
        sum((value * weight).sum() for value, weight in zip(values, weights, strict=True)).backward()
    assert all(near(a, b) for a, b in zip(got, wanted, strict=True))
    gradients = {key: parameter.grad for key, parameter in network.named_parameters()}
    largest = max(p.grad.abs().max() for p in original.parameters() if p.grad is not None)
    for key, parameter in original.named_parameters():
        assert (gradients[key] is None) == (parameter.grad is None), key
        if parameter.grad is not None:  # biases before a normalisation have rounding only
            difference = (gradients[key] - parameter.grad).abs().max()
            assert difference <= 1e-9 * parameter.grad.abs().max() + 1e-12 * largest, key
    for key, value in original.state_dict().items():
        assert near(network.state_dict()[key], value, 1e-9), key
    network.eval(), original.eval()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad():
            assert near(network(images), original(images))
    finally:
        torch.set_default_dtype(torch.float32)
