# SPDX-License-Identifier: Apache-2.0
"""`python -m fastreid_ops.export`: from the weights of a run to a file that onnxruntime runs, and what is refused."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fastreid_ops import export, models, train
from fastreid_ops.engine.export import trained_model

TINY = Path(__file__).parents[1] / "faults" / "tiny.py"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    spec = importlib.util.spec_from_file_location("export_tiny", TINY)
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)
    sys.modules["export_tiny"] = tiny
    models.MODELS["tiny"] = "export_tiny:tiny"
    folder = tmp_path_factory.mktemp("export")
    csv = tiny.write_people(folder / "people")
    assert train.main(tiny.arguments(csv, folder / "run")) == 0
    yield folder / "run"
    del models.MODELS["tiny"], sys.modules["export_tiny"]


@pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="onnx, onnxscript or onnxruntime is not installed",
)
def test_a_run_becomes_a_file_with_all_that_its_user_must_know(run, tmp_path, capsys):
    import onnxruntime

    out = tmp_path / "model.onnx"
    assert export.main([str(run), str(out)]) == 0
    assert f"written: {out} (sha256 " in capsys.readouterr().out
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    notes = session.get_modelmeta().custom_metadata_map
    assert (notes["model"], notes["height"], notes["width"], notes["channels"]) == ("tiny", "16", "8", "RGB")
    assert len(json.loads(notes["mean"])) == len(json.loads(notes["std"])) == 3
    assert "format" not in notes
    model, _ = trained_model(run / "weights.safetensors")
    images = torch.randn(3, 3, 16, 8)
    (got,) = session.run(["features"], {"images": images.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(got), model.eval()(images), rtol=1e-4, atol=1e-5)
    assert export.main([str(run), str(out)]) == 1
    assert "which exists, expected a new file" in capsys.readouterr().err


def test_the_weights_are_those_of_the_run(run):
    model, known = trained_model(run / "weights.safetensors")
    assert known["model"] == "tiny"
    twin = models.create_model("tiny", 5)
    assert any(not torch.equal(v, twin.state_dict()[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--mode", "1"], "mode: got 1, expected None: the network has one modality"),
        (["--opset", "9"], "opset: got 9, expected 18 to 23"),
        (["--batch", "0"], "batch_size: got 0, expected an int of at least 1"),
    ],
)
def test_refused(run, tmp_path, capsys, monkeypatch, arguments, words):
    monkeypatch.setattr("fastreid_ops.engine.onnx._require", lambda *packages: None)
    assert export.main([str(run), str(tmp_path / "a.onnx"), *arguments]) == 1
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_weights_that_training_did_not_write(run, tmp_path, capsys):
    out = str(tmp_path / "a.onnx")
    assert export.main([str(tmp_path / "nowhere.safetensors"), out]) == 1
    assert "expected an existing file" in capsys.readouterr().err
    save_file({"a": torch.zeros(1)}, tmp_path / "plain.safetensors")
    assert export.main([str(tmp_path / "plain.safetensors"), out]) == 1
    assert (
        "without height, model, model_options, num_classes, width in its metadata" in capsys.readouterr().err
    )
    torch.save({"a": torch.zeros(1)}, tmp_path / "weights.pth")
    assert export.main([str(tmp_path / "weights.pth"), out]) == 1
    assert "expected a safetensors file" in capsys.readouterr().err


def test_weights_of_another_network(run, tmp_path, capsys):
    known = trained_model(run / "weights.safetensors")[1]
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors", metadata=known)
    assert export.main([str(tmp_path / "other.safetensors"), str(tmp_path / "a.onnx")]) == 1
    assert "of which a, body.0.bias, body.0.weight and tiny do not fit" in capsys.readouterr().err
