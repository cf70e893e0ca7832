# SPDX-License-Identifier: Apache-2.0
"""EmbedNet: the recorded reconstruction, names and counts, and what its description gets wrong as a whole."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastreid_ops.layers.token_aggregation import TokenMFA
from fastreid_ops.losses.deen import OrthogonalityLoss
from fastreid_ops.models import create_model
from fastreid_ops.models.backbones.vit import VisionTransformer
from fastreid_ops.models.weights import load_weights

SMALL = {"image_size": (64, 64), "dim": 48, "depth": 4, "num_heads": 4}
FILES = {"expand": "dee", "fuse": "dee_fuse", "tmhee": "tmhee", "cmatm": "cmatm", "ssdec": "ssdec"}
COUNTS = {
    "expand": 111_800_066,
    "fuse": 110_324_737,
    "tmhee": 111_213_313,
    "cmatm": 115_939_585,
    "ssdec": 130_705_153,
}


def count(module) -> int:
    return sum(p.numel() for p in module.parameters())


def awake(seed=0, **options):
    """A small network whose aggregations are not the identity."""
    torch.manual_seed(seed)
    model = create_model("embednet", 5, **{**SMALL, **options})
    for module in model.modules():
        if isinstance(module, TokenMFA):
            for part in (module.CNL, module.PNL):
                nn.init.normal_(part.W[1].bn.weight)
    return model.eval()


@pytest.fixture(params=list(FILES))
def dee(request):
    return request.param


@pytest.fixture
def images():
    return torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(2))


def test_recorded_numbers(dee, vi_golden):
    want, facts = (
        vi_golden.read(f"self_embednet_{FILES[dee]}"),
        vi_golden.facts("self_facts")["small"][FILES[dee]],
    )
    model = vi_golden.fill(create_model("embednet", 5, dee=dee, **SMALL))
    assert count(model) == facts["params"]
    images = torch.cat([vi_golden.normal(f"em_x{i}", 4, 3, 64, 64) for i in (1, 2)])
    output = vi_golden.calibrate(model, images)
    near = {"rtol": 0, "atol": 2e-5}
    torch.testing.assert_close(torch.cat(output.features), want["train_pool"], **near)
    torch.testing.assert_close(torch.cat(output.logits), want["train_logits"], **near)
    if dee == "expand":
        loss = OrthogonalityLoss(form="code")(output.features[1:])
    elif dee == "fuse":
        assert not output.auxiliary
        loss = torch.tensor(0.0)
    else:
        loss = OrthogonalityLoss(form="cosine")(output.auxiliary["branches"].unbind())
    assert loss.item() == pytest.approx(want["train_ort"].item(), rel=1e-4, abs=1e-6)
    with torch.no_grad():
        for mode, some in enumerate((images, images[:4], images[4:])):
            for kind, value in zip(("pool", "feat"), model.embed(some, mode)[:2], strict=True):
                torch.testing.assert_close(F.normalize(value, dim=1), want[f"m{mode}_{kind}"], **near)


def test_names(dee, vi_golden):
    with torch.device("meta"):
        model = create_model("embednet", 5, dee=dee, **SMALL)
    common = [entry for entry in vi_golden.keys("self_embednet", "dee") if not entry[0].startswith("DEE.")]
    own = [e for e in vi_golden.keys("self_embednet", FILES[dee]) if e[0].startswith("DEE.")]
    got = vi_golden.layout(model)
    assert [entry for entry in got if entry[0].startswith("DEE.")] == own
    assert [entry for entry in got if not entry[0].startswith("DEE.")] == common


def test_parameters(dee, vi_golden):
    with torch.device("meta"):
        model = create_model("embednet", 395, dee=dee)
    assert count(model) == COUNTS[dee]
    assert count(model.backbone) == 86_678_016
    assert [count(getattr(model, f"MFA{i}")) for i in range(4)] == [3_547_008] * 4
    assert (count(model.MFA0.CNL), count(model.MFA0.PNL)) == (2_363_904, 1_183_104)
    assert count(model.stage4_transformer) == 7_087_872
    facts = vi_golden.facts("self_facts")["params"]
    name = {
        "expand": "DEE_expand",
        "fuse": "DEE_fuse",
        "tmhee": "T_MHEE",
        "cmatm": "CM_ATM",
        "ssdec": "SS_DEC",
    }
    assert count(model.DEE) == facts[name[dee]]
    assert [m.flag for m in model.modules() if isinstance(m, TokenMFA)] == [0, 0, 1, 2]


def test_shapes_of_the_whole_network():
    with torch.device("meta"):
        model = create_model("embednet", 5).eval()
        for mode, batch in ((0, 2), (1, 1), (2, 1)):
            images = torch.zeros(batch, 3, 384, 384)
            assert model.tokens(images, mode).shape == (batch, 576, 768)
            assert model.embed(images, mode)[0].shape == (3 * batch, 768)
            assert model(images, mode).shape == (batch, model.feature_dim) == (batch, 6 * 768)


def test_images_are_embedded_once_and_every_stage_counts(images):
    """The description gives the images to every stage anew, so that only the first and the last stage have a say."""
    model = awake()
    calls = []
    model.backbone.patch_embed_vis.register_forward_hook(lambda *a: calls.append(1))
    with torch.no_grad():
        want = model(images)
        assert len(calls) == 1
        parts = [*model.backbone.stages, model.MFA0, model.MFA1, model.MFA2, model.MFA3]
        for part in parts:
            handle = part.register_forward_hook(lambda m, inputs, output: output + 0.5 * output.roll(1, 2))
            assert (model(images) - want).abs().max() > 1e-3
            handle.remove()
        assert torch.equal(model(images), want)


@pytest.mark.parametrize("choice", ["stage0", "prev"])
def test_earlier_tokens_of_the_aggregations(choice, images):
    model = awake(mfa_low=choice)
    stages, lows, inputs = [], [], []
    for stage in model.backbone.stages:
        stage.register_forward_pre_hook(lambda m, i: inputs.append(i[0]))
        stage.register_forward_hook(lambda m, i, o: stages.append(o))
    for number in range(4):
        getattr(model, f"MFA{number}").register_forward_hook(lambda m, i, o: lows.append(i[1]))
    with torch.no_grad():
        model(images)
    want = [stages[0]] * 4 if choice == "stage0" else inputs
    assert all(got is low for got, low in zip(lows, want, strict=True))
    assert lows[0].shape == stages[3].shape == (4, 16, 48)


def test_expansion_gives_the_losses_their_operands(images):
    """The description returns one tensor, with nothing to pair or to keep apart."""
    model = awake().train()
    output = model(images)
    assert [tuple(x.shape) for x in output.features] == [(4, 48)] * 3
    loss = OrthogonalityLoss(form="code")(output.features[1:])
    loss.backward()
    for branch in model.DEE.branches:
        assert branch.fc1.weight.grad.any()
        assert branch.scale.grad != 0
    fused = awake(dee="fuse").train()(images)
    assert len(fused.features) == len(fused.logits) == 1
    assert not fused.auxiliary


def test_neck(images):
    described, plain = awake(), awake(neck="bn")
    with torch.no_grad():
        first, second = described.embed(images)[1], plain.embed(images)[1]
        assert first.min() == 0
        assert 0.2 < (first == 0).float().mean() < 0.8
        assert second.min() < 0
        torch.testing.assert_close(second, plain.bottleneck(plain.embed(images)[0]))
    assert isinstance(plain.bottleneck, nn.BatchNorm1d)
    assert not plain.bottleneck.bias.requires_grad  # as in DEEN
    assert described.bottleneck[1].bias.requires_grad
    assert 0.005 < plain.bottleneck.weight.std() < 0.015


def test_other_sizes_of_images():
    model = awake(image_size=(64, 32))
    assert model.backbone.pos_embed.shape == (1, 8, 48)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for size in ((64, 32), (96, 32), (32, 64)):
            feature = model(torch.randn(2, 3, *size, generator=generator), 1)
            assert feature.shape == (2, model.feature_dim)
        images = torch.zeros(1, 3, 128, 64)
        bare = model.backbone.patch_embed_vis(images)
        got = model.backbone.embed(images, 1) - bare
    maps = model.backbone.pos_embed.transpose(1, 2).reshape(1, 48, 4, 2)
    want = F.interpolate(maps, size=(8, 4), mode="bicubic", antialias=True)
    torch.testing.assert_close(got, want.flatten(2).transpose(1, 2), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [(64, 64), (96, 32)])
def test_weights_of_a_vision_transformer(size):
    torch.manual_seed(0)
    source = VisionTransformer(image_size=(64, 64), dim=48, depth=4, num_heads=4).eval()
    model = create_model("embednet", 5, **{**SMALL, "image_size": size}).eval()
    report = load_weights(model, source.state_dict())
    assert report.keymap == "as in the file, to both streams"
    assert [item[2:] for item in report.resized] == [((4, 4), (6, 2))] * (size != (64, 64))
    assert report.unexpected == ("cls_token", "norm.weight", "norm.bias")
    assert not report.misfits
    assert not [key for key in report.missing if key.startswith("backbone.")]
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        patches = source.patch_embed(images)
        positions = source.pos_embed[:, 1:]
        if size != (64, 64):
            maps = positions.transpose(1, 2).reshape(1, 48, 4, 4)
            maps = F.interpolate(maps, size=(6, 2), mode="bicubic", antialias=True)
            positions = maps.flatten(2).transpose(1, 2)
        want = source.blocks(patches + positions)
        for mode in (0, 1, 2):  # the aggregations start as the identity
            torch.testing.assert_close(model.tokens(images, mode), want, rtol=1e-4, atol=1e-5)


def test_one_modality_needs_no_images_of_the_other(dee, images):
    model = awake(dee=dee)
    with torch.no_grad():
        both = model(images)
        alone = torch.cat((model(images[:2], 1), model(images[2:], 2)))
    if dee == "cmatm":  # an image reads the tokens of its partner where there is one
        assert (both - alone).abs().max() > 1e-4
    else:
        torch.testing.assert_close(alone, both, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(model(images[:2], 2), both[:2], atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dee": "none"}, "EmbedNet: dee: got 'none'"),
        ({"mfa_low": "all"}, "EmbedNet: mfa_low: got 'all'"),
        ({"neck": "relu"}, "EmbedNet: neck: got 'relu'"),
        ({"test_feature": "x"}, "EmbedNet: test_feature: got 'x'"),
        ({"pool_weight": -0.1}, "EmbedNet: pool_weight: got -0.1"),
        ({"image_size": (384, 130)}, "EmbedNet: image_size: got 130, expected a multiple of 16"),
        ({"depth": 6}, "EmbedNet: depth: got 6, expected a multiple of 4"),
        ({"num_heads": 7}, "Attention: dim: got 48, expected a multiple of the 7 heads"),
    ],
)
def test_bad_options(options, message):
    with torch.device("meta"), pytest.raises(ValueError, match=re.escape(message)):
        create_model("embednet", 5, **{**SMALL, **options})


@pytest.mark.parametrize(
    ("shape", "mode", "message"),
    [
        ((3, 3, 64, 64), 0, "EmbedNet: images: got batch 3, expected an even batch with mode 0"),
        ((2, 3, 64, 64), 4, "EmbedNet: mode: got 4"),
        ((2, 3, 60, 64), 1, "PatchEmbedding: images: got 60 x 64, expected multiples of 16, the patch"),
        ((3, 64, 64), 1, "PatchEmbedding: images: got shape"),
    ],
)
def test_bad_images(shape, mode, message):
    model = awake()
    with pytest.raises(ValueError, match=message):
        model(torch.zeros(shape), mode)
