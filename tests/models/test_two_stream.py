# SPDX-License-Identifier: Apache-2.0
"""DEEN and AGW against recorded numbers of their public code; names and counts; modes and features."""

from __future__ import annotations

import re

import pytest
import torch
from torch.nn import functional as F

from fastreid_ops.models import create_model
from fastreid_ops.models.backbones.resnet import RESNET50, ResNet
from fastreid_ops.models.weights import load_weights

WHOLE = {"unused_copies": True}


def count(model) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.fixture(scope="module", params=["deen_sysu", "deen_regdb", "agw"])
def recorded(request, vi_golden):
    """Name, network after its training forward, the output of that, features before and after the neck by mode."""
    name = request.param
    model = vi_golden.fill(create_model(name, 206 if name == "deen_regdb" else 395))
    size, mark = ((288, 144), "288") if name == "agw" else ((384, 144), "")
    images = torch.cat([vi_golden.normal(f"x_{kind}{mark}", 2, 3, *size) for kind in ("vis", "ir")])
    output = vi_golden.calibrate(model, images)
    with torch.no_grad():
        features = [model.embed(images, 0), model.embed(images[:2], 1), model.embed(images[2:], 2)]
    return name, model, output, features


def assert_fact(got, fact, tolerance):
    assert list(got.shape) == fact["shape"]
    assert got.mean().item() == pytest.approx(fact["mean"], abs=tolerance)
    assert got.std(correction=0).item() == pytest.approx(fact["std"], abs=tolerance)
    torch.testing.assert_close(got.flatten()[:4], torch.tensor(fact["first"]), rtol=0, atol=tolerance)


def test_recorded_training(recorded, vi_golden):
    name, _, output, _ = recorded
    if name == "agw":
        assert [tuple(x[0].shape) for x in output[:2]] == [(4, 395), (4, 2048)]
        return
    facts = vi_golden.facts("facts")[name]
    pooled, logits = torch.cat(output.features), torch.cat(output.logits)
    assert_fact(pooled, facts["train_pool"], 1e-4)
    assert_fact(logits, facts["train_logits"], 2e-4)
    orthogonality = (output.features[1] * output.features[2]).sum() / len(pooled)
    assert orthogonality.item() == pytest.approx(facts["train_loss_ort"], rel=1e-5)
    if name == "deen_sysu":
        want = vi_golden.read("deen_sysu_train")
        torch.testing.assert_close(pooled[:, ::2], want["pool"], rtol=0, atol=1e-4)
        torch.testing.assert_close(logits, want["logits"], rtol=0, atol=2e-4)


def test_recorded_evaluation(recorded, vi_golden):
    name, _, _, features = recorded
    facts = vi_golden.facts("facts")[name]
    for mode, pair in enumerate(features):
        for kind, value in zip(("pool", "feat"), pair, strict=True):
            fact = facts.get(f"eval_modal{mode}_{kind}")
            assert fact is not None or (name == "agw" and mode > 0)
            if fact is not None:
                assert_fact(F.normalize(value, dim=1), fact, 1e-5)
    if name == "deen_sysu":
        want = vi_golden.read("deen_sysu_eval_modal0")
        for kind, value in zip(("pool", "feat"), features[0], strict=True):
            torch.testing.assert_close(F.normalize(value, dim=1)[:, ::2], want[kind], rtol=0, atol=1e-5)


def test_each_modality_alone_gives_the_same_rows(recorded):
    _, _, _, (both, visible, infrared) = recorded
    for value, first, second in zip(both, visible, infrared, strict=True):
        for group, one, other in zip(value.split(4), first.split(2), second.split(2), strict=True):
            torch.testing.assert_close(group, torch.cat((one, other)), rtol=1e-4, atol=1e-4)


def test_the_published_ranking_is_the_inner_product(recorded):
    name, model, _, features = recorded
    if name == "agw":
        for choice, value in zip(("before", "after"), features[0], strict=True):
            model.embed, model.neck_feature = lambda *a: features[0], choice
            assert torch.equal(model(torch.zeros(0)), F.normalize(value, dim=1))
        del model.embed
        return
    pooled, neck = (F.normalize(x, dim=1) for x in features[0])
    similarities = [x.double() @ x.double().T for x in (*pooled.split(4), *neck.split(4))]
    model.embed = lambda *arguments: features[0]
    widths = {"all": 6, "pooled": 3, "neck": 3, "original": 1}
    for choice, used in (("all", range(6)), ("pooled", range(3)), ("neck", range(3, 6)), ("original", [3])):
        model.test_feature = choice
        got = model(torch.zeros(0)).double()
        assert got.shape == (4, widths[choice] * pooled.shape[1])
        torch.testing.assert_close(got @ got.T, sum(similarities[i] for i in used), rtol=0, atol=1e-5)
    model.test_feature, model.pool_weight = "all", 0.1
    got = model(torch.zeros(0)).double()
    want = 2 * (0.1 * sum(similarities[:3]) + 0.9 * sum(similarities[3:]))
    torch.testing.assert_close(got @ got.T, want, rtol=0, atol=1e-5)
    del model.embed


