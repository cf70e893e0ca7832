# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from torch import nn

from fastreid_ops.models import create_model
from fastreid_ops.models.backbones.resnet import BlockPlan, ResNet


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return create_model("resnet50_bnneck", 100)


@pytest.fixture(scope="module")
def images():
    return torch.randn(4, 3, 64, 32, generator=torch.Generator().manual_seed(1))


def test_size(model):
    backbone = 23_508_032  # torchvision's resnet50 without fc
    assert sum(p.numel() for p in model.parameters()) == backbone + 2 * 2048 + 100 * 2048


def test_neck_and_classifier_start_as_published(model):
    assert not model.bottleneck.bias.requires_grad
    assert torch.equal(model.bottleneck.bias, torch.zeros(2048))
    assert torch.equal(model.bottleneck.weight, torch.ones(2048))
    assert model.classifier.bias is None
    assert model.classifier.weight.std().item() == pytest.approx(0.001, rel=0.02)
    assert abs(model.classifier.weight.mean().item()) < 1e-5


@pytest.mark.parametrize(("last_stride", "size"), [(1, (16, 8)), (2, (8, 4))])
def test_last_stride(last_stride, size, images):
    net = ResNet((1, 1, 1, 1), last_stride=last_stride).eval()
    with torch.no_grad():
        assert net(torch.zeros(1, 3, 256, 128)).shape == (1, 2048, *size)


def test_triplet_feature_before_and_logits_after_the_neck(model, images):
    model.train()
    output = model(images)
    pooled = output.features[0]
    mean, var = pooled.mean(0), pooled.var(0, unbiased=False)
    after = (pooled - mean) / (var + 1e-5).sqrt()
    torch.testing.assert_close(output.logits[0], after @ model.classifier.weight.T, rtol=1e-3, atol=1e-4)
    model.eval()


def test_neck_feature_chooses_the_evaluation_feature(model, images):
    model.eval()
    with torch.no_grad():
        model.bottleneck.running_mean.uniform_(-1, 1)
        model.bottleneck.running_var.uniform_(0.5, 2)
        after = model(images)
        model.neck_feature = "before"
        before = model(images)
        model.neck_feature = "after"
    want = (before - model.bottleneck.running_mean) / (model.bottleneck.running_var + 1e-5).sqrt()
    torch.testing.assert_close(after, want, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(after, before)


def test_bad_arguments():
    with pytest.raises(ValueError, match="neck_feature: got 'middle', expected 'after' or 'before'"):
        create_model("resnet50_bnneck", 3, neck_feature="middle")
    with pytest.raises(ValueError, match="last_stride: got 3, expected 1 or 2"):
        create_model("resnet50", 3, last_stride=3)


class _Halves(nn.Module):
    """Instance normalisation on half of the channels, batch normalisation on the rest (IBN-a)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.IN = nn.InstanceNorm2d(channels // 2, affine=True)
        self.BN = nn.BatchNorm2d(channels - channels // 2)

    def forward(self, x):
        a, b = x.chunk(2, 1)
        return torch.cat([self.IN(a), self.BN(b)], 1)


def test_a_relative_of_the_network_is_a_plan(images):
    """Norm, middle convolution, gate and output norm can be exchanged without a second copy of the network."""

    def plan(stage, index, blocks):
        last = index == blocks - 1
        return BlockPlan(
            groups=2,
            base_width=32,
            norm1=_Halves if stage < 4 else nn.BatchNorm2d,
            gate=("se_module", lambda c: nn.Conv2d(c, c, 1, groups=c)),
            norm_out=("IN", lambda c: nn.InstanceNorm2d(c, affine=True)) if last and stage == 1 else None,
        )

    net = ResNet((2, 1, 1, 1), plan=plan)
    keys = set(net.state_dict())
    assert {"layer1.0.bn1.IN.weight", "layer1.0.se_module.weight", "layer1.1.IN.weight"} <= keys
    assert "layer4.0.bn1.weight" in keys
    assert "layer1.0.IN.weight" not in keys
    assert net.layer1[0].conv2.weight.shape == (64, 32, 3, 3)
    net(images).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
