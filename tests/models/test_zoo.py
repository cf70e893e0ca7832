# SPDX-License-Identifier: Apache-2.0
"""What single networks of deep-person-reid promise beside the contract and the goldens: options, fixed sizes, layouts,
initial values, the behaviour of the repository's first versions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastreid_ops.layers.conv import ConvNorm
from fastreid_ops.layers.fully_connected import fully_connected
from fastreid_ops.layers.ibn import IBN
from fastreid_ops.models import create_model
from fastreid_ops.models.backbones.nasnet import ReductionCell, SeparableBranch
from fastreid_ops.models.backbones.resnet import RESNET101, BlockPlan, Bottleneck
from fastreid_ops.models.backbones.senet import se_plan
from fastreid_ops.models.hacnn import cut_regions
from fastreid_ops.models.resnet import ResNetClassifier


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def parameters(model):
    return sum(p.numel() for p in model.parameters())


# --- HACNN


@pytest.fixture(scope="module")
def filled_hacnn(golden):
    return golden.fill(create_model("hacnn", 5), 2.0).eval()


def test_hacnn_blocks(filled_hacnn, golden):
    want = golden.read("hacnn_parts")
    x = torch.from_numpy(want["x"])
    with torch.no_grad():
        assert golden.relative(filled_hacnn.inception1[0](x[:, :32]), want["inceptionA"]) < 1e-5
        assert golden.relative(filled_hacnn.inception1[1](x), want["inceptionB"]) < 1e-5
        assert golden.relative(filled_hacnn.local_conv1(x[:, :32]), want["local_conv1"]) < 1e-5


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("region", range(4))
def test_hacnn_regions(golden, region, align_corners):
    want = golden.read("hacnn_parts")
    place = torch.from_numpy(want["theta"][:, region])
    assert want[f"theta_full_{region}"][:, :, 2] == pytest.approx(place.numpy())
    places = torch.from_numpy(want["theta"])
    got = cut_regions(torch.from_numpy(want["s"]), places, (6, 7), align_corners)[:, region]
    assert golden.relative(got, want[f"stn_{region}_ac{int(align_corners)}"]) < 1e-5
    assert golden.relative(got, want[f"stn_{region}_ac{int(not align_corners)}"]) > 1e-2


@pytest.mark.parametrize("align_corners", [False, True])
def test_hacnn_regions_are_cut_in_float32(align_corners):
    """Against torch's own grid, and with the same result from bfloat16 under autocast."""
    x, place = random(2, 3, 12, 5).bfloat16(), torch.tanh(random(2, 2, seed=1)).bfloat16()
    theta = torch.zeros(2, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = 1.0, 0.25, place.float()
    grid = F.affine_grid(theta, [2, 3, 12, 5], align_corners=align_corners)
    want = F.grid_sample(x.float(), grid, align_corners=align_corners)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = cut_regions(x, place[:, None], (12, 5), align_corners)[:, 0]
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("align_corners", [False, True])
def test_hacnn_regions_and_their_gradients_are_those_of_a_sampled_grid(align_corners):
    """Also where the grid falls on the pixels' centres, as it does across the map before any training."""
    x, places = random(2, 3, 20, 8).double(), torch.tanh(random(2, 4, 2, seed=1)).double()
    places[0, :, 0] = 0.0
    places[1, 0] = torch.tensor([1.0, -1.0])
    weights = random(2, 4, 3, 6, 7, seed=2).double()
    inputs = [x.requires_grad_(), places.requires_grad_()]
    got = cut_regions(*inputs, (6, 7), align_corners)

    def one(region: int) -> torch.Tensor:
        place = places[:, region]
        theta = torch.stack([torch.eye(2)[i] * (1.0, 0.25)[i] for i in (0, 1)]).double().expand(2, 2, 2)
        grid = F.affine_grid(torch.cat([theta, place[:, :, None]], 2), x.shape, align_corners=align_corners)
        sampled = F.grid_sample(x, grid, align_corners=align_corners)
        return F.interpolate(sampled, (6, 7), mode="bilinear", align_corners=True)

    want = torch.stack([one(region) for region in range(4)], 1)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
    # At a pixel's centre the slope jumps, and rounding decides on which side affine_grid's own places lie.
    smooth = places.detach() != 0
    for mine, his, where in zip(
        torch.autograd.grad((got * weights).sum(), inputs),
        torch.autograd.grad((want * weights).sum(), inputs),
        (torch.ones_like(x, dtype=torch.bool), smooth),
        strict=True,
    ):
        torch.testing.assert_close(mine[where], his[where], rtol=1e-9, atol=1e-9)


def test_hacnn_align_corners_moves_the_local_half_only(golden):
    images = golden.images(2, 160, 64)
    features = []
    for align_corners in (False, True):
        model = golden.fill(create_model("hacnn", 5, align_corners=align_corners), 2.0).eval()
        with torch.no_grad():
            features.append(model(images))
    assert torch.equal(features[0][:, :512], features[1][:, :512])
    assert (features[0][:, 512:] - features[1][:, 512:]).abs().max() > 5e-3
    torch.testing.assert_close(features[0].norm(dim=1), torch.full((2,), math.sqrt(2)))


def test_hacnn_without_regions(golden):
    model = create_model("hacnn", 751, learn_region=False)
    assert parameters(model) == 2_000_135
    assert not [name for name in model.state_dict() if "local" in name]
    golden.fill(model, 2.0).eval()
    with torch.no_grad():
        assert model.feature_dim == 512
        output = model.train()(golden.images(2, 160, 64))
    assert len(output.logits) == len(output.features) == 1


def test_hacnn_regions_have_statistics_of_their_own():
    """The local blocks are called once a region, so their statistics are updated four times a step."""
    model = create_model("hacnn", 5).train()
    with torch.no_grad():
        model(random(2, 3, 160, 64))
    assert model.local_conv1.stream1[0].bn.num_batches_tracked == 4
    assert model.conv.bn.num_batches_tracked == 1


@pytest.mark.parametrize(("name", "size"), [("hacnn", (160, 64)), ("mudeep", (256, 128))])
def test_fixed_sizes(name, size):
    with torch.device("meta"):
        model = create_model(name, 5)
        with pytest.raises(
            ValueError, match=rf"images: got height and width \(64, 32\), expected \({size[0]}"
        ):
            model(torch.zeros(2, 3, 64, 32))


# --- PCB


def test_pcb_layout():
    torch.manual_seed(0)
    model = create_model("pcb_p4", 5, dropout=0.0).eval()
    images = random(2, 3, 128, 64)
    with torch.no_grad():
        feature = model(images)
        rows = model.feature_map(images).mean(3)  # 8 rows, two a stripe
        stripes = F.normalize((rows[:, :, 0::2] + rows[:, :, 1::2]) / 2, dim=1)
    torch.testing.assert_close(feature.norm(dim=1), torch.full((2,), 2.0))
    torch.testing.assert_close(feature.view(2, 2048, 4), stripes)
    model.training = True
    with torch.no_grad():
        output = model(images)
    torch.testing.assert_close(output.features[0], feature)
    assert len(output.logits) == len(output.parts) == 4
    for part, head, logits in zip(output.parts, model.classifier, output.logits, strict=True):
        assert part.shape == (2, 256)
        torch.testing.assert_close(head(part), logits)


def test_pcb_stripes_overlap_where_rows_do_not_divide():
    with torch.device("meta"):
        model = create_model("pcb_p6", 5).eval()
        assert model(torch.zeros(1, 3, 256, 128)).shape == (1, 12288)


# --- residual networks


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet50_ibn_a", "resnet50mid", "resnext50_32x4d", "se_resnet50", "senet154"]
)
def test_last_stride_keeps_the_map(name):
    with torch.device("meta"):
        weights = create_model(name, 5).state_dict()
        for last_stride in (1, 2):
            model = create_model(name, 5, last_stride=last_stride).eval()
            rows = []
            model.layer4.register_forward_hook(lambda m, i, output, rows=rows: rows.append(output.shape[2]))
            model.layer4[-1].register_forward_hook(
                lambda m, i, output, rows=rows: rows.append(output.shape[2])
            )
            model(torch.zeros(1, 3, 256, 128))
            assert rows[0] == 16 // last_stride
            assert {k: v.shape for k, v in model.state_dict().items()} == {
                k: v.shape for k, v in weights.items()
            }
    with pytest.raises(ValueError, match="ResNet: last_stride: got 3, expected 1 or 2"):
        create_model(name, 5, last_stride=3)


