# SPDX-License-Identifier: Apache-2.0
"""Foreign weights: what fits is copied, the rest is named, nothing is run and nothing fails in silence."""

from __future__ import annotations

import argparse

import pytest
import torch
from safetensors.torch import save_file

from fastreid_ops.models import create_model
from fastreid_ops.models.backbones.resnet import RESNET50, ResNet
from fastreid_ops.models.weights import load_weights


def small(classes: int = 7, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return create_model("osnet_x0_25", classes)


def test_torchreid_checkpoint_of_other_identities(tmp_path):
    source = small(751, seed=1)
    checkpoint = {
        "state_dict": {f"module.{k}": v for k, v in source.state_dict().items()},
        "epoch": 60,
        "rank1": 0.9,
    }
    torch.save(checkpoint, tmp_path / "model.pth.tar-60")
    model = small()
    kept = model.classifier.weight.detach().clone()
    report = load_weights(model, tmp_path / "model.pth.tar-60")
    assert {name for name, _, _ in report.misfits} == {"classifier.weight", "classifier.bias"}
    assert set(report.missing) == {"classifier.weight", "classifier.bias"}
    assert report.unexpected == ()
    assert len(report.loaded) == len(model.state_dict()) - 2
    assert torch.equal(model.classifier.weight, kept)
    for key, value in source.state_dict().items():
        if not key.startswith("classifier"):
            assert torch.equal(model.state_dict()[key], value), key
    assert "classifier.weight, file [751, 512], model [7, 512]" in report.describe()


def test_torchvision_names_reach_the_backbone_of_the_baseline():
    source = create_model("resnet50", 3).state_dict()
    source["fc.weight"] = source.pop("classifier.weight")
    source["fc.bias"] = source.pop("classifier.bias")
    model = create_model("resnet50_bnneck", 3)
    report = load_weights(model, source)
    assert report.renamed == ("", "backbone.")
    assert set(report.unexpected) == {"backbone.fc.weight", "backbone.fc.bias"}
    assert all(name.startswith(("bottleneck", "classifier")) for name in report.missing)
    assert torch.equal(model.backbone.layer4[2].conv3.weight, source["layer4.2.conv3.weight"])


def test_prefix_of_bag_of_tricks_is_taken_off():
    source = {
        f"base.{k}": v for k, v in create_model("resnet50", 3).state_dict().items() if "classifier" not in k
    }
    report = load_weights(create_model("resnet50", 4), source)
    assert report.renamed == ("base.", "")
    assert set(report.missing) == {"classifier.weight", "classifier.bias"}


RESNET_CHILDREN = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}


def first_part(name, parts):
    head, _, rest = name.partition(".")
    return f"{parts[head]}.{rest}" if head in parts else name


def mid_name(name):
    """Of the ResNet-50 with mid-level features in deep-person-reid's first versions."""
    for ours, theirs in (
        ("conv1.", "layers1.0."),
        ("bn1.", "layers1.1."),
        ("layer1.", "layers2.1."),
        ("layer2.", "layers3."),
        ("layer3.", "layers4."),
        ("layer4.0.", "layers5a."),
        ("layer4.1.", "layers5b."),
        ("layer4.2.", "layers5c."),
        ("fc_fusion.", "fc_fuse."),
    ):
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


@pytest.mark.parametrize(
    ("model", "rename", "scheme"),
    [
        (
            "resnet18",
            lambda name: first_part(name, {k: f"base.{n}" for k, n in RESNET_CHILDREN.items()}),
            "deep-person-reid of 2018, ResNet",
        ),
        ("resnet50mid", mid_name, "deep-person-reid of 2018, ResNet-50 mid"),
        (
            "se_resnet50",
            lambda name: first_part(name, {f"layer{n}": f"base.{n}" for n in range(5)}),
            "deep-person-reid of 2018, SENet",
        ),
        (
            "resnet50_bnneck",
            lambda name: name.replace("bottleneck.", "heads.bottleneck.0.").replace(
                "classifier.weight", "heads.weight"
            ),
            "fast-reid's heads",
        ),
    ],
)
def test_names_of_other_programs(model, rename, scheme):
    """Every entry arrives; the values of a name tell where it came from."""
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in create_model(model, 3).state_dict().items()}
    values = {name: torch.full(shape, float(i)) for i, (name, shape) in enumerate(shapes.items())}
    model = create_model(model, 3)
    report = load_weights(model, {rename(name): value for name, value in values.items()})
    assert report.scheme == scheme
    assert report.missing == report.unexpected == report.misfits == ()
    assert f"names: {scheme}" in report.describe()
    for name, value in model.state_dict().items():
        assert torch.equal(value, values[name].to(value.dtype)), name


