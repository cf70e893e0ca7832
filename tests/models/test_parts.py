# SPDX-License-Identifier: Apache-2.0
"""Sizes of the parts of networks as the originals have them, where a wrong split could hide in a right sum."""

from __future__ import annotations

import pytest
import torch

from fastreid_ops.layers.embedding_expansion import DEE
from fastreid_ops.layers.feature_aggregation import MFA
from fastreid_ops.layers.pcb_head import DynamicPCB
from fastreid_ops.models import create_model


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(autouse=True)
def shapes_only():
    with torch.device("meta"):
        yield


def test_hacnn():
    model = create_model("hacnn", 751)
    assert {name: count(part) for name, part in model.named_children()} == {
        "conv": 960,
        "inception1": 77_120,
        "ha1": 20_272,
        "local_conv1": 32_416,
        "inception2": 322_176,
        "ha2": 77_384,
        "local_conv2": 144_704,
        "inception3": 747_456,
        "ha3": 171_360,
        "local_conv3": 349_152,
        "fc_global": 198_144,
        "classifier_global": 385_263,
        "fc_local": 787_968,
        "classifier_local": 385_263,
    }


def test_mdinet():
    model = create_model("mdinet", 395)
    stages = [getattr(model.backbone, f"layer{n}") for n in (1, 2, 3, 4)]
    assert [count(stage) for stage in stages] == [215_808, 1_219_584, 7_098_368, 14_964_736]
    for head in (model.b1_head, model.b11_head, model.b12_head):
        assert [head.weight.numel(), count(head.bottleneck), count(head.con_head)] == [
            808_960,
            4_096,
            4_462_720,
        ]
    head = model.b2_head
    assert [head.weight.numel(), count(head.bottleneck), count(head.con_head)] == [404_480, 2_048, 1_182_848]
    state = model.state_dict()
    assert (len(state), sum(v.numel() for v in state.values())) == (468, 48_048_137)


@pytest.mark.parametrize(
    ("high", "low", "flag", "channels", "positions"),
    [(256, 64, 0, 41_920, 21_344), (512, 256, 1, 395_520, 198_528), (1024, 512, 1, 1_577_472, 790_272)],
)
def test_deen_aggregation(high, low, flag, channels, positions):
    layer = MFA(high, low, flag)
    assert (count(layer.CNL), count(layer.PNL)) == (channels, positions)


def test_deen_expansion():
    assert (count(DEE(1024)), count(DEE(512))) == (14_682_112, 3_671_040)


@pytest.mark.parametrize(
    ("dee", "parameters"), [("tmhee", 2_363_905), ("cmatm", 7_090_177), ("ssdec", 21_855_745)]
)
def test_embednet(dee, parameters):
    model = create_model("embednet", 395, dee=dee)
    assert count(model.DEE) == parameters
    assert (count(model.bottleneck), count(model.backbone.patch_embed_ir)) == (592_128, 590_592)
    assert model.backbone.pos_embed.numel() == 442_368


@pytest.mark.parametrize(
    ("classes", "parameters"), [(10, 6_908_076), (100, 7_185_186), (751, 9_189_615), (5000, 22_272_286)]
)
def test_part_based_head(classes, parameters):
    head = DynamicPCB(2048, classes)
    assert count(head) == parameters
    assert (count(head.bn), count(head.local_conv), count(head.feat_bn2d)) == (4_096, 524_288, 512)
