# SPDX-License-Identifier: Apache-2.0
"""Key lists of other projects: every value arrives at its place, and with it the original's features."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import nn
from weights_support import (
    check,
    empty,
    fastreid_network,
    layout,
    shapes,
    tags,
    torchreid_file,
    values,
)

from fastreid_ops.models import load_weights

STAGE = re.compile(r"layer([1-4])\.(.+)")


def renamed(names, *rules):
    """{name: its new name}, by plain replacement at the beginning of the name."""
    result = {}
    for name in names:
        new = next((name.replace(old, to, 1) for old, to in rules if name.startswith(old)), None)
        result[name] = name if new is None else new
    return result


def children(names):
    """A ResNet as torchreid wrote it in 2018 and CAL still does: nn.Sequential of the network's children."""
    return renamed(
        names,
        ("conv1.", "base.0."),
        ("bn1.", "base.1."),
        *((f"layer{number}.", f"base.{number + 3}.") for number in (1, 2, 3, 4)),
    )


def mid(stem_pools_first):
    """torchreid's resnet50m of 2018; the pooling belongs to the stem's list or to the next."""
    second = "layers2." if stem_pools_first else "layers2.1."
    return lambda names: renamed(
        names,
        ("conv1.", "layers1.0."),
        ("bn1.", "layers1.1."),
        ("layer1.", second),
        ("layer2.", "layers3."),
        ("layer3.", "layers4."),
        ("layer4.0.", "layers5a."),
        ("layer4.1.", "layers5b."),
        ("layer4.2.", "layers5c."),
        ("fc_fusion.", "fc_fuse."),
    )


def numbered(names):
    return renamed(names, *((f"layer{number}.", f"base.{number}.") for number in range(5)))