def test_old_names_of_a_densenet():
    class DenseNet(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.features = torch.nn.ModuleDict({"conv0": torch.nn.Conv2d(3, 4, 1)})
            self.classifier = torch.nn.Linear(4, 3)

    source, model = DenseNet().state_dict(), DenseNet()
    report = load_weights(model, {name.replace("features.", "base."): v for name, v in source.items()})
    assert report.scheme == "deep-person-reid of 2018, DenseNet"
    assert not report.missing
    assert torch.equal(model.features["conv0"].weight, source["features.conv0.weight"])


@pytest.mark.parametrize(
    ("name", "stem", "scheme"),
    [
        ("cc_resnet50", lambda model: model.backbone.layer0[0], "stem as layer0"),
        ("cal_resnet50", lambda model: model.base[0], "parts of a ResNet as numbers"),
        ("mdinet", lambda model: model.backbone.conv1, "as they are"),
        ("deen_regdb", lambda model: model.thermal_module.thermal.conv1, "a ResNet's"),
        ("naic_resnet50", lambda model: model.base.conv1, "as they are"),
    ],
)
def test_imagenet_weights_reach_every_part_of_a_resnet(name, stem, scheme):
    """Of torchvision, as downloaded; a stem that stays random would go unnoticed."""
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in ResNet(RESNET50).state_dict().items()}
    source = {key: torch.ones(shape) for key, shape in shapes.items()}
    source["fc.weight"] = torch.ones(1000, 2048)
    with torch.device("meta"):
        model = create_model(name, 3)
    stem(model).to_empty(device="cpu")
    report = load_weights(model, source)
    assert report.scheme == scheme
    assert stem(model).weight.eq(1).all()
    kept = {key.split(".")[0] for key in report.missing} - {"backbone"}
    backbone = [key for key in report.missing if key.startswith("backbone.") and "mdi" not in key]
    assert not backbone
    assert not kept & {"base", "base_resnet", "visible_module", "thermal_module"}
    assert len(report.unexpected) == (1 if name != "deen_regdb" else 1 + 60)  # its fourth stage


def test_safetensors(tmp_path):
    source = small(seed=1)
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    model = small()
    assert load_weights(model, tmp_path / "weights.safetensors").missing == ()
    assert torch.equal(model.fc[0].weight, source.fc[0].weight)


def test_half_precision_weights_become_the_models_dtype():
    model = small()
    load_weights(
        model, {k: v.half() if v.is_floating_point() else v for k, v in small(seed=1).state_dict().items()}
    )
    assert model.fc[0].weight.dtype == torch.float32


def test_nothing_fits_is_an_error_and_changes_nothing():
    model = small()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"load_weights: source: got 2 entries .* none fits .*right architecture"
    ):
        load_weights(model, {"conv1.conv.weight": torch.zeros(3, 3), "x": torch.zeros(1)})
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_no_state_dict_inside(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="without a state dict"):
        load_weights(small(), tmp_path / "x.pt")


def test_missing_file(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"load_weights: source: got .*gone\.pt, expected an existing file"
    ):
        load_weights(small(), tmp_path / "gone.pt")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("keep", [0, 10, 0.5])
def test_damaged_file(tmp_path, suffix, keep):
    path = tmp_path / f"weights{suffix}"
    state = small().state_dict()
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(ValueError, match="load_weights: source: got"):
        load_weights(small(), path)


def test_objects_in_a_file_are_refused_without_being_made(tmp_path):
    path = tmp_path / "objects.pt"
    torch.save({"state_dict": small().state_dict(), "args": argparse.Namespace(lr=1)}, path)
    with pytest.raises(ValueError, match="no file of plain tensors; nothing was run"):
        load_weights(small(), path)