def test_a_gate_that_adds_gives_the_same_block():
    """The end of a squeeze-and-excitation block in one pass against gate, sum and ReLU one after the other."""
    torch.manual_seed(0)
    block = Bottleneck(32, 8, 1, None, se_plan()(1, 0, 1)).eval()
    x = random(2, 32, 6, 4)
    with torch.no_grad():
        got = block(x)
        y = torch.relu(block.bn1(block.conv1(x)))
        y = block.bn3(block.conv3(torch.relu(block.bn2(block.conv2(y)))))
        gate = block.se_module
        weights = torch.sigmoid(gate.fc2(torch.relu(gate.fc1(y.mean((2, 3), keepdim=True)))))
    torch.testing.assert_close(got, torch.relu(y * weights + x))


def test_caffe_networks_keep_the_stride_in_the_first_convolution():
    with torch.device("meta"):
        block = create_model("se_resnet50", 5).layer2[0]
        assert (block.conv1.stride, block.conv2.stride) == ((2, 2), (1, 1))
        block = create_model("se_resnext50_32x4d", 5).layer2[0]
        assert (block.conv1.stride, block.conv2.stride) == ((1, 1), (2, 2))
        pool = create_model("se_resnet50", 5).layer0.pool
        assert pool.ceil_mode
        assert pool.padding == 0


