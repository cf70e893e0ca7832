# SPDX-License-Identifier: Apache-2.0
"""The eight cloth-changing variants: recorded numbers, and the experiments' own formulation in float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fastreid_ops.layers.channel_attention import VARIANTS, ChannelAttention
from fastreid_ops.layers.conv import ConvNorm
from fastreid_ops.models.osnet import LightConv3x3

RECORDED = [(v, "eval") for v in VARIANTS if v != 199] + [(202, "train"), (203, "train")]
FOLDER = "naic_and_cloth_changing"


class Plain(nn.Module):
    """Pools, network, sigmoid and product, one torch operator each."""

    def __init__(self, channels: int, variant: int, reduction: int = 16):
        super().__init__()
        self.variant = variant
        h, c = channels // reduction, channels
        if variant == 198:
            self.conv1 = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        elif variant == 200:
            self.conv1 = nn.Conv1d(2, 1, 5, 1, 2)
        elif variant == 199:
            self.se = nn.Conv2d(2 * c, c, 7, padding=3, bias=False)
        else:
            self.se = {
                196: lambda: nn.Sequential(nn.Conv2d(c, h, 1), nn.ReLU(), nn.Conv2d(h, c, 1)),
                197: lambda: nn.Sequential(nn.Conv2d(2 * c, h, 1), nn.ReLU(), nn.Conv2d(h, c, 1)),
                201: lambda: nn.Sequential(nn.Conv2d(2 * c, c, 1)),
                202: lambda: nn.Sequential(
                    nn.Conv2d(2 * c, c, 1), nn.BatchNorm2d(c), nn.ReLU(), nn.Conv2d(c, c, 1)
                ),
                203: lambda: nn.Sequential(
                    nn.Conv2d(2 * c, h, 1, bias=False),
                    nn.BatchNorm2d(h),
                    nn.ReLU(),
                    nn.Conv2d(h, c, 1, bias=False),
                ),
            }[variant]()

    def forward(self, x):
        avg, peak = nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(1)
        if self.variant == 198:
            z = self.conv1(torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], 1))
        elif self.variant == 200:
            rows = torch.stack([x.mean((2, 3)), x.amax((2, 3))], 1)
            z = self.conv1(rows).reshape(*x.shape[:2], 1, 1)
        elif self.variant == 196:
            z = self.se(avg(x))
        else:
            z = self.se(torch.cat([avg(x), peak(x)], 1))
        return torch.sigmoid(z) * x


def inputs(golden):
    x = golden.tensor("attn_x", (3, 64, 6, 4), 2.0).requires_grad_()
    return x, golden.tensor("attn_cotangent", (3, 64, 6, 4))


def gate_of(y, x, dims):
    """The factor that two maps have in common along ``dims``."""
    y, x = y.detach().double(), x.detach().double()
    return (y * x).sum(dims) / (x * x).sum(dims)


@pytest.mark.parametrize(("variant", "mode"), RECORDED)
def test_recorded_numbers(golden, variant, mode):
    want = golden.read(FOLDER, f"attn_{variant}")
    layer = golden.fill(ChannelAttention(64, variant)).train(mode == "train")
    x, cotangent = inputs(golden)
    y = layer(x)
    y.backward(cotangent)
    # Batch statistics of 3 samples magnify rounding: float64 is up to 2.5 evaluation tolerances from the recording.
    loose = {"rtol": 2e-4, "atol": 2e-5} if mode == "train" else {}
    golden.close(y, want[f"{mode}_y"], **loose)
    golden.close(x.grad, want[f"{mode}_dx"], **loose)
    golden.close(gate_of(y, x, 1 if variant == 198 else (2, 3)).float(), want[f"{mode}_gate"], **loose)
    seen = 0
    for name, parameter in layer.named_parameters():
        if mode == "train" and name == "se.0.bias":
            # A constant before batch statistics: rounding is all it gets.
            assert parameter.grad.abs().max() < 1e-4 * layer.se[0].weight.grad.abs().max()
            seen += 1
            continue
        sums = torch.stack([parameter.grad.sum(), parameter.grad.abs().sum()])
        golden.close(sums, want[f"{mode}_gsum_{name}"], **loose)
        seen += 1
        if f"{mode}_g_{name}" in want:
            golden.close(parameter.grad, want[f"{mode}_g_{name}"], **loose)
    assert seen == sum(key.startswith(f"{mode}_gsum_") for key in want)
    buffers = dict(layer.named_buffers())
    for key in want:
        if key.startswith("train_buf_") and mode == "train":
            golden.close(buffers[key.removeprefix("train_buf_")], want[key], **loose)


def test_sums_of_the_specification(golden):
    sums = [2308.8985, 2121.5718, 2058.4219, 2407.7237, 590.1806, 2686.9356, 2403.3841, 2494.5888]
    x, _ = inputs(golden)
    for variant, want in zip(VARIANTS, sums, strict=True):
        y = golden.fill(ChannelAttention(64, variant)).eval()(x)
        assert y.abs().double().sum().item() == pytest.approx(want, rel=2e-6), variant
    for variant, want in ((202, 2366.9944), (203, 2309.7166)):
        y = golden.fill(ChannelAttention(64, variant)).train()(x)
        assert y.abs().double().sum().item() == pytest.approx(want, rel=2e-6), variant


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_plain_formulation(golden, variant, training):
    layer = golden.fill(ChannelAttention(64, variant)).double().train(training)
    plain = Plain(64, variant).double().train(training)
    plain.load_state_dict(layer.state_dict())
    results = []
    for module in (layer, plain):
        x = golden.tensor("other_x", (3, 64, 5, 7), 2.0).double().relu().requires_grad_()
        y = module(x)
        y.backward(golden.tensor("other_dy", (3, 64, 5, 7)).double())
        results.append([y, x.grad, *(p.grad for p in module.parameters()), *module.buffers()])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("variant", [196, 197, 198, 200, 201, 202, 203])
def test_plain_formulation_at_the_width_of_the_network(golden, variant):
    layer = golden.fill(ChannelAttention(512, variant)).eval()
    plain = Plain(512, variant).double().eval()
    plain.load_state_dict(layer.state_dict())
    x = golden.tensor("attn_x512", (2, 512, 24, 12), 2.0)
    with torch.no_grad():
        golden.close(layer(x), plain(x.double()).float())


def test_199_reads_the_centre_only(golden):
    layer = golden.fill(ChannelAttention(64, 199)).eval()
    x, cotangent = inputs(golden)
    y = layer(x)
    y.backward(cotangent)
    off = layer.se.weight.grad.clone()
    assert off[:, :, 3, 3].abs().min() > 0
    off[:, :, 3, 3] = 0
    assert torch.equal(off, torch.zeros_like(off))
    with torch.no_grad():
        centre = layer.se.weight[:, :, 3, 3].clone()
        layer.se.weight.fill_(float("nan"))
        layer.se.weight[:, :, 3, 3] = centre
    assert torch.equal(layer(x), y)


@pytest.mark.parametrize(
    ("variant", "at_512", "at_2048"),
    [
        (196, 33_312, 526_464),
        (197, 49_696, 788_608),
        (198, 98, 98),
        (199, 25_690_112, 411_041_792),
        (200, 11, 11),
        (201, 524_800, 8_390_656),
        (202, 788_480, 12_591_104),
        (203, 49_216, 786_688),
    ],
)
def test_counts(variant, at_512, at_2048):
    with torch.device("meta"):
        for channels, want in ((512, at_512), (2048, at_2048)):
            assert sum(p.numel() for p in ChannelAttention(channels, variant).parameters()) == want


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_maximum_in_several_places(golden, variant):
    """What a ReLU leaves: empty channels, and positions where all channels agree."""
    layer = golden.fill(ChannelAttention(32, variant)).double().eval()
    plain = Plain(32, variant).double().eval()
    plain.load_state_dict(layer.state_dict())
    x = golden.tensor("ties", (2, 32, 4, 3), 2.0).double()
    x[:, :8] = 0
    x[:, 8:16] = 1
    x[:, :, :, 0] = 0
    leaves = [x.clone().requires_grad_() for _ in range(2)]
    for module, leaf in zip((layer, plain), leaves, strict=True):
        module(leaf).backward(golden.tensor("ties_dy", tuple(x.shape)).double())
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("training", [False, True])
def test_streams_are_gated_and_added(golden, variant, training):
    layers = [golden.fill(ChannelAttention(32, variant)).train(training) for _ in range(2)]
    streams = [golden.tensor(f"stream{i}", (2, 32, 4, 3), 2.0) for i in range(3)]
    together = layers[0](streams)
    one_by_one = sum(layers[1](stream) for stream in streams)
    torch.testing.assert_close(together, one_by_one, rtol=1e-5, atol=1e-6)
    for got, want in zip(layers[0].buffers(), layers[1].buffers(), strict=True):
        torch.testing.assert_close(got, want)
    if variant in (202, 203):
        assert layers[0].se[1].num_batches_tracked.item() == (3 if training else 0)


class Block(nn.Module):
    """The omni-scale block of the cloth-changing network: three streams, `ChannelAttention` as their gate."""

    def __init__(self, channels: int):
        super().__init__()
        middle = channels // 4
        self.conv1 = ConvNorm(channels, middle)
        self.conv2a = LightConv3x3(middle, middle)
        self.conv2b = nn.Sequential(*(LightConv3x3(middle, middle) for _ in range(2)))
        self.conv2c = nn.Sequential(*(LightConv3x3(middle, middle) for _ in range(3)))
        self.gate = ChannelAttention(middle, 196)
        self.conv3 = ConvNorm(middle, channels, activation=False)

    def forward(self, x):
        inner = self.conv1(x)
        fused = self.gate([stream(inner) for stream in (self.conv2a, self.conv2b, self.conv2c)])
        return torch.relu(self.conv3(fused) + x)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_recorded_block(golden, mode):
    want = golden.read(FOLDER, "cc_osblock")
    block = golden.fill(Block(128)).train(mode == "train")
    x = golden.tensor("os_x", (2, 128, 6, 4), 1.5).requires_grad_()
    y = block(x)
    y.backward(golden.tensor("os_cot", (2, 128, 6, 4)))
    golden.close(y, want[f"{mode}_y"], rtol=1e-4, atol=1e-5)
    golden.close(x.grad, want[f"{mode}_dx"], rtol=1e-3, atol=1e-4)
    parameters = dict(block.named_parameters())
    assert list(parameters) == want["names"].tolist()
    for name, sums in zip(want["names"].tolist(), want[f"{mode}_gsum"], strict=True):
        if name.startswith("gate."):
            grad = parameters[name].grad
            golden.close(torch.stack([grad.sum(), grad.abs().sum()]), sums, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("variant", [202, 203])
def test_one_sample(golden, variant):
    layer = golden.fill(ChannelAttention(32, variant))
    x = golden.tensor("one", (1, 32, 4, 4))
    with pytest.raises(
        ValueError, match=r"^ChannelAttention: x: got batch 1, expected at least 2 samples while training"
    ):
        layer.train()(x)
    assert layer.se[1].num_batches_tracked.item() == 0
    layer.se[1].eval()  # frozen statistics need no batch
    assert layer(x).shape == x.shape


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"channels": 64, "variant": 195}, ValueError, "variant: got 195, expected 196 to 203"),
        ({"channels": 8}, ValueError, "channels: got 8, expected at least the reduction, 16"),
        ({"channels": 0}, ValueError, "channels: got 0, expected an int of at least 1"),
        ({"channels": 64.0}, TypeError, "channels: got float, expected an int of at least 1"),
        ({"channels": 64, "reduction": 0}, ValueError, "reduction: got 0, expected an int of at least 1"),
    ],
)
def test_arguments(arguments, error, words):
    with pytest.raises(error, match=f"^ChannelAttention: {words}"):
        ChannelAttention(**arguments)


@pytest.mark.parametrize("variant", VARIANTS)
def test_maps_that_do_not_fit(variant):
    layer = ChannelAttention(64, variant)
    with pytest.raises(
        ValueError, match=r"^ChannelAttention: x: got shape \(2, 32, 4, 4\), expected size 64 in dim"
    ):
        layer(torch.zeros(2, 32, 4, 4))
    with pytest.raises(
        ValueError, match=r"^ChannelAttention: x: got shape \(2, 64\), expected \(B, C, H, W\)"
    ):
        layer(torch.zeros(2, 64))
    with pytest.raises(TypeError, match=r"^ChannelAttention: x: got list, expected a torch.Tensor"):
        layer([])
