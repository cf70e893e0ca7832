# SPDX-License-Identifier: Apache-2.0
"""Vision transformers: timm's names and numbers, timm itself where it is installed, sizes of images."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastreid_ops.models import create_model
from fastreid_ops.models.backbones.vit import Block, VisionTransformer
from fastreid_ops.models.weights import load_weights

SMALL = {"dim": 24, "depth": 2, "num_heads": 4, "image_size": (64, 32)}


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def small():
    torch.manual_seed(0)
    model = VisionTransformer(**SMALL).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model


@pytest.mark.parametrize(
    ("name", "width", "count"),
    [("vit_small_patch16_224", 384, 21_665_664), ("vit_base_patch16_224", 768, 85_798_656)],
)
def test_names_and_parameters(name, width, count):
    with torch.device("meta"):
        model = create_model(name, 10)
        assert model.eval()(torch.zeros(2, 3, 256, 128)).shape == (2, width)
    backbone = {key: tuple(value.shape) for key, value in model.backbone.state_dict().items()}
    assert sum(p.numel() for p in model.backbone.parameters()) == count
    assert len(backbone) == 4 + 12 * 12 + 2
    assert backbone["cls_token"] == (1, 1, width)
    assert backbone["pos_embed"] == (1, 197, width)
    assert backbone["patch_embed.proj.weight"] == (width, 3, 16, 16)
    assert [key for key in backbone if key.startswith("blocks.11.")] == [
        f"blocks.11.{part}.{kind}"
        for part in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
        for kind in ("weight", "bias")
    ]
    assert backbone["blocks.0.attn.qkv.bias"] == (3 * width,)
    assert list(backbone)[-2:] == ["norm.weight", "norm.bias"]


@pytest.mark.parametrize("size", [(64, 32), (96, 64)])
def test_against_torch_own_encoder(small, size):
    """torch's pre-norm encoder layers with the same values, and the position embedding resized by hand."""
    images = random(2, 3, *size)
    x = small.patch_embed.proj(images).flatten(2).transpose(1, 2)
    x = torch.cat((small.cls_token.expand(2, -1, -1), x), 1)
    maps = small.pos_embed[:, 1:].transpose(1, 2).reshape(1, 24, 4, 2)
    if size != (64, 32):
        maps = F.interpolate(maps, size=(size[0] // 16, size[1] // 16), mode="bicubic", antialias=True)
    x = x + torch.cat((small.pos_embed[:, :1], maps.flatten(2).transpose(1, 2)), 1)
    for block in small.blocks:
        layer = nn.TransformerEncoderLayer(
            24, 4, 96, 0.0, "gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
        )
        names = {
            "self_attn.in_proj_": "attn.qkv.",
            "self_attn.out_proj.": "attn.proj.",
            "linear1.": "mlp.fc1.",
            "linear2.": "mlp.fc2.",
            "norm1.": "norm1.",
            "norm2.": "norm2.",
        }
        values = block.state_dict()
        layer.load_state_dict(
            {
                there + kind: values[here + kind]
                for there, here in names.items()
                for kind in ("weight", "bias")
            }
        )
        x = layer(x)
    want = F.layer_norm(x, (24,), small.norm.weight, small.norm.bias, 1e-6)
    torch.testing.assert_close(small.tokens(images), want, rtol=1e-4, atol=1e-5)


def test_against_timm():
    timm = pytest.importorskip("timm", exc_type=ImportError)
    other = timm.create_model("vit_small_patch16_224", pretrained=False, dynamic_img_size=True).eval()
    model = create_model("vit_small_patch16_224", 10).eval()
    report = load_weights(model, other.state_dict())
    assert set(report.unexpected) == {"head.weight", "head.bias"}
    assert [key for key, _ in model.backbone.named_parameters()] == [
        key for key, _ in other.named_parameters() if not key.startswith("head.")
    ]
    with torch.no_grad():
        for size in ((224, 224), (256, 128)):
            images = random(2, 3, *size)
            want = other.forward_features(images)
            torch.testing.assert_close(model.backbone.tokens(images), want, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(model(images), model.bottleneck(want[:, 0]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_pools(small, pool):
    small.pool = pool
    images = random(2, 3, 64, 32)
    tokens, out = small.tokens(images), small(images)
    want = tokens[:, 0] if pool == "cls" else tokens[:, 1:].mean(1)
    torch.testing.assert_close(out.mean((2, 3)), want)
    assert out.shape == ((2, 24, 1, 1) if pool == "cls" else (2, 24, 4, 2))
    if pool == "mean":
        torch.testing.assert_close(out[:, :, 1, 0], tokens[:, 3])


def test_resize_once_and_for_all(small):
    images = random(2, 3, 96, 64)
    with torch.no_grad():
        want = small(images)
        small.resize((96, 64))
        assert small.pos_embed.shape == (1, 25, 24)
        assert isinstance(small.pos_embed, nn.Parameter)
        torch.testing.assert_close(small(images), want)


@pytest.mark.parametrize(
    ("there", "here"), [((64, 64), (96, 64)), ((96, 48), (128, 64)), ((64, 64), (32, 16))]
)
def test_weights_of_another_size_are_resized_on_the_way_in(there, here):
    """As if the network had been made for its own size and laid out anew; squares and equal proportions."""
    torch.manual_seed(0)
    source = VisionTransformer(**{**SMALL, "image_size": there})
    model = VisionTransformer(**{**SMALL, "image_size": here})
    report = load_weights(model, source.state_dict())
    assert report.missing == report.skipped == ()
    grids = [tuple(side // 16 for side in size) for size in (there, here)]
    assert report.resized == (("pos_embed", "pos_embed", *grids),)
    (rows, columns), (new_rows, new_columns) = grids
    line = f"resized: pos_embed, positions of {rows} x {columns} patches to {new_rows} x {new_columns}"
    assert line in report.describe()
    source.resize(here)
    assert torch.equal(model.pos_embed, source.pos_embed)
    assert torch.equal(model.pos_embed[:, :1], source.state_dict()["pos_embed"][:, :1])


def test_positions_that_nothing_is_known_about_are_left_out():
    torch.manual_seed(0)
    source, model = VisionTransformer(**{**SMALL, "image_size": (96, 16)}), VisionTransformer(**SMALL)
    report = load_weights(model, source.state_dict())
    assert report.misfits == (("pos_embed", (1, 7, 24), (1, model.pos_embed.shape[1], 24)),)
    without = {key: value for key, value in source.state_dict().items() if key != "cls_token"}
    without["pos_embed"] = torch.zeros(1, 16, 24)
    report = load_weights(model, without)  # no class token in the file, so no position for it
    assert [name for name, *_ in report.misfits] == ["pos_embed"]
    assert report.resized == ()


def test_drop_path():
    torch.manual_seed(0)
    block = Block(24, 4, 4.0, 0.0, 0.5)
    x = random(400, 3, 24)
    whole = block.eval()(x)
    got = block.train()(x)
    attention = block.attn(block.norm1(x))
    unchanged = (got == x).flatten(1).all(1).float().mean()
    assert unchanged.item() == pytest.approx(0.25, abs=0.07)
    both = x + 2 * attention
    both = both + 2 * block.mlp(block.norm2(both))
    same = torch.isclose(got, both, atol=1e-5).flatten(1).all(1).float().mean()
    assert same.item() == pytest.approx(0.25, abs=0.07)
    assert not torch.allclose(got, whole)
    rates = [b.drop_path for b in VisionTransformer(**{**SMALL, "depth": 3}, drop_path=0.2).blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": (256, 120)}, "VisionTransformer: image_size: got 120, expected a multiple of 16"),
        ({"pool": "max"}, "VisionTransformer: pool: got 'max', expected one of cls or mean"),
        ({"drop_path": 1.0}, "VisionTransformer: drop_path: got 1.0, expected 0 or more, below 1"),
        ({"neck_feature": "on"}, "BNNeckBaseline: neck_feature: got 'on'"),
    ],
)
def test_bad_options(options, message):
    with torch.device("meta"), pytest.raises(ValueError, match=re.escape(message)):
        create_model("vit_small_patch16_224", 5, **options)


def test_bad_images(small):
    with pytest.raises(ValueError, match="PatchEmbedding: images: got 60 x 32, expected multiples of 16"):
        small(torch.zeros(2, 3, 60, 32))