@pytest.mark.parametrize("channels", [8, 7])
def test_ibn_halves(channels):
    layer = IBN(channels).eval()
    x = random(2, channels, 5, 3)
    half = channels // 2
    with torch.no_grad():
        layer.BN.running_mean.uniform_(-1, 1)
        layer.BN.running_var.uniform_(0.5, 2)
        got = layer(x)
    first = x[:, :half]
    mean, var = first.mean((2, 3), keepdim=True), first.var((2, 3), correction=0, keepdim=True)
    torch.testing.assert_close(got[:, :half], (first - mean) / (var + 1e-5).sqrt())
    torch.testing.assert_close(got[:, half:], layer.BN(x[:, half:]))


def test_dropout_moves_the_second_layer():
    assert [
        k for k in fully_connected(4, (3, 2)).state_dict() if k.endswith("0.weight") or k == "3.weight"
    ] == [
        "0.weight",
        "3.weight",
    ]
    assert "4.weight" in fully_connected(4, (3, 2), dropout=0.5).state_dict()
    model = create_model("squeezenet1_0_fc512", 5, feature_dim=64, dropout=0.3)
    assert model.feature_dim == 64
    assert isinstance(model.fc[3], nn.Dropout)


# --- NASNet: padding of stride 2 at the end, against the original's extra row and column


