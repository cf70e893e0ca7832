# SPDX-License-Identifier: Apache-2.0
"""HACNN's attention: recorded numbers, and the original's formulation with its C x C convolution in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastreid_ops.layers.harmonious_attention import (
    ChannelAttn,
    HardAttn,
    HarmAttn,
    SoftAttn,
    SpatialAttn,
    outer_norm,
)


class Block(nn.Module):
    def __init__(self, a, b, k, s=1, p=0):
        super().__init__()
        self.conv = nn.Conv2d(a, b, k, s, p)
        self.bn = nn.BatchNorm2d(b)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


class PlainSoft(nn.Module):
    """The gate as it is published: the outer product and the convolution of it laid out."""

    def __init__(self, c):
        super().__init__()
        self.spatial_attn = nn.ModuleDict({"conv1": Block(1, 1, 3, 2, 1), "conv2": Block(1, 1, 1)})
        self.channel_attn = nn.ModuleDict({"conv1": Block(c, c // 16, 1), "conv2": Block(c // 16, c, 1)})
        self.conv = Block(c, c, 1)

    def forward(self, x):
        s = self.spatial_attn["conv1"](x.mean(1, keepdim=True))
        s = F.interpolate(s, scale_factor=2, mode="bilinear", align_corners=True)
        s = self.spatial_attn["conv2"](s)
        v = self.channel_attn["conv2"](self.channel_attn["conv1"](F.adaptive_avg_pool2d(x, 1)))
        return torch.sigmoid(self.conv(s * v))


def pair(golden, channels=64, dtype=torch.float64, prefix="ha1.soft_attn."):
    layer = golden.fill(SoftAttn(channels), prefix).to(dtype)
    plain = PlainSoft(channels).double()
    plain.load_state_dict(layer.state_dict())
    return layer, plain


@pytest.fixture
def x(golden):
    return golden.tensor("attn_x", (3, 64, 6, 4), 2.0).double() + 1


def test_recorded_parts(golden):
    want = golden.read("deep_person_reid", "hacnn_parts")
    attention = golden.fill(HarmAttn(128), "ha1.").eval()
    x = torch.from_numpy(want["x"])
    golden.close(golden.tensor("parts_x", (2, 128, 8, 4), 2.0) + 1, want["x"])
    soft = attention.soft_attn
    with torch.no_grad():
        golden.close(soft.spatial_attn(x), want["spatial"])
        golden.close(soft.channel_attn(x), want["channel"])
        golden.close(soft.attention(x), want["soft"])
        golden.close(attention.hard_attn(x), want["theta"])
        gated, theta = attention(x)
        golden.close(theta, want["theta"])
        golden.close(gated, want["x"] * want["soft"])
        golden.close(soft(x), want["x"] * want["soft"])
    # The recorded gate is far from what up-sampling without aligned corners gives.
    with torch.no_grad():
        small = soft.spatial_attn.conv1(x.mean(1, keepdim=True))
        other = soft.spatial_attn.conv2(F.interpolate(small, scale_factor=2, mode="bilinear"))
    assert (other - torch.from_numpy(want["spatial"])).abs().max() > 1e-3


def test_names():
    names = [name for name, _ in HarmAttn(128).named_parameters()]
    assert names[:3] == [
        "soft_attn.spatial_attn.conv1.conv.weight",
        "soft_attn.spatial_attn.conv1.conv.bias",
        "soft_attn.spatial_attn.conv1.bn.weight",
    ]
    assert names[-4:] == [
        "soft_attn.conv.bn.weight",
        "soft_attn.conv.bn.bias",
        "hard_attn.fc.weight",
        "hard_attn.fc.bias",
    ]
    assert set(PlainSoft(128).state_dict()) == set(SoftAttn(128).state_dict())


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_plain_formulation(golden, x, mode):
    layer, plain = pair(golden)
    results = []
    for module in (layer, plain):
        module.train(mode == "train")
        leaf = x.clone().requires_grad_()
        y = module(leaf) if module is layer else leaf * plain(leaf)
        y.backward(golden.tensor("attn_cotangent", tuple(x.shape)).double())
        gradients = [(name, p.grad) for name, p in module.named_parameters()]
        results.append([("y", y), ("x", leaf.grad), *gradients, *module.named_buffers()])
    for (name, got), (other, want) in zip(*results, strict=True):
        assert name == other or name in ("y", "x")
        torch.testing.assert_close(
            got, want, rtol=1e-9, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_float32_stays_close(golden, x):
    layer, plain = pair(golden, dtype=torch.float32)
    for mode in (True, False):
        got = layer.train(mode)(x.float())
        golden.close(got, (x * plain.train(mode)(x)).detach().float())
    for got, want in zip(layer.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(got.double(), want.double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("momentum", [0.1, 0.7, None])
def test_running_statistics_of_the_outer_product(golden, momentum):
    norm = golden.fill(nn.BatchNorm2d(8, momentum=momentum)).double()
    norm.num_batches_tracked.fill_(3)
    other = copy.deepcopy(norm)
    for step in range(2):
        s = (
            golden.tensor(f"s{step}", (2, 1, 3, 4)).double() + 5
        )  # a mean far from 0: no cancellation may show
        u, bias = golden.tensor(f"u{step}", (2, 8)).double(), golden.tensor("bias", (8,)).double()
        factor, shift = outer_norm(norm, s, u, bias)
        want = other(s * u[:, :, None, None] + bias[:, None, None])
        torch.testing.assert_close(s * factor[:, :, None, None] + shift[:, None, None], want)
        for got, expected in zip(norm.buffers(), other.buffers(), strict=True):
            torch.testing.assert_close(got, expected)
    assert norm.num_batches_tracked.item() == 5


def test_a_mean_far_from_zero_in_float32(golden):
    """The variance must not be a difference of two large squares."""
    norm = nn.BatchNorm2d(4)
    s, u = golden.tensor("s", (2, 1, 8, 8), 0.01) + 100, torch.ones(2, 4)
    factor, shift = outer_norm(norm, s, u, torch.zeros(4))
    want = nn.BatchNorm2d(4).double()((s * u[:, :, None, None]).double())
    got = s.double() * factor.double()[:, :, None, None] + shift.double()[:, None, None]
    assert (got - want).abs().max() < 2e-2 * want.abs().max()


class Elsewhere(nn.BatchNorm2d):
    """Another class with the same values, as SyncBatchNorm is."""


@pytest.mark.parametrize("training", [False, True])
def test_another_normalisation_is_called(golden, x, training):
    layer, plain = pair(golden)
    replaced = Elsewhere(64).double()
    replaced.load_state_dict(layer.conv.bn.state_dict())
    layer.conv.bn = replaced
    torch.testing.assert_close(layer.train(training)(x), x * plain.train(training)(x))
    torch.testing.assert_close(replaced.running_var, plain.conv.bn.running_var)


def test_frozen_statistics_in_training(golden, x):
    layer, plain = pair(golden)
    plain.eval()
    layer.train()
    for module in layer.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    torch.testing.assert_close(layer(x), x * plain(x))
    torch.testing.assert_close(layer(x[:1]), x[:1] * plain(x[:1]))
    assert layer.conv.bn.num_batches_tracked.item() == 0


def test_harmonious_is_soft_and_hard(golden, x):
    layer = golden.fill(HarmAttn(64), "ha1.").double().train()
    soft = copy.deepcopy(layer.soft_attn)
    leaf, other = (x.clone().requires_grad_() for _ in range(2))
    gated, theta = layer(leaf)
    want = soft(other)
    torch.testing.assert_close(gated, want)
    pooled = F.linear(other.mean((2, 3)), layer.hard_attn.fc.weight, layer.hard_attn.fc.bias)
    torch.testing.assert_close(theta, torch.tanh(pooled).reshape(3, 4, 2))
    (gated.square().sum() + theta.sum()).backward()
    (want.square().sum() + torch.tanh(pooled).sum()).backward()
    torch.testing.assert_close(leaf.grad, other.grad, rtol=1e-9, atol=1e-9)


def test_first_translations():
    theta = HardAttn(64)(torch.randn(2, 64, 4, 4))
    want = torch.tensor([[0, -0.6351], [0, -0.2449], [0, 0.2449], [0, 0.6351]])
    torch.testing.assert_close(theta, want.expand(2, 4, 2), rtol=0, atol=5e-5)


@pytest.mark.parametrize(
    ("channels", "soft", "whole"), [(128, 19_240, 20_272), (256, 75_328, 77_384), (384, 168_280, 171_360)]
)
def test_counts(channels, soft, whole):
    layer = HarmAttn(channels)
    assert sum(p.numel() for p in layer.soft_attn.parameters()) == soft
    assert sum(p.numel() for p in layer.parameters()) == whole
    assert sum(p.numel() for p in SpatialAttn().parameters()) == 16


def test_gate_lies_in_its_range(golden, x):
    gate = pair(golden)[0].eval().attention(x)
    assert gate.min() >= 0.5
    assert gate.max() < 1
    assert gate.shape == x.shape


@pytest.mark.parametrize("make", [SoftAttn, HarmAttn])
def test_errors(make):
    name = make.__name__
    layer = make(32)
    with pytest.raises(ValueError, match=r"^SpatialAttn: x: got 5 x 4, expected an even height and width"):
        layer(torch.zeros(2, 32, 5, 4))
    with pytest.raises(ValueError, match=f"^{name}: x: got shape \\(2, 16, 4, 4\\), expected size 32"):
        layer(torch.zeros(2, 16, 4, 4))
    with pytest.raises(
        ValueError, match=r"^ChannelAttn: x: got batch 1, expected at least 2 samples while training"
    ):
        layer(torch.zeros(1, 32, 4, 4))
    with pytest.raises(
        ValueError, match=r"^ChannelAttn: channels: got 8, expected at least the reduction, 16"
    ):
        ChannelAttn(8)
