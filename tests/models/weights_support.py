# SPDX-License-Identifier: Apache-2.0
"""Models without values and files of random values, so that a value in a wrong place shows."""

from __future__ import annotations

import importlib
import sys
import types
from functools import cache
from unittest import mock

import pytest
import torch
from rivals.ranking import load_file, package_file

from fastreid_ops.models import create_model, load_weights


def empty(name, classes=7, **options):
    """A model whose values are whatever the memory held."""
    with torch.device("meta"):
        model = create_model(name, classes, **options)
    return model.to_empty(device="cpu").eval()


@cache
def shapes(name, classes=7, **options):
    with torch.device("meta"):
        return layout(create_model(name, classes, **options))


def layout(module):
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


def tags(shapes):
    """For every name a number of its own, in memory once: enough to see where an entry went."""
    return {key: torch.tensor(float(i)).expand(shape) for i, (key, shape) in enumerate(shapes.items(), 1)}


def values(shapes):
    """Random values by name, in a range that a deep network survives."""
    generator = torch.Generator().manual_seed(0)
    result = {}
    for key, shape in shapes.items():
        if key.endswith("num_batches_tracked"):
            result[key] = torch.randint(100, (), generator=generator)
        elif len(shape) > 1:
            fan = torch.Size(shape)[1:].numel()
            result[key] = (torch.rand(shape, generator=generator) - 0.5) * (12 * 2 / fan) ** 0.5
        else:
            result[key] = 0.3 + 0.4 * torch.rand(shape, generator=generator)
    return result


def check(model, content, want):
    """Load, and see that exactly the entries of ``want`` (model's name: file's name) got exactly those values."""
    report = load_weights(model, content)
    file = content.get("state_dict", content)
    own = model.state_dict()
    assert {pair.model: pair.file for pair in report.used} == want
    for here, there in want.items():
        assert torch.equal(own[here], file[there].to(own[here].dtype)), (here, there)
    assert report.renamed == tuple(pair for pair in report.used if pair.file != pair.model)
    assert set(report.missing) == own.keys() - want.keys()
    return report


def torchreid_file(stem):
    """One file of torchreid 0.2.5, whose package needs what nobody here has."""
    path = package_file("torchreid", f"reid/models/{stem}.py")
    if path is None:
        pytest.skip("torchreid is not installed")
    return load_file(path)


def fastreid_network(classes, **options):
    """fast-reid 1.4.0's ResNet-50 and embedding head as ``backbone`` and ``heads``, from its files: its packages import
    yacs, termcolor and a module that torchvision has no longer."""
    if package_file("fastreid", "modeling/backbones/resnet.py") is None:
        pytest.skip("fastreid is not installed")

    def package(name):
        module = types.ModuleType(name)
        module.__path__ = [
            str(package_file("fastreid", name.split(".", 1)[1].replace(".", "/") + "/__init__.py").parent)
        ]
        return module

    stubs = {
        f"fastreid.{name}": package(f"fastreid.{name}")
        for name in ("modeling", "modeling.backbones", "modeling.heads")
    }
    stubs["termcolor"] = types.ModuleType("termcolor")
    stubs["termcolor"].colored = None
    stubs["fastreid.config"] = types.ModuleType("fastreid.config")
    stubs["fastreid.config"].configurable = lambda function: function
    stubs["fastreid.config"].CfgNode = object
    with mock.patch.dict(sys.modules, stubs):
        resnet = importlib.import_module("fastreid.modeling.backbones.resnet")
        head = importlib.import_module("fastreid.modeling.heads.embedding_head")
    network = torch.nn.Module()
    settings = {"last_stride": 1, "bn_norm": "BN", "with_ibn": False, "with_se": False, "with_nl": False}
    head_settings = {
        "feat_dim": 2048,
        "embedding_dim": 0,
        "num_classes": classes,
        "neck_feat": "before",
        "pool_type": "GlobalAvgPool",
        "cls_type": "Linear",
        "scale": 1,
        "margin": 0.0,
        "with_bnneck": True,
        "norm_type": "BN",
    }
    with torch.device("meta"):
        network.backbone = resnet.ResNet(
            block=resnet.Bottleneck, layers=[3, 4, 6, 3], non_layers=[0, 2, 3, 0], **{**settings, **options}
        )
        network.heads = head.EmbeddingHead(**head_settings)
    network = network.to_empty(device="cpu")
    return network.eval()
