# SPDX-License-Identifier: Apache-2.0
"""The network of NAIC_ReID: recorded numbers of its backbones, counts, the options of its head."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastreid_ops.layers.gem import GeM
from fastreid_ops.models import create_model
from fastreid_ops.models.backbones.efficientnet import EfficientNetB0
from fastreid_ops.models.backbones.naic import naic_backbone
from fastreid_ops.models.backbones.resnest import SplitAttention
from fastreid_ops.models.weights import load_weights

FILE = Path(__file__).parents[1] / "golden" / "naic_and_cloth_changing" / "naic_backbones.npz"

# name: parameters of the backbone, of them used, entries of its state, convolutions, batch and instance normalisations
COUNTS = {
    "resnet50": (23_508_032, 23_508_032, 318, 53, 53, 0),
    "resnet50_ibn_a": (25_557_032, 23_508_032, 346, 53, 53, 13),
    "resnet101_ibn_a": (44_549_160, 42_500_160, 686, 104, 104, 30),
    "se_resnet50_ibn_a": (28_071_976, 26_022_976, 378, 53, 53, 13),
    "se_resnet101_ibn_a": (49_292_328, 47_243_328, 752, 104, 104, 30),
    "resnet50_ibn_b": (25_560_616, 23_511_616, 323, 53, 52, 4),
    "resnet101_ibn_b": (44_552_744, 42_503_744, 629, 104, 103, 4),
    "resnest50": (27_483_240, 25_434_240, 476, 87, 71, 0),
    "resnest50_ibn": (27_483_240, 25_434_240, 502, 87, 71, 13),
    "resnest101": (48_275_016, 46_226_016, 935, 172, 139, 0),
    "resnest101_ibn": (48_275_016, 46_226_016, 995, 172, 139, 30),
    "efficientnet_b0": (5_288_548, 4_007_548, 360, 81, 49, 0),
}
# First image that is compared, and tolerance: split attention with filled weights saturates, and in the first image of
# ResNeSt-101 an input changed by 1e-7 moves the recorded feature by 5 % (and by 20 % from what float64 gives).
LOOSE = {
    "resnest50": (0, 2e-3),
    "resnest50_ibn": (0, 2e-3),
    "resnest101": (1, 1e-4),
    "resnest101_ibn": (0, 2e-3),
}
RECORDED_AS = {"efficientnet_b0": "efficientnet_b7"}


def make(name, classes=10, **options):
    if name == "resnet50":
        options.setdefault("legacy_stem", True)
    return create_model(f"naic_{name}", classes, **options)


@pytest.mark.parametrize("name", list(COUNTS))
def test_counts(name):
    total, used, entries, convs, batch_norms, instance_norms = COUNTS[name]
    with torch.device("meta"):
        model = make(name)
    base = model.base
    assert sum(p.numel() for p in base.parameters()) == total
    assert sum(p.numel() for p in base.parameters() if p.requires_grad) == used
    assert len(base.state_dict()) == entries
    kinds = [type(m) for m in base.modules()]
    assert sum(issubclass(k, nn.Conv2d) for k in kinds) == convs
    assert kinds.count(nn.BatchNorm2d) == batch_norms
    assert kinds.count(nn.InstanceNorm2d) == instance_norms
    channels = model.feature_dim
    assert sum(p.numel() for p in model.parameters()) == total + 2 * channels + 10 * channels


@pytest.mark.parametrize("name", list(COUNTS))
def test_recorded_features(name, golden):
    with np.load(FILE) as file:
        want = {k: file[f"{RECORDED_AS.get(name, name)}_{k}"] for k in ("gap", "bn", "stat")}
    model = golden.fill(make(name), 2.0).eval()
    maps = []
    model.base.register_forward_hook(lambda module, inputs, output: maps.append(output))
    images = golden.images(2, 64, 32)
    with torch.no_grad():
        after = model(images)
        model.neck_feature = "before"
        before = model(images)
    stat = torch.stack([maps[0].mean(), maps[0].std(), maps[0].abs().max()])
    first, tolerance = LOOSE.get(name, (0, 1e-4))
    before, after = before[first:, ::16], after[first:, ::16]
    assert golden.relative(before, want["gap"][first:]) < tolerance
    assert golden.relative(after, want["bn"][first:]) < tolerance
    assert golden.relative(stat[2 * first :], want["stat"][2 * first :]) < tolerance


def test_usual_stem_is_another_network(golden):
    usual = golden.fill(make("resnet50", legacy_stem=False), 2.0).eval()
    with np.load(FILE) as file, torch.no_grad():
        assert golden.relative(usual(golden.images(2, 64, 32))[:, ::16], file["resnet50_bn"]) > 1e-2


def test_b7_says_what_it_is():
    with pytest.warns(UserWarning, match="efficientnet_b7 is EfficientNet-B0 in NAIC_ReID"):
        model = make("efficientnet_b7")
    assert list(model.state_dict()) == list(make("efficientnet_b0").state_dict())


def test_last_stride():
    for name in ("resnet50_ibn_a", "resnest50"):
        images = torch.zeros(1, 3, 64, 32, device="meta")
        with torch.device("meta"):
            sizes = [naic_backbone(name, last_stride=s).eval()(images).shape[2:] for s in (1, 2)]
        assert sizes == [(4, 2), (2, 1)]


def plain_split_attention(module, x):
    x = F.relu(module.bn0(module.conv(x)))
    first, second = x.chunk(2, 1)
    logits = module.fc2(F.relu(module.bn1(module.fc1((first + second).mean((2, 3), keepdim=True)))))
    a, b = torch.stack(logits.chunk(2, 1)).softmax(0)
    x = first * a + second * b
    return x if module.avd_layer is None else F.avg_pool2d(x, 3, module.avd_layer.stride, 1)


@pytest.mark.parametrize("pool", [False, True])
def test_split_attention(golden, pool):
    module = golden.fill(SplitAttention(32, 32, 2, 1, pool=pool), 2.0).double()
    x = torch.randn(3, 32, 8, 4, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    other = x.detach().clone().requires_grad_()
    twin = copy.deepcopy(module)
    got, want = module(x), plain_split_attention(twin, other)
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-12)
    got.square().sum().backward()
    want.square().sum().backward()
    torch.testing.assert_close(x.grad, other.grad, rtol=1e-9, atol=1e-10)
    for (key, p), q in zip(module.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-9, msg=key)


def test_drop_connect():
    torch.manual_seed(0)
    network = EfficientNetB0(drop_connect=0.8)
    assert [b.drop for b in network._blocks] == pytest.approx([0.05 * i for i in range(16)])
    block = network._blocks[14].eval()
    x = torch.randn(64, 192, 2, 2)
    with torch.no_grad():
        branch = block(x) - x
        block.training = True  # the root only: batch normalisations keep their running statistics
        drawn = block(x) - x
    dropped = drawn.flatten(1).abs().amax(1) == 0
    assert 0.4 < dropped.float().mean() < 0.95
    keep = 1 - block.drop
    torch.testing.assert_close(drawn[~dropped], branch[~dropped] / keep, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pool", ["avg", "gem", "gem_learnable"])
def test_pools(pool, golden):
    model = golden.fill(make("resnet50_ibn_a", pool=pool, neck_feature="before"), 2.0).eval()
    images = golden.images(2, 64, 32)
    with torch.no_grad():
        x = model.base(images)
        p = model.gap.p if pool == "gem_learnable" else 3.0
        want = x.mean((2, 3)) if pool == "avg" else x.clamp(min=1e-6).pow(p).mean((2, 3)).pow(1 / p)
        torch.testing.assert_close(model(images), want, rtol=1e-4, atol=1e-4)
    assert ("gap.p" in model.state_dict()) == (pool == "gem_learnable")
    assert isinstance(model.gap, GeM) == (pool != "avg")


def test_the_neck_runs_once(golden):
    model = golden.fill(make("resnet50_ibn_a", classes=5), 2.0).train()
    model(golden.images(2, 64, 32))
    assert model.bottleneck.num_batches_tracked.item() == 1
    assert not model.bottleneck.bias.requires_grad


def test_training_output_with_parts(golden):
    model = golden.fill(make("resnet50_ibn_a", classes=5, pcb=True), 2.0).train()
    output = model(golden.images(2, 96, 48))
    assert [t.shape for t in output.parts] == [(2, 256)] * 6
    parts = [output.auxiliary[f"part_logits_{i}"] for i in range(6)]
    assert {t.shape for t in (*output.logits, *parts, output.auxiliary["merge_logits"])} == {(2, 5)}
    torch.testing.assert_close(output.logits[0], model.classifier(output.auxiliary["neck"]))
    sum(
        t.square().sum() for t in (*output.logits, *output.features, *parts, output.auxiliary["merge_logits"])
    ).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


def test_training_lowers_the_loss():
    torch.manual_seed(0)
    model = make("resnet50_ibn_a", classes=4, pcb=True, pool="gem_learnable").train()
    images, labels = torch.randn(4, 3, 96, 48), torch.arange(4)
    optimizer = torch.optim.Adam(model.parameters(), lr=3.5e-4)
    losses = []
    for _ in range(5):
        output = model(images)
        parts = [output.auxiliary[f"part_logits_{i}"] for i in range(6)]
        heads = (*output.logits, *parts, output.auxiliary["merge_logits"])
        loss = sum(F.cross_entropy(one, labels) for one in heads)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_no_classifier(golden):
    model = golden.fill(make("resnet50_ibn_a", classes=5, classifier="none"), 2.0).train()
    output = model(golden.images(2, 64, 32))
    assert output.logits == ()
    assert output.auxiliary["neck"].shape == (2, 2048)
    assert not any(key.startswith("classifier") for key in model.state_dict())


@pytest.mark.parametrize(
    ("test", "dims"),
    [("merge", (2048, 1536)), ("split", (2048, *(256,) * 6)), ("ensemble", (2048, 256))],
)
def test_pieces(test, dims, golden):
    model = golden.fill(make("resnet50_ibn_a", classes=5, pcb=True, pcb_test=test), 2.0).eval()
    with torch.no_grad():
        images = golden.images(3, 96, 48)
        feature, pieces = model(images), model.pieces(images)
    assert model.piece_dims == dims == tuple(p.shape[1] for p in pieces)
    assert feature.shape == (3, model.feature_dim)
    assert all(not torch.allclose(p.norm(dim=1), torch.ones(3)) for p in pieces)
    distance = (feature[0] - feature[1]).square().sum()
    cosine = sum(1 - F.cosine_similarity(p[0], p[1], dim=0) for p in pieces)
    torch.testing.assert_close(distance, 2 * cosine, rtol=1e-3, atol=1e-4)


def test_checkpoints_and_imagenet_weights(golden, tmp_path):
    source = golden.fill(make("resnet50_ibn_a", classes=5), 2.0)
    torch.save(source.state_dict(), tmp_path / "own.pth")
    torch.save(
        {k.removeprefix("base."): v for k, v in source.state_dict().items() if k.startswith("base.")},
        tmp_path / "imagenet.pth",
    )
    model = make("resnet50_ibn_a", classes=7)
    report = load_weights(model, tmp_path / "own.pth")
    assert [name for name, *_ in report.misfits] == ["classifier.weight"]
    assert not report.unexpected
    model = make("resnet50_ibn_a", classes=7)
    report = load_weights(model, tmp_path / "imagenet.pth")
    assert report.keymap == "as in the file, to base.*"
    assert len(report.loaded) == 346
    torch.testing.assert_close(model.base.layer4[2].conv3.weight, source.base.layer4[2].conv3.weight)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pool": "max"}, "NAICNet: pool: got 'max'"),
        ({"neck_feature": "no"}, "NAICNet: neck_feature: got 'no'"),
        ({"classifier": "arcface"}, "NAICNet: classifier: got 'arcface'"),
        ({"pcb_test": "all"}, "NAICNet: pcb_test: got 'all'"),
        ({"last_stride": 3}, "naic_backbone: last_stride: got 3"),
    ],
)
def test_arguments(options, words):
    with torch.device("meta"), pytest.raises(ValueError, match=words):
        make("resnet50_ibn_a", **options)


def test_arguments_of_the_parts():
    with pytest.raises(ValueError, match=r"^naic_backbone: name: got 'resnet18'"):
        naic_backbone("resnet18")
    with pytest.raises(ValueError, match=r"^EfficientNetB0: drop_connect: got 1.0"):
        EfficientNetB0(drop_connect=1.0)
