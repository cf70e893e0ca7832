# SPDX-License-Identifier: Apache-2.0
"""MDINet: the printed tree, the counts, the recorded reconstruction, the choices that the source leaves open."""

from __future__ import annotations

import re

import pytest
import torch
from torch.nn import functional as F

from fastreid_ops.models import create_model
from fastreid_ops.models.mdinet import ConEmbeddingHead, ResNet_MDI


def printed(model) -> str:
    """As older releases of torch print it: no bias of normalisations, no quotes around a mode."""
    lines = repr(model).replace("'nearest'", "nearest").splitlines()
    return "\n".join(re.sub(r", bias=(True|False)", "", x) if "Norm" in x else x for x in lines)


@pytest.fixture(scope="module")
def recorded(vi_golden):
    """The network of the golden file after its training forward, the output of that, its images."""
    model = vi_golden.fill(create_model("mdinet", 395))
    images = vi_golden.normal("mdi_x", 4, 3, 384, 128)
    return model, vi_golden.calibrate(model, images), images


def test_tree_and_names(vi_golden):
    with torch.device("meta"):
        model = create_model("mdinet", 395)
    tree = (vi_golden.FOLDER / "mdinet_tree.txt").read_text().splitlines()
    assert printed(model).splitlines() == tree
    assert len(tree) == 360
    assert vi_golden.layout(model) == vi_golden.keys("mdinet")


@pytest.mark.parametrize(
    ("classes", "count"), [(395, 47_947_840), (206, 46_593_088), (713, 50_227_264), (1, 45_123_648)]
)
def test_parameters(classes, count):
    with torch.device("meta"):
        model = create_model("mdinet", classes)
    assert sum(p.numel() for p in model.parameters()) == count
    assert sum(p.numel() for p in model.parameters() if not p.requires_grad) == 7168
    sizes = {
        name: sum(p.numel() for p in part.parameters()) for name, part in model.backbone.named_children()
    }
    assert [sizes[f"mdi{n}"] for n in (1, 2, 3, 4)] == [1_246_720, 1_838_080, 788_480, 3_149_824]
    assert sum(sizes.values()) == 30_531_136


def test_recorded_numbers(recorded, vi_golden):
    model, output, images = recorded
    want, facts = vi_golden.read("self_mdinet"), vi_golden.facts("self_facts")["small"]["mdinet"]
    near = {"rtol": 0, "atol": 2e-4}
    torch.testing.assert_close(output.auxiliary["projection_b1"], want["con_b1"], rtol=0, atol=2e-5)
    torch.testing.assert_close(output.auxiliary["projection_b2"], want["con_b2"], rtol=0, atol=2e-5)
    torch.testing.assert_close(output.logits[0], want["cls_b1"], **near)
    pooled = (output.features[0], *output.parts, output.features[2])
    for logits, feature, projection, number in zip(
        output.logits, pooled, output.auxiliary.values(), range(4), strict=True
    ):
        for got, kind in ((logits, "cls"), (feature, "feat"), (projection, "con")):
            fact = facts[kind][number]
            assert list(got.shape) == fact["shape"]
            assert got.mean().item() == pytest.approx(fact["mean"], abs=1e-5)
            assert got.std(correction=0).item() == pytest.approx(fact["std"], abs=1e-4)
            torch.testing.assert_close(got.flatten()[:4], torch.tensor(fact["first"]), **near)
    with torch.no_grad():
        feature = model(images)
    # The neck divides by deviations over four images, some of them tiny: both results are 5e-3 from float64 there, and
    # the number of threads changes the result by 8e-5 in the mean.
    torch.testing.assert_close(feature, want["eval"], rtol=0, atol=5e-3)
    assert (feature - want["eval"]).square().mean().sqrt() < 2e-4
    assert feature.mean().item() == pytest.approx(-0.130532, abs=1e-5)
    assert feature.std(correction=0).item() == pytest.approx(0.886667, abs=1e-5)


def test_both_modalities_in_one_batch_or_each_in_its_own(recorded):
    model, _, images = recorded
    small = images[:, :, :64, :32]
    with torch.no_grad():
        both = model(small)
        assert torch.equal(both[:2], model(small[:2], 1))
        assert torch.equal(both[2:], model(small[2:], 2))
        assert not torch.allclose(model(small[:2], 2), both[:2])


