# SPDX-License-Identifier: Apache-2.0
"""Initial values against the rule of each original: a network trained from scratch starts where the original does."""

from __future__ import annotations

import math

import pytest
import torch

from fastreid_ops.layers.embedding_expansion import DEE
from fastreid_ops.layers.squeeze_excitation import SELayer
from fastreid_ops.models.backbones.naic import naic_backbone, se_ibn_a_plan
from fastreid_ops.models.backbones.resnest import SplitAttention
from fastreid_ops.models.backbones.resnet import ResNet


def is_uniform(values, bound):
    """Torch's own: U(-bound, bound), whose deviation is bound / sqrt(3) and whose ends are almost reached."""
    deviation = values.std().item() * math.sqrt(3) / bound
    return abs(deviation - 1) < 0.05 and 0.95 < values.abs().max().item() / bound <= 1.00001


def test_gates_keep_torchs_values():
    """The IBN-Net code draws convolutions only; the linear layers of a gate are PyTorch's default."""
    torch.manual_seed(0)
    network = ResNet((1, 1, 1, 1), plan=se_ibn_a_plan)
    gates = [module for module in network.modules() if isinstance(module, SELayer)]
    assert len(gates) == 4
    for gate in gates[1:]:
        for layer in (gate.fc[0], gate.fc[2]):
            assert is_uniform(layer.weight.detach(), 1 / math.sqrt(layer.in_features))


def test_split_attention_keeps_torchs_biases():
    """The ResNeSt code draws the weights of all convolutions and leaves their biases."""
    torch.manual_seed(0)
    network = naic_backbone("resnest50")
    modules = [module for module in network.modules() if isinstance(module, SplitAttention)]
    for name in ("fc1", "fc2"):
        layers = [getattr(module, name) for module in modules]
        scaled = [layer.bias.detach() * math.sqrt(layer.in_channels) for layer in layers]
        assert is_uniform(torch.cat(scaled), 1.0)
        weights = [layer.weight.detach().flatten() * math.sqrt(layer.out_channels / 2) for layer in layers]
        assert torch.cat(weights).std().item() == pytest.approx(1, abs=0.02)
        assert torch.cat(weights).abs().max() > 3.5  # normal


def test_expansion_keeps_torchs_biases():
    torch.manual_seed(0)
    layer = DEE(1024)
    for branch in (1, 2):
        last = getattr(layer, f"FC{branch}")
        assert is_uniform(last.bias.detach(), 1 / math.sqrt(last.in_channels))
        for conv in (last, *(getattr(layer, f"FC{branch}{rate}") for rate in (1, 2, 3))):
            assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / conv.weight[0].numel()), rel=0.02)