@pytest.mark.parametrize(
    ("name", "classes", "options", "whole", "used", "entries"),
    [
        ("deen_sysu", 395, {}, 89_044_320, 42_037_792, 1048),
        ("deen_regdb", 206, {}, 75_065_440, 13_094_176, 1022),
        ("deen_llcm", 713, {}, 89_695_584, 42_689_056, 1048),
        ("agw", 395, {}, 71_365_839, 24_359_311, 1025),
        ("agw", 395, {"non_local": False, "pool_power": 1.0}, 71_337_152, 24_330_624, 960),
    ],
)
def test_names_and_parameters(name, classes, options, whole, used, entries, vi_golden):
    with torch.device("meta"):
        full, lean = create_model(name, classes, **WHOLE, **options), create_model(name, classes, **options)
    assert (count(full), count(lean)) == (whole, used)
    assert len(full.state_dict()) == entries
    if not options and name != "deen_llcm":
        assert vi_golden.layout(full) == vi_golden.keys(name)
    entries = vi_golden.layout(full)
    assert [entry for entry in entries if entry[0] in lean.state_dict()] == vi_golden.layout(lean)
    frozen = [key for key, p in lean.named_parameters() if not p.requires_grad]
    assert frozen == ["bottleneck.bias"]


def test_unused_copies_have_no_influence():
    torch.manual_seed(0)
    full, lean = create_model("deen_regdb", 5, **WHOLE), create_model("deen_regdb", 5)
    result = lean.load_state_dict(full.state_dict(), strict=False)
    assert not result.missing_keys
    assert len(result.unexpected_keys) == len(full.state_dict()) - len(lean.state_dict())
    images = torch.randn(4, 3, 64, 32)
    with torch.no_grad():
        assert torch.equal(full.eval()(images), lean.eval()(images))


def test_weights_of_a_plain_network_serve_every_place():
    torch.manual_seed(0)
    source = ResNet(RESNET50, last_stride=1).eval()
    weights = {**source.state_dict(), "fc.weight": torch.zeros(1000, 2048)}
    for options in ({}, WHOLE):
        model = create_model("agw", 5, **options).eval()
        report = load_weights(model, weights)
        assert report.keymap == "as in the file, to both streams"
        assert {key.split(".")[0] for key in report.missing} == {"NL_2", "NL_3", "bottleneck", "classifier"}
        assert report.unexpected == ("fc.weight",)
        assert not report.misfits
    images = torch.randn(2, 3, 64, 32)
    with torch.no_grad():  # the non-local blocks start as the identity
        want = (source(images).pow(3).mean((2, 3)) + 1e-12) ** (1 / 3)
        for mode in (0, 1, 2):
            torch.testing.assert_close(model.embed(images, mode)[0], want)


def test_published_checkpoints_load(tmp_path):
    """As the public code saves them: under ``net``, with every unused copy, beside the best figures."""
    torch.manual_seed(0)
    full, lean = create_model("deen_regdb", 5, **WHOLE), create_model("deen_regdb", 5)
    torch.save({"net": full.state_dict(), "mAP": 0.5, "epoch": 3}, tmp_path / "model.t")
    report = load_weights(lean, tmp_path / "model.t")
    assert not report.missing
    assert not report.misfits
    assert all(torch.equal(value, full.state_dict()[key]) for key, value in lean.state_dict().items())


def test_stems_and_shapes_on_the_way():
    with torch.device("meta"):
        model = create_model("deen_sysu", 5).eval()
        shapes = {}
        for name in ("MFA1", "MFA2", "MFA3", "DEE"):
            getattr(model, name).register_forward_hook(
                lambda m, inputs, output, name=name: shapes.update({name: tuple(output.shape)})
            )
        feature = model(torch.zeros(2, 3, 384, 144))
    assert feature.shape == (2, model.feature_dim) == (2, 12288)
    assert shapes == {
        "MFA1": (2, 256, 96, 36),
        "MFA2": (2, 512, 48, 18),
        "MFA3": (2, 1024, 24, 9),
        "DEE": (6, 1024, 24, 9),
    }


