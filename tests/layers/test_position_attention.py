# SPDX-License-Identifier: Apache-2.0
"""Position attention, against recorded numbers and its formula in float64."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from fastreid_ops.layers.position_attention import PositionAttention


def maps(golden):
    return [golden.tensor(name, (2, 32, 6, 4), 1.5).requires_grad_() for name in ("pam_x", "pam_x2")]


def test_recorded_numbers(golden):
    want = golden.read("naic_and_cloth_changing", "cc_pam_v2")
    layer = golden.fill(PositionAttention(32))
    x, value = maps(golden)
    y = layer(x, value)
    y.backward(golden.tensor("pam_cot", (2, 32, 6, 4)))
    golden.close(layer.gamma, want["gamma"])
    golden.close(y, want["y"])
    golden.close(x.grad, want["dx"], rtol=1e-4, atol=1e-5)
    golden.close(value.grad, want["dx2"], rtol=1e-4, atol=1e-5)
    golden.close(layer.gamma.grad, want["dgamma"], rtol=1e-4)
    assert bool(want["value_conv_grad_is_none"])
    assert layer.value_conv.weight.grad is None
    assert not layer.value_conv.weight.requires_grad


def plain(layer, x, value):
    """One image, one position at a time."""
    projected = layer.value_conv(value) if layer.project_value else value
    query, key = layer.query_conv(x).flatten(2), layer.key_conv(x).flatten(2)
    rows = projected.flatten(2)
    out = torch.zeros_like(rows)
    for b in range(x.shape[0]):
        for i in range(rows.shape[2]):
            weights = torch.softmax(query[b, :, i] @ key[b], 0)
            out[b, :, i] = (rows[b] * weights).sum(1)
    return layer.gamma * out.view_as(value) + value


@pytest.mark.parametrize("project_value", [False, True])
def test_formula(golden, project_value):
    layer = golden.fill(PositionAttention(32, project_value=project_value)).double()
    x, value = (one.detach().double() for one in maps(golden))
    torch.testing.assert_close(layer(x, value), plain(layer, x, value), rtol=1e-11, atol=1e-12)
    layer(x, value).square().sum().backward()
    assert (layer.value_conv.weight.grad is not None) == project_value


def test_starts_as_the_value(golden):
    x, value = maps(golden)
    assert torch.equal(PositionAttention(32)(x, value), value)


def test_bf16_autocast(golden):
    layer = golden.fill(PositionAttention(32))
    x, value = maps(golden)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = layer(x, value)
    assert F.cosine_similarity(got.float().flatten(1), layer(x, value).flatten(1)).min() > 0.999


def test_parameters():
    with torch.device("meta"):
        layer = PositionAttention(2048)
    assert sum(p.numel() for p in layer.parameters()) == 5_245_441
    assert layer.value_conv.weight.numel() + layer.value_conv.bias.numel() == 4_196_352


def test_errors(golden):
    with pytest.raises(ValueError, match=r"^PositionAttention: channels: got 4, expected at least 8"):
        PositionAttention(4)
    x, value = maps(golden)
    with pytest.raises(ValueError, match=r"^PositionAttention: value: got shape \(2, 32, 5, 4\)"):
        PositionAttention(32)(x, value[:, :, :5])
    with pytest.raises(
        ValueError, match=r"^PositionAttention: x: got shape \(2, 32, 6, 4\), expected size 64"
    ):
        PositionAttention(64)(x, value)
