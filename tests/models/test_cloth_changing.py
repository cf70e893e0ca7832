# SPDX-License-Identifier: Apache-2.0
"""The cloth-changing networks: recorded numbers of their parts, counts, branches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastreid_ops.models import TrainOutput, create_model
from fastreid_ops.models.cal import CosineClassifier
from fastreid_ops.models.cloth_changing import ClothesClassifier, MultiScaleBlock, clothes_heat

FOLDER = Path(__file__).parents[1] / "golden" / "naic_and_cloth_changing"


def tensor(golden, name, shape, scale=1.0):
    values = scale * golden.noise(name, int(np.prod(shape)))
    return torch.from_numpy(values.reshape(shape).astype(np.float32))


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_recorded_block(golden, mode):
    with np.load(FOLDER / "cc_osblock.npz") as file:
        want = dict(file)
    block = golden.fill(MultiScaleBlock(128), 2.0).train(mode == "train")
    x = tensor(golden, "os_x", (2, 128, 6, 4), 1.5).requires_grad_()
    y = block(x)
    y.backward(tensor(golden, "os_cot", (2, 128, 6, 4)))
    assert golden.relative(y.detach(), want[f"{mode}_y"]) < 1e-5
    assert golden.relative(x.grad, want[f"{mode}_dx"]) < 1e-4
    parameters = dict(block.named_parameters())
    assert list(parameters) == want["names"].tolist()
    sizes = [p.grad.abs().sum().item() for p in parameters.values()]
    np.testing.assert_allclose(sizes, want[f"{mode}_gsum"][:, 1], rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("gate", "parameters"),
    [
        (196, 33_312),
        (197, 49_696),
        (198, 98),
        (199, 25_690_112),
        (200, 11),
        (201, 524_800),
        (202, 788_480),
        (203, 49_216),
    ],
)
def test_block_parameters(gate, parameters):
    with torch.device("meta"):
        block = MultiScaleBlock(2048, gate=gate)
    assert count(block.gate) == parameters
    assert count(block) == 3_742_240 - 33_312 + parameters


def test_recorded_heat(golden):
    with np.load(FOLDER / "cc_cam.npz") as file:
        want = dict(file)
    x = (tensor(golden, "cam_x", (3, 32, 6, 4)) + 0.5).requires_grad_()
    weight = tensor(golden, "cam_w", (5, 32)).requires_grad_()
    heat = clothes_heat(x, weight, torch.tensor([0, 4, 2]))
    assert golden.relative(heat, want["heat"]) < 1e-5
    assert golden.relative((x * heat[:, None]).detach(), want["y"]) < 1e-5
    assert not heat.requires_grad
    assert (
        clothes_heat(torch.ones(1, 32, 6, 4), weight, torch.tensor([1])).eq(0).all()
    )  # a map without a difference


@pytest.mark.parametrize("name", ["cc_resnet50", "cc_resnet50_ibn_a"])
@pytest.mark.parametrize(("ids", "total"), [(77, 32_819_299), (150, 33_118_307)])
def test_parameters(name, ids, total):
    with torch.device("meta"):
        model = create_model(name, ids)
        clothed = create_model(name, ids, num_clothes=9)
    assert count(model) == total == 32_503_907 + 4096 * ids
    assert count(clothed) - total == 4096 + 2048 * 9 == count(clothed.clothes_classifier)
    tested = (model.backbone, model.multi_scale, model.global_pool, model.global_bn_neck)
    assert sum(map(count, tested)) == 27_254_369
    assert count(model.multi_scale) == 3_742_240


def test_no_attention_adds_the_streams():
    """As a gate that is open everywhere does."""
    block, bare = MultiScaleBlock(64).eval(), MultiScaleBlock(64, gate=0).eval()
    assert not bare.load_state_dict(block.state_dict(), strict=False).missing_keys
    assert not any(name.startswith("gate") for name in bare.state_dict())
    nn.init.zeros_(block.gate.se[2].weight)
    nn.init.constant_(block.gate.se[2].bias, 40.0)
    x = torch.randn(2, 64, 6, 4)
    torch.testing.assert_close(bare(x), block(x))


def test_blocks_that_start_as_nothing():
    """What is in the blocks does not matter then; without the option it does."""
    images = torch.randn(2, 3, 32, 16)

    def maps(**options):
        torch.manual_seed(0)
        net = create_model("cc_resnet50_ibn_a", 2, clothes_branch=False, **options)
        before = net.encode(images)
        with torch.no_grad():
            for name, parameter in net.named_parameters():
                if ".conv3." in name and parameter.ndim == 4:  # the last convolution of every block
                    parameter.add_(torch.randn_like(parameter))
        return before, net.encode(images)

    torch.testing.assert_close(*maps(zero_init_residual=True), rtol=0, atol=0)
    assert not torch.allclose(*maps())


def test_options_leave_parts_out():
    with torch.device("meta"):
        base = create_model("cc_resnet50", 5)
        assert count(base) - count(create_model("cc_resnet50", 5, multi_scale=False)) == 3_742_240
        assert count(base) - count(create_model("cc_resnet50", 5, correction=False)) == 5_245_441
        assert count(base) - count(create_model("cc_resnet50", 5, pool="avg")) == 2
        baseline = create_model("cc_resnet50", 5, clothes_branch=False, multi_scale=False)
    assert count(baseline) == 23_508_032 + 1 + 4096 + 5 * 2048


@pytest.fixture(scope="module")
def model(golden):
    return golden.fill(create_model("cc_resnet50_ibn_a", 5, num_clothes=9), 2.0)


CLOTHES = torch.tensor([0, 1, 6, 7])


def test_training_is_the_formula(model, golden):
    images = golden.images(4, 96, 48)
    model.train()
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.eval()
    with torch.no_grad():
        output = model(images, CLOTHES)
        features = model.encode(images)
        clothes = model.clothes_classifier
        heat = torch.einsum("bc,bchw->bhw", clothes.weight[CLOTHES], features).flatten(1)
        heat = (heat - heat.amin(1, True)) / (heat.amax(1, True) - heat.amin(1, True) + 1e-6)
        worn = features * heat.view(4, 1, *features.shape[2:])
        pa = model.clothe_correction.pa
        energy = pa.query_conv(features).flatten(2).transpose(1, 2) @ pa.key_conv(features).flatten(2)
        mixed = worn.flatten(2) @ energy.softmax(-1).transpose(1, 2)
        worn = pa.gamma * mixed.view_as(worn) + worn
        left = (features - worn).clamp(min=0)

        def gem(x, p):
            return x.clamp(min=1e-6).pow(p).mean((2, 3)).pow(1 / p)

        first, second = gem(features, model.global_pool.p), gem(left, model.unclothe_pool.p)
    assert isinstance(output, TrainOutput)
    for got, want in (
        (output.features[0], first),
        (output.features[1], second),
        (output.logits[0], model.global_classifier(model.global_bn_neck(first))),
        (output.logits[1], model.unclothe_classifier(model.unclothe_bn_neck(second))),
        (output.auxiliary["feature_map"], features),
        (output.auxiliary["clothes_logits"], clothes(features)),
        (output.auxiliary["correction_logits"], clothes(worn)),
    ):
        assert golden.relative(got.detach(), want.detach()) < 1e-4
    torch.testing.assert_close(model.eval()(images), model.global_bn_neck(first), rtol=1e-4, atol=1e-4)


def test_gradients_of_the_branches(model, golden):
    model.train().zero_grad()
    output = model(golden.images(4, 96, 48), CLOTHES)
    F.cross_entropy(output.auxiliary["clothes_logits"], CLOTHES).backward(retain_graph=True)
    for name, parameter in model.named_parameters():  # the classifier's own loss stops at the map
        own = name.startswith("clothes_classifier") and parameter.requires_grad
        assert (parameter.grad is not None) == own, name
    loss = sum(one.square().mean() for one in (*output.logits, *output.features))
    (loss + F.cross_entropy(output.auxiliary["correction_logits"], CLOTHES)).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


def test_encode_and_finish_are_forward(model, golden):
    images = golden.images(4, 64, 32)
    model.train()
    for norm in [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]:
        norm.eval()
    with torch.no_grad():
        whole = model(images, CLOTHES)
        halves = model.finish(model.encode(images), CLOTHES)
        for a, b in zip(whole.logits, halves.logits, strict=True):
            assert torch.equal(a, b)
        alone = model(images)
        torch.testing.assert_close(alone.features[0], whole.features[0])
        # Without labels nothing is located: the second branch sees the whole map.
        plain = model.unclothe_pool(model.encode(images))
        torch.testing.assert_close(alone.features[1], plain)
    assert set(alone.auxiliary) == {"feature_map"}


@pytest.mark.parametrize("gate", [196, 203])
def test_training_lowers_the_loss(gate):
    torch.manual_seed(0)
    model = create_model("cc_resnet50", 4, num_clothes=4, gate=gate).train()
    images, labels = torch.randn(4, 3, 64, 32), torch.arange(4)
    optimizer = torch.optim.Adam(model.parameters(), lr=3.5e-4)
    losses = []
    for _ in range(5):
        output = model(images, labels)
        heads = (*output.logits, output.auxiliary["clothes_logits"], output.auxiliary["correction_logits"])
        loss = sum(F.cross_entropy(one, labels) for one in heads)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert model.clothe_correction.pa.gamma.item() != 0


def test_clothes_classifier(golden):
    classifier = golden.fill(ClothesClassifier(9), 2.0).eval()
    x = tensor(golden, "clothes_map", (2, 2048, 3, 2))
    want = F.linear(
        classifier.global_bn_neck.bn_neck(F.adaptive_avg_pool2d(x, 1).flatten(1)), classifier.weight
    )
    torch.testing.assert_close(classifier(x), want)
    assert list(classifier.state_dict())[-1] == "global_classifier.classifier.weight"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pool": "max"}, "ClothChangingNet: pool: got 'max'"),
        ({"num_clothes": -1}, "ClothChangingNet: num_clothes: got -1, expected at least 0"),
        (
            {"num_clothes": 3, "clothes_branch": False},
            "ClothChangingNet: num_clothes: got 3, expected 0 without",
        ),
        ({"gate": 195}, "ChannelAttention: variant: got 195"),
    ],
)
def test_arguments(options, words):
    with torch.device("meta"), pytest.raises(ValueError, match=words):
        create_model("cc_resnet50", 5, **options)


def test_labels_without_a_classifier():
    with torch.device("meta"):
        model = create_model("cc_resnet50", 5).train()
        with pytest.raises(ValueError, match="ClothChangingNet: clothes: got labels, expected none"):
            model(torch.zeros(2, 3, 64, 32), torch.zeros(2, dtype=torch.int64))


def test_cal(golden):
    model = golden.fill(create_model("cal_resnet50", 5, num_clothes=12), 2.0).eval()
    parts = (model.base, model.bn)
    assert sum(map(count, parts)) == 23_516_224
    assert count(model.classifier) == 4096 * 5 + 5
    assert model.bn.bias.requires_grad
    images = golden.images(2, 64, 32)
    with torch.no_grad():
        x = model.base(images)
        assert x.shape == (2, 2048, 4, 2)
        want = torch.cat((F.adaptive_max_pool2d(x, 1), F.adaptive_avg_pool2d(x, 1)), 1).flatten(1)
        torch.testing.assert_close(model(images), model.bn(want), rtol=1e-4, atol=1e-4)
    assert next(k for k in model.state_dict() if k.startswith("base.")) == "base.0.weight"
    output = model.train()(images)
    cosine = output.auxiliary["clothes_cosine"]
    want = F.cosine_similarity(output.features[0][:, None], model.clothes_classifier.weight[None], dim=2)
    torch.testing.assert_close(cosine, want, rtol=1e-4, atol=1e-5)
    cosine.sum().backward()
    assert model.clothes_classifier.weight.grad is not None
    assert model.base[0].weight.grad is not None


def test_cal_initial_values():
    torch.manual_seed(0)
    weight = CosineClassifier(4096, 20).weight
    torch.testing.assert_close(weight.norm(dim=1), torch.ones(20))
    with pytest.raises(ValueError, match=r"^CAL: num_clothes: got -1"):
        create_model("cal_resnet50", 5, num_clothes=-1)