def dotted(names):
    return {name: re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", name) for name in names}


def dotted_base(names):
    return {name: new.replace("features.", "base.", 1) for name, new in dotted(names).items()}


def blocks(names):
    return renamed(names, *((f"conv{number}.", f"block{number}.") for number in range(2, 9)))


@pytest.mark.parametrize(
    ("name", "rename", "source"),
    [
        ("resnet50", children, "a list of ResNet's children (torchreid of 2018, Simple-CCReID)"),
        ("resnet50mid", mid(True), "torchreid of 2018, resnet50m"),
        ("resnet50mid", mid(False), "torchreid of 2018, resnet50m"),
        ("se_resnet50", numbered, "torchreid of 2018, SE networks"),
        ("densenet121", dotted_base, "torchreid of 2018, densenet"),
        ("densenet121", dotted, "older torchvision, densenet"),
        ("mobilenetv2_x1_0", blocks, "torchreid of 2018, mobilenetv2"),
        ("squeezenet_v0", dict.fromkeys, "as in the file"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_names_of_another_time(name, rename, source, need_timm):
    need_timm(name)
    ours = shapes(name)
    want = {here: there or here for here, there in rename(ours).items()}
    want = {here: f"module.{there}" for here, there in want.items()}
    file = tags({there: ours[here] for here, there in want.items()})
    report = check(empty(name), {"state_dict": file, "rank1": np.float32(0.5), "epoch": 3}, want)
    assert report.keymap == source
    assert report.skipped == report.missing == ()
    assert report.beside == ("rank1", "epoch")


def plain_resnet50():
    file = {key: shape for key, shape in shapes("resnet50").items() if not key.startswith("classifier")}
    return {**file, "fc.weight": (1000, 2048), "fc.bias": (1000,)}


PLACES = {
    "resnet50": lambda key: [key],
    "pcb_p6": lambda key: [key],
    "resnet50_fc512": lambda key: [key],
    "resnet50_bnneck": lambda key: [f"backbone.{key}"],
    "mdinet": lambda key: [f"backbone.{key}"],
    "naic_resnet50": lambda key: [f"base.{key}"],
    "cal_resnet50": lambda key: list(children([key]).values()),
    "cc_resnet50": lambda key: list(
        renamed(
            [key],
            ("conv1.", "backbone.layer0.0."),
            ("bn1.", "backbone.layer0.1."),
            ("layer", "backbone.layer"),
        ).values()
    ),
    "deen_regdb": lambda key: (
        [f"base_resnet.base.{key}"] * bool(re.match(r"layer[123]\.", key))
        + [f"{place}.{key}" for place in ("thermal_module.thermal", "visible_module.visible")]
        * bool(re.match(r"(conv|bn)1\.", key))
    ),
}


@pytest.mark.parametrize("name", list(PLACES))
def test_torchvisions_resnet50_finds_every_place(name):
    file = tags(plain_resnet50())
    want = {there: key for key in file if not key.startswith("fc.") for there in PLACES[name](key)}
    report = check(empty(name), file, want)
    left = [key for key in file if key not in want.values()]
    assert report.unexpected == tuple(left)
    assert set(left) >= {"fc.weight", "fc.bias"}
    assert report.misfits == ()


def test_a_baseline_serves_another(tmp_path):
    """base.*, bottleneck and classifier of NAIC and the bag of tricks: the heads are not looked for in the backbone."""
    ours = shapes("resnet50_bnneck")
    want = renamed(ours, ("backbone.", "base."))
    report = check(empty("resnet50_bnneck"), tags({want[k]: s for k, s in ours.items()}), want)
    assert report.keymap == "base.* of NAIC and the bag of tricks, to backbone.*"
    back = {there: here for here, there in want.items()}
    report = check(empty("naic_resnet50"), tags(ours), back)
    assert report.keymap == "backbone.*, to base.*"


def test_cal_with_its_classifiers_beside_it(tmp_path):
    """Simple-CCReID saves the network and each classifier as a state dict of its own."""
    model = empty("cal_resnet50", num_clothes=9)
    ours = tags(layout(model))
    network = {k: v for k, v in ours.items() if "classifier" not in k}
    content = {
        "model_state_dict": network,
        "classifier_state_dict": {
            f"module.classifier.{kind}": ours[f"classifier.{kind}"] for kind in ("weight", "bias")
        },
        "clothes_classifier_state_dict": {"weight": ours["clothes_classifier.weight"]},
        "rank1": np.float64(0.5),
    }
    torch.save(content, tmp_path / "best.pth.tar")
    report = load_weights(model, tmp_path / "best.pth.tar")
    assert report.missing == report.skipped == ()
    assert report.keymap == "Simple-CCReID"
    assert report.beside == ("rank1",)
    assert all(torch.equal(value, ours[key]) for key, value in model.state_dict().items())
    plain = empty("resnet50_bnneck")
    report = load_weights(plain, network)
    assert torch.equal(plain.backbone.layer3[5].conv3.weight, network["base.6.5.conv3.weight"])
    assert report.unexpected == tuple(k for k in network if k.startswith("bn."))


def test_deen_from_the_public_script(tmp_path, vi_golden):
    """Its whole list of keys, under ``net``, beside numpy's figures."""
    listed = dict(vi_golden.keys("deen_regdb"))
    file = tags(
        {key: tuple(map(int, shape.split("x"))) if shape != "scalar" else () for key, shape in listed.items()}
    )
    torch.save({"net": file, "cmc": np.zeros(20), "mAP": np.float64(0.1), "epoch": 3}, tmp_path / "model.t")
    model = empty("deen_regdb", 206)
    report = load_weights(model, tmp_path / "model.t")
    assert report.missing == report.misfits == report.renamed == ()
    assert all(torch.equal(value, file[key]) for key, value in model.state_dict().items())
    assert report.beside == ("cmc", "mAP", "epoch")
    assert len(report.skipped) == 1022 - len(model.state_dict())


IMAGE = {"hacnn": (160, 64), "HACNN": (160, 64)}


@pytest.mark.parametrize(
    ("file", "function", "name", "options"),
    [
        ("osnet", "osnet_x0_25", "osnet_x0_25", {}),
        ("osnet_ain", "osnet_ain_x0_25", "osnet_ain_x0_25", {}),
        ("shufflenetv2", "shufflenet_v2_x0_5", "shufflenet_v2_x0_5", {}),
        ("squeezenet", "squeezenet1_0_fc512", "squeezenet1_0_fc512", {}),
        ("hacnn", "HACNN", "hacnn", {}),
        ("resnet", "resnet18", "resnet18", {}),
    ],
)
def test_torchreid_checkpoints_give_torchreids_features(file, function, name, options, tmp_path):
    other = getattr(torchreid_file(file), function)(
        751, **({"use_gpu": False} if function == "HACNN" else {"pretrained": False, "loss": "softmax"})
    ).eval()
    state = values(layout(other))
    other.load_state_dict(state)
    checkpoint = {
        "state_dict": {f"module.{key}": value for key, value in state.items()},
        "epoch": 60,
        "rank1": np.float32(0.9),
        "optimizer": torch.optim.Adam(other.parameters()).state_dict(),
        "scheduler": {"base_lrs": [3e-4], "_step_count": 61},
    }
    torch.save(checkpoint, tmp_path / "model.pth.tar-60")
    model = empty(name, **options)
    report = load_weights(model, tmp_path / "model.pth.tar-60")
    assert all("classifier" in key for key in report.missing)
    assert {s.reason for s in report.skipped} == {"shape"}
    images = torch.randn(2, 3, *IMAGE.get(function, (64, 32)), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        want = other(images)
        torch.testing.assert_close(model(images), want, rtol=1e-4, atol=1e-4 * want.abs().max().item())


@pytest.mark.parametrize(
    ("name", "options", "theirs"),
    [
        ("resnet50_bnneck", {"ceil_pool": True}, {}),
        ("naic_se_resnet50_ibn_a", {}, {"with_ibn": True, "with_se": True}),
        ("agw", {}, {"with_nl": True}),
    ],
)
def test_fast_reids_checkpoints_give_fast_reids_features(name, options, theirs, tmp_path):
    other = fastreid_network(7, **theirs)
    state = values(layout(other))
    for key, value in state.items():
        if "NL_" in key and value.is_floating_point():  # products of features, five times over
            value.mul_(0.01)
    other.load_state_dict(state)
    torch.save({"model": state, "epoch": 119, "iteration": 100}, tmp_path / "model_final.pth")
    model = empty(name, **options)
    report = load_weights(model, tmp_path / "model_final.pth")
    assert report.keymap.startswith("fast-reid")
    assert report.skipped == ()
    assert all(key.startswith("base.fc.") for key in report.missing)
    told = [note for note in report.notes if "ceil_pool" in note]
    assert len(told) == ("ceil_pool" not in options)
    base = model.base_resnet.base if name == "agw" else getattr(model, "base", None) or model.backbone
    if told:
        pools = [part for part in model.modules() if isinstance(part, nn.MaxPool2d) and part.kernel_size == 3]
        for pool in pools:
            pool.padding, pool.ceil_mode = 0, True
    images = torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        want = other.backbone(images)
        if name != "agw":
            torch.testing.assert_close(base(images), want, rtol=1e-3, atol=1e-4 * want.abs().max().item())
            feature = other.heads(want)
            torch.testing.assert_close(
                model(images), feature, rtol=1e-3, atol=1e-4 * feature.abs().max().item()
            )
            return
        for mode in (1, 2):
            x = model.stem(images, mode)
            for number in (1, 2, 3, 4):
                x = model._stage(number, x)
            torch.testing.assert_close(x, want, rtol=1e-3, atol=1e-4 * want.abs().max().item())


@pytest.fixture(scope="module")
def timm():
    return pytest.importorskip("timm", exc_type=ImportError)


@pytest.mark.parametrize(
    ("theirs", "name", "options", "rest"),
    [
        ("tf_efficientnet_b0", "naic_efficientnet_b0", {}, ()),
        ("resnest50d", "naic_resnest50", {"last_stride": 2}, ()),
        ("resnet18", "resnet18", {}, ("fc.weight", "fc.bias")),
    ],
)
def test_timms_weights_give_timms_features(timm, theirs, name, options, rest):
    other = timm.create_model(theirs, pretrained=False).eval()
    state = values(layout(other))
    other.load_state_dict(state)
    model = empty(name, **options)
    report = load_weights(model, state)
    assert report.unexpected == rest
    assert all(key.startswith(("classifier", "bottleneck")) for key in report.missing)
    size = (224, 224) if "efficientnet" in theirs else (64, 64)
    images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        want = other.forward_features(images).mean((2, 3))
        got = model.base(images).mean((2, 3)) if hasattr(model, "base") else model(images)
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4 * want.abs().max().item())
    assert any("tf_efficientnet_b0" in note for note in report.notes) == ("efficientnet" in theirs)


@pytest.mark.parametrize(
    ("theirs", "name", "rest"),
    [
        ("legacy_seresnext50_32x4d", "se_resnext50_32x4d", {"last_linear.weight", "last_linear.bias"}),
        ("legacy_xception", "xception", {"fc.weight", "fc.bias"}),
        ("inception_v4", "inceptionv4", {"last_linear.weight", "last_linear.bias"}),
        ("inception_resnet_v2", "inceptionresnetv2", {"classif.weight", "classif.bias"}),
    ],
)
def test_timms_key_lists(timm, theirs, name, rest):
    with torch.device("meta"):
        listed = layout(timm.create_model(theirs, pretrained=False))
    file = tags(listed)
    report = check(empty(name), file, {key: key for key in file if key not in rest})
    assert {s.file for s in report.skipped} == rest


@pytest.mark.parametrize(
    ("theirs", "rest"),
    [
        ("shufflenet_v2_x0_5", {"fc.weight", "fc.bias"}),
        ("squeezenet1_1", {"classifier.1.weight", "classifier.1.bias"}),
        ("resnext50_32x4d", {"fc.weight", "fc.bias"}),
        ("densenet121", {"classifier.weight", "classifier.bias"}),
    ],
)
def test_torchvisions_key_lists(timm, theirs, rest):
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        listed = layout(getattr(torchvision.models, theirs)(weights=None))
    file = tags(listed)
    report = check(empty(theirs), file, {key: key for key in file if key not in rest})
    assert {s.file for s in report.skipped} == rest


@pytest.mark.parametrize("trained", [False, True], ids=["random", "ImageNet"])
def test_torchvisions_mobilenet_gives_torchvisions_features(timm, trained, request):
    torchvision = pytest.importorskip("torchvision")
    other = torchvision.models.mobilenet_v2(weights=None).eval()
    file = request.getfixturevalue("imagenet_mobilenet") if trained else values(layout(other))
    state = torch.load(file, weights_only=True) if trained else file
    other.load_state_dict(state)
    model = empty("mobilenetv2_x1_0", first_expansion=False)
    report = load_weights(model, file)
    assert report.keymap == "torchvision, mobilenet_v2"
    assert report.unexpected == ("classifier.1.weight", "classifier.1.bias")
    assert report.missing == ("classifier.weight", "classifier.bias")
    assert len(report.used) == len(state) - 2 == 312
    assert report.notes == ()
    images = torch.randn(2, 3, 80, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        want = other.features(images).mean((2, 3))
        torch.testing.assert_close(model(images), want, rtol=1e-4, atol=1e-5 * want.abs().max().item())


def test_torchvisions_mobilenet_in_deep_person_reids_form(timm):
    """Which has one convolution more: the report says so."""
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        listed = layout(torchvision.models.mobilenet_v2(weights=None))
    model = empty("mobilenetv2_x1_0")
    report = load_weights(model, tags(listed))
    kept = {name for name in model.state_dict() if name.startswith(("conv2.0.conv1.", "classifier."))}
    assert set(report.missing) == kept
    (said,) = report.notes
    assert "first_expansion=False" in said