@pytest.mark.parametrize("size", [(8, 6), (9, 7)])
@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_late_padding_of_a_branch(kernel, size):
    torch.manual_seed(0)
    branch = SeparableBranch(4, 5, kernel, 2, late=True).eval()
    x = random(2, 4, *size)
    with torch.no_grad():
        got = branch(x)
        conv = branch.separable_1.depthwise_conv2d
        y = F.pad(torch.relu(x), (1, 0, 1, 0))
        y = F.conv2d(y, conv.weight, stride=2, padding=kernel // 2, groups=4)
        y = branch.bn_sep_1(branch.separable_1.pointwise_conv2d(y)[:, :, 1:, 1:])
        want = branch.bn_sep_2(branch.separable_2(torch.relu(y)))
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("size", [(8, 6), (9, 7), (2, 2)])
def test_late_padding_of_the_poolings(size):
    with torch.device("meta"):
        cell = ReductionCell(4, 4, 4)
    x = random(2, 4, *size)
    padded = F.pad(x, (1, 0, 1, 0))
    largest = F.max_pool2d(padded, 3, 2, 1)[:, :, 1:, 1:]
    mean = F.avg_pool2d(padded, 3, 2, 1, count_include_pad=False)[:, :, 1:, 1:]
    torch.testing.assert_close(cell.maxpool(x), largest)
    torch.testing.assert_close(cell.avgpool(x), mean)


# --- the repository's first versions


def test_squeezenet_v0():
    model = create_model("squeezenet_v0", 751).eval()
    assert parameters(model) == 1_126_639
    assert {
        "conv1.bn.bias",
        "fire2.squeeze.conv.bias",
        "fire9.expand.conv33.bn.weight",
        "conv10.bias",
    } <= set(model.state_dict())
    sizes = []
    model.fire5.register_forward_hook(lambda m, inputs, output: sizes.append(tuple(inputs[0].shape[1:])))
    images = random(2, 3, 256, 128)
    with torch.no_grad():
        feature = model(images)
        model.training = True
        output = model(images)
    assert sizes[0] == (
        256,
        31,
        15,
    )  # 127 x 63 after a stem without the last row, then poolings that round down
    assert feature.shape == (2, 751)
    assert feature.min() >= 0
    assert torch.equal(output.logits[0], feature)
    assert output.logits[0] is output.features[0]


def test_squeezenet_v0_bypass():
    torch.manual_seed(0)
    with_bypass = create_model("squeezenet_v0", 5).eval()
    without = create_model("squeezenet_v0", 5, bypass=False).eval()
    without.load_state_dict(with_bypass.state_dict())
    inputs = {}
    for key, model in (("with", with_bypass), ("without", without)):
        for number in (2, 3, 4):
            getattr(model, f"fire{number}").register_forward_hook(
                lambda m, i, output, key=key, number=number: inputs.update({(key, number): (i[0], output)})
            )
    images = random(2, 3, 64, 32)
    with torch.no_grad():
        with_bypass(images)
        without(images)
    assert torch.equal(inputs["with", 4][0], inputs["with", 3][1] + inputs["with", 2][1])
    assert torch.equal(inputs["without", 4][0], inputs["without", 3][1])


def test_resnext101_v0_is_the_network_under_nested_names(golden):
    """Against the ResNeXt of the zoo with 32 groups of 4: the same values in the same order, the shortcuts last."""
    torch.manual_seed(0)
    model = create_model("resnext101_v0", 751).eval()
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.dim() == 1:
                value.uniform_(0.5, 1.5)
    assert parameters(model) == 43_667_503
    assert len(model.state_dict()) == 626
    assert {
        "features.0.weight",
        "features.1.running_var",
        "features.4.0.0.0.0.3.weight",
        "features.4.0.0.0.1.weight",
        "features.4.0.0.1.1.bias",
        "features.7.2.0.0.2.bias",
    } <= set(model.state_dict())
    plan = BlockPlan(groups=32, base_width=4)
    with torch.device("meta"):
        twin = ResNetClassifier(RESNET101, 751, plan=lambda *place: plan).eval()
    values = model.state_dict().values()
    twin.load_state_dict(dict(zip(twin.state_dict(), values, strict=True)), assign=True)
    images = golden.images(2, 64, 32)
    with torch.no_grad():
        assert golden.relative(model(images), twin(images)) < 1e-6


def separable(state, name, x):
    for part, groups in ((f"{name}.conv1", x.shape[1]), (f"{name}.conv2", 1)):
        x = F.conv2d(x, state[f"{part}.0.weight"], padding=int(groups > 1), groups=groups)
        x = normalised(state, f"{part}.1", x)
    return x


def normalised(state, name, x):
    values = (state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, *values)


def test_xception_v0_layer_by_layer(golden):
    model = golden.fill(create_model("xception_v0", 751), 1.0).eval()
    assert parameters(model) == 22_391_847
    state = model.state_dict()
    assert len(state) == 446
    images = golden.images(2, 75, 42)
    with torch.no_grad():
        x = images
        for name, stride in (("entryflow.conv1", 2), ("entryflow.conv2", 1)):
            x = F.conv2d(x, state[f"{name}.conv.weight"], stride=stride, padding=1)
            x = normalised(state, f"{name}.bn", x).clamp(0, 6)
        for stage, places in ((3, (0, 2)), (4, (1, 3)), (5, (1, 3))):
            y = x if stage == 3 else x.relu()  # the stem's end is not negative
            for place in places:
                y = separable(state, f"entryflow.conv{stage}.{place}", y).relu()
            short = F.conv2d(x, state[f"entryflow.conv{stage}s.0.weight"], stride=2)
            x = F.max_pool2d(y, 3, 2, 1) + normalised(state, f"entryflow.conv{stage}s.1", short)
        assert x.shape == (2, 728, 5, 3)
        for block in range(8):  # no shortcuts
            for layer in (1, 2, 3):
                x = separable(state, f"midflow.blocks.{block}.conv{layer}", x.relu())
        y = separable(state, "exitflow.conv2", separable(state, "exitflow.conv1", x.relu()).relu())
        short = normalised(
            state, "exitflow.conv2s.1", F.conv2d(x, state["exitflow.conv2s.0.weight"], stride=2)
        )
        x = F.max_pool2d(y, 3, 2, 1) + short
        x = separable(state, "exitflow.conv4", separable(state, "exitflow.conv3", x).relu()).relu()
        assert golden.relative(model(images), x.mean((2, 3))) < 1e-5
        model.training = True
        output = model(images)
    torch.testing.assert_close(output.logits[0], model.classifier(output.features[0]))


def test_mobilenetv2_dropout_is_an_option():
    torch.manual_seed(0)
    images = random(4, 3, 64, 32)
    plain, first_version = (
        create_model("mobilenetv2_x1_0", 5),
        create_model("mobilenetv2_x1_0", 5, dropout=0.5),
    )
    first_version.load_state_dict(plain.state_dict())
    plain.eval(), first_version.eval()
    with torch.no_grad():
        feature = plain(images)
        assert torch.equal(first_version(images), feature)
        first_version.training = first_version.dropout.training = True
        output = first_version(images)
    kept = output.features[0] != 0
    assert 0.4 < kept[feature != 0].float().mean() < 0.6
    torch.testing.assert_close(output.features[0][kept], 2 * feature[kept])
    torch.testing.assert_close(output.logits[0], first_version.classifier(output.features[0]))


def test_shufflenet_groups():
    with torch.device("meta"):
        model = create_model("shufflenet", 5, groups=4).eval()
        assert model(torch.zeros(1, 3, 64, 32)).shape == (1, 1088)
    with pytest.raises(ValueError, match=r"ShuffleNet: groups: got 5, expected one of \[1, 2, 3, 4, 8\]"):
        create_model("shufflenet", 5, groups=5)


# --- initial values


def convolutions(model):
    return [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.weight.numel() > 20_000]


def ratio(weights, deviations):
    """Root mean square of the weights, each layer in units of its expected deviation."""
    squares = [(w / s).square().sum() for w, s in zip(weights, deviations, strict=True)]
    return math.sqrt(sum(squares) / sum(w.numel() for w in weights))


@pytest.mark.parametrize("name", ["osnet_ain_x1_0", "mobilenetv2_x1_0", "resnet50_ibn_a"])
def test_drawn_values(name):
    """He et al. with fan-out in the convolutions; N(0, 0.01) in linear layers, but for the IBN-Nets' classifier."""
    torch.manual_seed(0)
    model = create_model(name, 751)
    convs = convolutions(model)
    fan_out = [c.kernel_size[0] * c.kernel_size[1] * c.out_channels for c in convs]
    weights = [c.weight.detach() for c in convs]
    assert ratio(weights, [math.sqrt(2 / f) for f in fan_out]) == pytest.approx(1, abs=0.01)
    assert (
        max(w.abs().max() * math.sqrt(f / 2) for w, f in zip(weights, fan_out, strict=True)) > 4
    )  # not uniform
    std = 1 / math.sqrt(3 * 2048) if name == "resnet50_ibn_a" else 0.01
    assert model.classifier.weight.std().item() == pytest.approx(std, rel=0.01)
    assert model.classifier.bias.any() == (name == "resnet50_ibn_a")
    norms = [m for m in model.modules() if hasattr(m, "running_mean") and m.weight is not None]
    assert all(m.weight.eq(1).all() and m.bias.eq(0).all() for m in norms)


@pytest.mark.parametrize("name", ["hacnn", "shufflenet_v2_x1_0", "se_resnet50"])
def test_torch_values(name):
    """Torch's own: uniform, variance 1 / (3 fan-in)."""
    torch.manual_seed(0)
    model = create_model(name, 751)
    convs = convolutions(model)
    fan_in = [c.weight[0].numel() for c in convs]
    weights = [c.weight.detach() for c in convs]
    assert ratio(weights, [1 / math.sqrt(3 * f) for f in fan_in]) == pytest.approx(1, abs=0.01)
    assert max(w.abs().max() * math.sqrt(f) for w, f in zip(weights, fan_in, strict=True)) <= 1.0001


def test_hacnn_regions_start_where_the_original_puts_them():
    model = create_model("hacnn", 5)
    assert not model.ha1.hard_attn.fc.weight.any()
    assert torch.tanh(model.ha1.hard_attn.fc.bias).view(4, 2).detach().numpy() == pytest.approx(
        torch.tensor([[0, -0.6351], [0, -0.2449], [0, 0.2449], [0, 0.6351]]).numpy(), abs=1e-4
    )


def test_conv_norm_options():
    layer = ConvNorm(3, 4, (1, 3), padding=(0, 1), bias=True, activation=nn.ReLU6).eval()
    assert isinstance(layer.relu, nn.ReLU6)
    assert layer.conv.bias is not None
    with torch.no_grad():
        layer.bn.bias.fill_(100.0)
        assert torch.equal(layer(random(1, 3, 5, 4)), torch.full((1, 4, 5, 4), 6.0))
