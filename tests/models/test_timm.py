# SPDX-License-Identifier: Apache-2.0
"""The bridge to timm: what it says without timm, and that its models are modules like the others."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn

from fastreid_ops.models import MODELS, create_model, list_models, model_options

BRIDGED = [name for name, place in MODELS.items() if place.startswith("fastreid_ops.models.backbones.timm:")]


def test_names():
    assert sorted(BRIDGED) == [
        "densenet121",
        "densenet121_fc512",
        "densenet161",
        "densenet169",
        "densenet201",
        "inceptionresnetv2",
        "inceptionv4",
        "xception",
    ]
    assert list_models("densenet*") == [name for name in sorted(BRIDGED) if name.startswith("densenet")]


@pytest.mark.parametrize("name", BRIDGED)
def test_without_timm(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        ImportError, match=rf"create_model: name: got '{name}', which needs timm.*fastreid-ops\[zoo\]"
    ):
        create_model(name, 5)
    assert all(option in ("final_relu", "feature_dim", "dropout") for option in model_options(name))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("operator torchvision::nms does not exist"),
        AttributeError("partially initialized module 'torchvision' has no attribute 'extension'"),
        OSError("libc10_cuda.so: cannot open shared object file"),
    ],
)
def test_with_a_broken_torchvision(error, monkeypatch):
    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == "timm":
                raise error

    for name in [n for n in sys.modules if n.partition(".")[0] == "timm"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    with pytest.raises(
        ImportError, match=f"{type(error).__name__}: .*from the same place as torch"
    ) as caught:
        create_model("xception", 5)
    assert caught.value.__cause__ is error


def test_nothing_else_imports_timm():
    """Neither the table nor the options of a bridged model load timm or torchvision."""
    code = (
        "import sys; from fastreid_ops.models import list_models, model_options\n"
        "for name in list_models(): model_options(name)\n"
        "print(sorted(n for n in sys.modules if n in ('timm', 'torchvision')))"
    )
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def densenet(need_timm):
    need_timm("densenet121")
    torch.manual_seed(0)
    return create_model("densenet121", 5).eval()


def test_final_relu_of_the_first_versions(densenet):
    first_version = create_model("densenet121", 5, final_relu=False).eval()
    first_version.load_state_dict(densenet.state_dict())
    images = torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    maps = {}
    first_version.features.norm5.register_forward_hook(lambda m, i, output: maps.update(first=output))
    with torch.no_grad():
        feature, other = densenet(images), first_version(images)
    torch.testing.assert_close(other, maps["first"].mean((2, 3)))
    torch.testing.assert_close(feature, maps["first"].relu().mean((2, 3)))
    assert not torch.allclose(feature, other)


def test_a_replaced_child_is_used(densenet, need_timm):
    """As converting batch normalisations does: there is no second module that keeps the old one."""
    need_timm("xception")
    model = create_model("xception", 5).eval()
    calls = []

    class Counted(nn.BatchNorm2d):
        def forward(self, x):
            calls.append(x.shape)
            return super().forward(x)

    model.bn1 = Counted(32).eval()
    with torch.no_grad():
        model(torch.zeros(1, 3, 64, 32))
    assert len(calls) == 1


def test_pickle(densenet):
    images = torch.randn(1, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    twin = pickle.loads(pickle.dumps(densenet))
    with torch.no_grad():
        assert torch.equal(twin(images), densenet(images))


@pytest.mark.parametrize(("name", "he"), [("densenet121", True), ("xception", True), ("inceptionv4", False)])
def test_initial_values(name, he, need_timm):
    need_timm(name)
    torch.manual_seed(0)
    model = create_model(name, 751)
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.weight.numel() > 50_000]
    scaled = []
    for conv in convs:
        fan = conv.weight[:, 0].numel() / 2 if he else conv.weight[0].numel() * 3
        scaled.append((conv.weight.detach() * fan**0.5).flatten())
    assert torch.cat(scaled).std().item() == pytest.approx(1, abs=0.01)
    assert (torch.cat(scaled).abs().max() > 4) == he  # normal, or uniform
    std = 0.01 if he else (3 * model.feature_dim) ** -0.5
    assert model.classifier.weight.std().item() == pytest.approx(std, rel=0.02)