def test_non_local_blocks_follow_their_blocks():
    with torch.device("meta"):
        model = create_model("agw", 5).eval()
    order = []
    for name, module in model.named_modules():
        if re.fullmatch(r"NL_\d\.\d|base_resnet\.base\.layer[23]\.\d", name):
            module.register_forward_hook(lambda m, i, o, name=name: order.append(name.rsplit("base.")[-1]))
    with torch.device("meta"):
        model(torch.zeros(2, 3, 64, 32))
    assert order == [
        *(f"layer2.{i}" for i in (0, 1, 2)),
        *("NL_2.0", "layer2.3", "NL_2.1"),
        *(f"layer3.{i}" for i in (0, 1, 2, 3)),
        *("NL_3.0", "layer3.4", "NL_3.1", "layer3.5", "NL_3.2"),
    ]


def test_generalised_mean():
    with torch.device("meta"):
        model = create_model("agw", 5, pool_power=2.0).eval()
    x = torch.rand(3, 2048, 4, 2)
    model.stem, model._stage, model.bottleneck = (lambda *a: x), (lambda number, x: x), torch.nn.Identity()
    want = (x.square().mean((2, 3)) + 1e-12).sqrt()
    torch.testing.assert_close(model.embed(x)[0], want)
    model.pool_power = 1.0
    torch.testing.assert_close(model.embed(x)[0], x.mean((2, 3)))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("deen_sysu", {"test_feature": "none"}, "DEEN: test_feature: got 'none'"),
        ("deen_regdb", {"pool_weight": 1.5}, "DEEN: pool_weight: got 1.5, expected a share from 0 to 1"),
        ("agw", {"neck_feature": "on"}, "AGW: neck_feature: got 'on'"),
        ("agw", {"pool_power": 0.0}, "AGW: pool_power: got 0.0, expected a number above 0"),
    ],
)
def test_bad_options(name, options, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        create_model(name, 5, **options)


@pytest.mark.parametrize(
    ("images", "mode", "message"),
    [
        (torch.zeros(3, 3, 64, 32), 0, "AGW: images: got batch 3, expected an even batch with mode 0"),
        (torch.zeros(2, 3, 64, 32), 3, "AGW: mode: got 3, expected 0 (both), 1 (visible) or 2 (infrared)"),
        (torch.zeros(3, 64, 32), 1, "AGW: images: got shape"),
    ],
)
def test_bad_images(images, mode, message):
    with torch.device("meta"):
        model = create_model("agw", 5).eval()
        with pytest.raises(ValueError, match=re.escape(message)):
            model(images, mode)


@pytest.mark.parametrize("name", ["agw", "deen_sysu", "deen_regdb", "mdinet"])
def test_fewer_blocks(name):
    """Named as the first blocks of the whole network, with the other parts; a non-local block for each of the last."""
    whole, small = create_model(name, 5), create_model(name, 5, blocks=[1, 2, 1, 1])
    entries = {key: value.shape for key, value in small.state_dict().items()}
    assert entries.items() <= {key: value.shape for key, value in whole.state_dict().items()}.items()
    kept = {re.sub(r"layer(\d)\.(\d)\..*", r"layer\1.\2", key) for key in entries if ".layer" in key}
    assert sorted(re.findall(r"layer(\d\.\d)", " ".join(sorted(kept)))) == [
        place for place in ("1.0", "2.0", "2.1", "3.0", "4.0") if name != "deen_regdb" or place != "4.0"
    ]
    if name == "agw":
        assert (len(whole.NL_2), len(whole.NL_3), len(small.NL_2), len(small.NL_3)) == (2, 3, 2, 1)
    small.train()(torch.randn(4, 3, 64, 32)).logits[0].sum().backward()
    with pytest.raises(ValueError, match=r"blocks: got \[1, 1\], expected four whole numbers from 1"):
        create_model(name, 5, blocks=[1, 1])
    with pytest.raises(ValueError, match="blocks: got"):
        create_model(name, 5, blocks=[1, 1, 1, 0])


@pytest.mark.parametrize("name", ["agw", "deen_sysu"])
def test_residuals_that_start_as_nothing(name):
    """Every block but a stage's first hands on what it got."""
    model = create_model(name, 5, blocks=[2, 2, 1, 1], zero_init_residual=True).eval()
    for stage in (1, 2):
        first, second = model.stage(stage)
        x = torch.randn(2, first.conv1.in_channels, 8, 4).relu()
        y = first(x)
        torch.testing.assert_close(y, first.downsample(x).relu())
        assert torch.equal(second(y), y)
        other = create_model(name, 5, blocks=[2, 2, 1, 1]).stage(stage)[1].eval()
        assert not torch.allclose(other(y), y)
    with pytest.raises(TypeError, match="zero_init_residual: got int, expected True or False"):
        create_model(name, 5, zero_init_residual=1)
