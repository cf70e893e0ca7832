# SPDX-License-Identifier: Apache-2.0
"""Dynamic part weights: recorded numbers, the chain in float64, the fold."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastreid_ops.layers.pcb_weights import PartWeight, fold_part_weights, part_weights


class Head(nn.Module):
    """As much of the part-based head as names its weights."""

    def __init__(self, channels=64, features=32):
        super().__init__()
        for i in range(6):
            self.add_module(f"dy_weight{i}", PartWeight(channels, features))

    def chains(self):
        return list(self.children())


def chain(p, i, q):
    """Layer by layer, no module of ours."""
    value = F.adaptive_avg_pool2d(q, 1)
    for k in (1, 2, 3):
        value = F.conv2d(value, p[f"dy_weight{i}.{k}.weight"], p[f"dy_weight{i}.{k}.bias"])
    return F.linear(value.flatten(1), p[f"dy_weight{i}.5.weight"], p[f"dy_weight{i}.5.bias"])


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("tag", "height", "width"), [("h8", 8, 4), ("h12", 12, 4), ("h16", 16, 8)])
def test_recorded_numbers(golden, tag, height, width, training):
    want = golden.read("naic_and_cloth_changing", "pcb")[f"{tag}_dyw"]
    head = golden.fill(Head()).train(training)
    x = golden.tensor(f"pcb_x_{tag}", (3, 64, height, width)) + 0.5
    golden.close(part_weights(F.adaptive_avg_pool2d(x, (6, 1)), head.chains()), want, rtol=1e-5, atol=2e-6)


def test_bins_and_whole_map_differ_where_six_does_not_divide(golden):
    head = golden.fill(Head()).eval()
    x = golden.tensor("pcb_x_h8", (3, 64, 8, 4)) + 0.5
    bins = part_weights(F.adaptive_avg_pool2d(x, (6, 1)), head.chains())
    assert (part_weights(x, head.chains()) - bins).abs().max() > 1e-2


@pytest.mark.parametrize("training", [False, True])
def test_plain_formulation(golden, training):
    head = golden.fill(Head()).double().train(training)
    values = {key: t.detach().clone().requires_grad_() for key, t in head.state_dict().items()}
    q = golden.tensor("q", (3, 64, 6, 1)).double().requires_grad_()
    other = q.detach().clone().requires_grad_()
    got = part_weights(q, head.chains())
    want = torch.cat([chain(values, i, other) for i in range(6)], 1)
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-12)
    got.square().sum().backward()
    want.square().sum().backward()
    torch.testing.assert_close(q.grad, other.grad, rtol=1e-10, atol=1e-11)
    for key, parameter in head.named_parameters():
        torch.testing.assert_close(parameter.grad, values[key].grad, rtol=1e-10, atol=1e-11)


def test_fold(golden):
    head = golden.fill(Head())
    weight, bias = fold_part_weights(head.chains())
    assert weight.shape == (6, 64)
    assert bias.shape == (6,)
    q = golden.tensor("q", (3, 64, 6, 1))
    golden.close(F.linear(q.mean((2, 3)), weight, bias), torch.cat([c(q) for c in head.chains()], 1).detach())


def test_count_and_names():
    weights = PartWeight(2048, 256)
    assert sum(p.numel() for p in weights.parameters()) == 533_265
    assert list(weights.state_dict()) == [f"{k}.{what}" for k in (1, 2, 3, 5) for what in ("weight", "bias")]


def test_errors():
    with pytest.raises(ValueError, match=r"^PartWeight: features: got 8, expected at least 16"):
        PartWeight(64, 8)
    with pytest.raises(ValueError, match=r"^PartWeight: channels: got 0, expected an int of at least 1"):
        PartWeight(0)