def test_statistics_of_the_absent_modality_stay():
    torch.manual_seed(0)
    backbone = ResNet_MDI()
    backbone(torch.randn(2, 3, 64, 32), 1)
    for part in (backbone.mdi1, backbone.mdi2):
        assert part.si_v.num_batches_tracked == 1
        assert part.si_i.num_batches_tracked == part.sci_i.si.num_batches_tracked == 0
        assert not part.si_i.running_mean.any()


def test_maps_of_the_backbone():
    with torch.device("meta"):
        maps = ResNet_MDI().eval()(torch.zeros(2, 3, 384, 128))
    assert {name: tuple(x.shape) for name, x in maps.items()} == {
        "layer2_out": (2, 512, 48, 16),
        "layer3_out": (2, 1024, 24, 8),
        "layer4_out": (2, 2048, 24, 8),
    }


def test_what_the_heads_see(recorded):
    model, _, images = recorded
    small = images[:2, :, :64, :32]
    with torch.no_grad():
        maps = model.backbone(small, 1)
        last = maps["layer4_out"]
        want = [
            head.bottleneck(x.mean((2, 3), keepdim=True)).flatten(1)
            for head, x in (
                (model.b1_head, last),
                (model.b11_head, last[:, :, :2]),
                (model.b12_head, last[:, :, 2:]),
                (model.b2_head, maps["layer3_out"]),
            )
        ]
        torch.testing.assert_close(model(small, 1), torch.cat(want, 1))


@pytest.mark.parametrize(("choice", "width"), [("all", 7168), ("b1", 2048), ("b1+parts", 6144)])
def test_test_feature(choice, width):
    with torch.device("meta"):
        model = create_model("mdinet", 5, test_feature=choice).eval()
        assert model(torch.zeros(2, 3, 64, 32)).shape == (2, model.feature_dim) == (2, width)


def test_open_choices():
    with torch.device("meta"):
        model = create_model("mdinet", 5, mdi_form="serial", attn_residual=False, con_dim=64, parts="whole")
    assert model.backbone.mdi1.mdi_form == model.backbone.mdi4.mdi_form == "serial"
    assert not model.backbone.mdi2.sci_i.mhsa.attn_residual
    assert model.b2_head.con_head[3].out_features == 64
    x = torch.ones(1)
    model.backbone.forward = lambda images, mode: {"layer4_out": x, "layer3_out": x}
    assert all(value is x for value in model._maps(x, 0).values())


@pytest.mark.parametrize("source", ["pooled", "neck"])
@pytest.mark.parametrize("normalised", [True, False])
def test_projection(source, normalised):
    torch.manual_seed(0)
    head = ConEmbeddingHead(6, 3, 4, projection_from=source, normalise_projection=normalised).eval()
    head.bottleneck[0].running_mean.uniform_(-1, 1)
    pooled, neck, logits, projection = head(torch.randn(5, 6, 3, 2))
    want = head.con_head(pooled if source == "pooled" else neck)
    torch.testing.assert_close(projection, F.normalize(want, dim=1) if normalised else want)
    torch.testing.assert_close(logits, neck @ head.weight.T)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parts": "thirds"}, "MDINet: parts: got 'thirds', expected one of halves or whole"),
        ({"test_feature": "b2"}, "MDINet: test_feature: got 'b2'"),
        ({"projection_from": "logits"}, "ConEmbeddingHead: projection_from: got 'logits'"),
        ({"mdi_form": "none"}, "mdi_form: got 'none'"),
    ],
)
def test_bad_options(options, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        create_model("mdinet", 5, **options)


@pytest.mark.parametrize(
    ("shape", "mode", "message"),
    [
        ((2, 3, 64, 40), 0, "ResNet_MDI: images: got 64 x 40, expected height and width multiples of 16"),
        ((2, 3, 80, 32), 1, "MDINet: images: got 80 rows, expected a multiple of 32"),
        ((3, 3, 64, 32), 0, "MDI_sep: x: got batch 3, expected an even batch"),
        ((2, 3, 64, 32), 3, "MDI_sep: mode: got 3"),
        ((3, 64, 32), 1, "ResNet_MDI: images: got shape"),
    ],
)
def test_bad_images(shape, mode, message):
    with torch.device("meta"):
        model = create_model("mdinet", 5).eval()
        with pytest.raises(ValueError, match=re.escape(message)):
            model(torch.zeros(shape), mode)
