# SPDX-License-Identifier: Apache-2.0
"""Foreign weights: what fits is copied, the rest is named, nothing is run and nothing fails in silence."""

from __future__ import annotations

import argparse

import pytest
import torch
from safetensors.torch import save_file

import fastreid_ops.models
from fastreid_ops.models import LoadReport, create_model, load_weights
from fastreid_ops.models.weights.report import Resized, Skipped, Used


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
    assert report.keymap == "as in the file, to backbone.*"
    assert all(pair.model == f"backbone.{pair.file}" for pair in report.used)
    assert set(report.unexpected) == {"fc.weight", "fc.bias"}
    assert all(name.startswith(("bottleneck", "classifier")) for name in report.missing)
    assert torch.equal(model.backbone.layer4[2].conv3.weight, source["layer4.2.conv3.weight"])


def test_prefix_of_bag_of_tricks_is_taken_off():
    source = {
        f"base.{k}": v for k, v in create_model("resnet50", 3).state_dict().items() if "classifier" not in k
    }
    report = load_weights(create_model("resnet50", 4), source)
    assert report.keymap == "base.* of NAIC and the bag of tricks"
    assert all(pair.file == f"base.{pair.model}" for pair in report.used)
    assert set(report.missing) == {"classifier.weight", "classifier.bias"}


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


def test_nothing_is_imported_for_it_before_it_is_asked_for():
    assert not {"LoadReport", "load_weights", "read_weights"} & vars(fastreid_ops.models).keys()
    assert fastreid_ops.models.load_weights is load_weights
    with pytest.raises(AttributeError, match="no attribute 'load_wieghts'"):
        _ = fastreid_ops.models.load_wieghts


def test_report_tells_every_entry_in_a_few_lines():
    report = LoadReport(
        keymap="fast-reid, to backbone.*",
        used=(Used("backbone.a", "backbone.a"), *(Used(f"b{i}", f"backbone.b{i}") for i in range(6))),
        skipped=(
            Skipped("heads.weight", "shape", "classifier.weight", (751, 8), (7, 8)),
            Skipped("pixel_mean", "no place"),
            Skipped("x", "complex numbers"),
        ),
        missing=("classifier.weight", "bn.num_batches_tracked", "bn2.num_batches_tracked"),
        resized=(Resized("pos_embed", "backbone.pos_embed", (14, 14), (16, 8)),),
        beside=("epoch", "optimizer"),
        notes=("take care",),
    )
    assert report.loaded == ("backbone.a", *(f"backbone.b{i}" for i in range(6)))
    assert len(report.renamed) == 6
    assert report.misfits == (("classifier.weight", (751, 8), (7, 8)),)
    assert report.unexpected == ("pixel_mean",)
    assert report.describe().splitlines() == [
        "loaded 7 of 10 entries, names: fast-reid, to backbone.*",
        "renamed 6: b0 -> backbone.b0, b1 -> backbone.b1, b2 -> backbone.b2, b3 -> backbone.b3 and 2 more",
        "resized: pos_embed, positions of 14 x 14 patches to 16 x 8",
        "left out for its shape: classifier.weight, file [751, 8], model [7, 8]",
        "left out: x, complex numbers",
        "kept as they were: classifier.weight",
        "kept as they were: 2 counters num_batches_tracked, which change no result",
        "of no use in the file: pixel_mean",
        "not looked at: epoch, optimizer",
        "note: take care",
    ]


def test_every_entry_of_a_file_is_accounted_for():
    state = small(751, seed=1).state_dict()
    del state["conv1.bn.num_batches_tracked"]
    file = {
        **{f"module.{key}": value for key, value in state.items()},
        "model.fc.0.bias": torch.zeros(512),
        "conv2.0.conv1.bn.weight": torch.zeros(4).to_sparse(),
        "fc.1.weight": torch.zeros(512, dtype=torch.complex64),
        "rank1": 0.5,
    }
    report = load_weights(small(), file)
    told = {pair.file for pair in report.used} | {s.file for s in report.skipped}
    assert told == file.keys() - {"module.conv2.0.conv1.bn.weight", "module.fc.1.weight"}
    reasons = {s.file: s.reason for s in report.skipped}
    assert reasons == {
        "module.classifier.weight": "shape",
        "module.classifier.bias": "shape",
        "model.fc.0.bias": "no place",
        "conv2.0.conv1.bn.weight": "no plain dense tensor",
        "fc.1.weight": "complex numbers",
        "rank1": "no tensor",
    }
    assert report.missing == (
        "conv1.bn.num_batches_tracked",
        "conv2.0.conv1.bn.weight",
        "fc.1.weight",
        *report.missing[3:],
    )
