# SPDX-License-Identifier: Apache-2.0
"""`export_onnx`: what is in the file, and everything that is refused, with a network that exports in a second."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import nn

from fastreid_ops.engine import onnx as module
from fastreid_ops.engine.onnx import ExportError, export_onnx
from fastreid_ops.models.output import TrainOutput

installed = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="onnx, onnxscript or onnxruntime is not installed",
)
SIZE = (16, 8)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 6, 3, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.classifier = nn.Linear(6, 4)

    def forward(self, images):
        feature = self.norm(self.conv(images)).relu().mean((2, 3))
        return TrainOutput((self.classifier(feature),), (feature,)) if self.training else feature


class TwoModalities(Network):
    def forward(self, images, mode=0):
        return super().forward(images) * (1.0 if mode == 1 else 2.0)


class OtherWhenExported(Network):
    """What the comparison is for: a graph that is not what torch computes."""

    def forward(self, images):
        return super().forward(images) * (1.01 if torch.onnx.is_in_onnx_export() else 1.0)


class Untranslatable(Network):
    def forward(self, images):
        return super().forward(torch.special.bessel_j0(images))


class ForTwoImages(Network):
    def forward(self, images):
        return super().forward(images) * float(len(images))


def run(path, images):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["features"], {"images": images.numpy()})[0])


@installed
def test_any_batch_gives_the_features_of_evaluation_mode_and_the_network_stays_as_it_is(tmp_path):
    model = Network().train()
    model.norm.running_mean += 0.3
    before = {key: value.clone() for key, value in model.state_dict().items()}
    written = export_onnx(model, tmp_path / "a.onnx", SIZE)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    assert written.path == tmp_path / "a.onnx"
    assert 0 <= written.difference < 1e-5
    images = torch.randn(5, 3, *SIZE)
    with torch.no_grad():
        torch.testing.assert_close(run(written.path, images), model.eval()(images), rtol=1e-4, atol=1e-5)


@installed
def test_the_file(tmp_path):
    """Names, shapes, operator set, metadata, no trace of the machine that wrote it, the same bytes again."""
    import onnx

    notes = {"mean": "[0.5, 0.4, 0.3]", "model": "network"}
    first = export_onnx(Network(), tmp_path / "a.onnx", SIZE, batch_size=2, opset=18, metadata=notes)
    again = export_onnx(Network(), tmp_path / "b.onnx", SIZE, batch_size=2, opset=18, metadata=notes)
    assert first.sha256 == again.sha256
    assert first.path.read_bytes() == again.path.read_bytes()
    proto = onnx.load(first.path)
    onnx.checker.check_model(proto, full_check=True)
    (taken,), (given,) = proto.graph.input, proto.graph.output
    assert (taken.name, given.name) == ("images", "features")
    assert [d.dim_value for d in taken.type.tensor_type.shape.dim] == [2, 3, *SIZE]
    assert [d.dim_value for d in given.type.tensor_type.shape.dim] == [2, 6]
    assert [(o.domain, o.version) for o in proto.opset_import] == [("", 18)]
    assert {p.key: p.value for p in proto.metadata_props} == notes
    assert "conv.weight" in {i.name for i in proto.graph.initializer}
    assert b".py" not in first.path.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.onnx", "b.onnx"]


@installed
def test_one_file_for_each_modality(tmp_path):
    images = torch.randn(3, 3, *SIZE)
    features = [
        run(export_onnx(TwoModalities(), tmp_path / f"{mode}.onnx", SIZE, mode=mode).path, images)
        for mode in (1, 2)
    ]
    torch.testing.assert_close(2 * features[0], features[1])


@installed
@pytest.mark.parametrize(
    ("model", "words"),
    [
        (OtherWhenExported, r"differ from torch's by 9\.9.e-03|differ from torch's by 1\.00e-02"),
        (Untranslatable, "Untranslatable, which torch.onnx does not translate"),
        (ForTwoImages, "holds for batches of 2 only"),
    ],
)
def test_no_file_where_it_would_be_wrong(tmp_path, model, words):
    with pytest.raises(ExportError, match=words):
        export_onnx(model(), tmp_path / "a.onnx", SIZE)
    assert not list(tmp_path.iterdir())


@installed
def test_features_that_are_no_numbers(tmp_path):
    model = Network()
    model.conv.weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(ExportError, match=r"features from nan to nan .* expected finite ones"):
        export_onnx(model, tmp_path / "a.onnx", SIZE)


@installed
def test_the_networks_own_words_on_sizes_come_first(tmp_path):
    with pytest.raises(RuntimeError, match="Kernel size can't be greater than actual input size"):
        export_onnx(Network(), tmp_path / "a.onnx", (2, 2))


def test_missing_packages_are_named_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ImportError, match=r"got no onnx, no onnxscript, no onnxruntime.*'fastreid-ops\[export\]'"
    ):
        export_onnx(Network(), tmp_path / "a.onnx", SIZE)
    with pytest.raises(ImportError, match="got no onnx, no onnxscript, expected"):
        export_onnx(Network(), tmp_path / "a.onnx", SIZE, verify=False)


def test_nothing_is_overwritten(tmp_path):
    path = tmp_path / "a.onnx"
    path.write_bytes(b"mine")
    with pytest.raises(
        FileExistsError, match=r"export_onnx: path: got .*a.onnx, which exists, expected a new"
    ):
        export_onnx(Network(), path, SIZE)
    assert path.read_bytes() == b"mine"
    with pytest.raises(FileNotFoundError, match=r"export_onnx: path: got .* expected an existing folder"):
        export_onnx(Network(), tmp_path / "nowhere" / "a.onnx", SIZE)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"image_size": 16}, TypeError, "image_size: got 16, expected height and width"),
        ({"image_size": (16, 0)}, ValueError, "image_size: got 0, expected an int of at least 1"),
        ({"batch_size": 0}, ValueError, "batch_size: got 0"),
        ({"opset": 17}, ValueError, "opset: got 17, expected 18 to 23"),
        ({"tolerance": 0}, ValueError, "tolerance: got 0, expected a number above 0"),
        ({"tolerance": "1"}, TypeError, "tolerance: got str"),
        ({"metadata": {"height": 16}}, TypeError, "metadata: got int in 'height', expected text"),
    ],
)
def test_bad_arguments(tmp_path, changes, error, words):
    with pytest.raises(error, match=f"export_onnx: {words}"):
        export_onnx(Network(), tmp_path / "a.onnx", **{"image_size": SIZE, **changes})


@pytest.mark.parametrize(
    ("model", "mode", "error", "words"),
    [
        (Network, 1, ValueError, "mode: got 1, expected None: the network has one modality"),
        (TwoModalities, None, ValueError, "mode: got None, expected 1"),
        (TwoModalities, 0, ValueError, r"mode: got 0, expected 1 \(visible\) or 2 \(infrared\)"),
        (lambda: Network().bfloat16(), None, TypeError, "model: got weights of bfloat16, expected float32"),
        (lambda: "osnet", None, TypeError, "model: got str, expected an nn.Module"),
    ],
)
def test_networks_that_are_refused(tmp_path, monkeypatch, model, mode, error, words):
    monkeypatch.setattr(module, "_require", lambda *packages: None)
    with pytest.raises(error, match=f"export_onnx: {words}"):
        export_onnx(model(), tmp_path / "a.onnx", SIZE, mode=mode)


def test_more_weights_than_one_file_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_require", lambda *packages: None)
    monkeypatch.setattr(module, "MOST_BYTES", 100)
    with pytest.raises(ValueError, match=r"model: got \d+ bytes of weights, expected at most 100"):
        export_onnx(Network(), tmp_path / "a.onnx", SIZE)
