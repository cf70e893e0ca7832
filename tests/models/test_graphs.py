# SPDX-License-Identifier: Apache-2.0
"""Architectures as graphs: traced whole by torch.compile, written as ONNX and run by onnxruntime.

Every kind of network is here, each with two of its equal blocks: further sizes and widths of them trace alike, as do
the plain residual networks, which are what naic_resnet50 is without its pieces.
"""

from __future__ import annotations

import importlib.util

import pytest
import torch
from model_cases import assert_near, make, random_images, settle, shortened

from fastreid_ops.engine.onnx import export_onnx, takes_mode

# Name -> options beside those that the tests of this model always have.
GRAPHS = {
    "agw": {},
    "cal_resnet50": {},
    "cc_resnet50": {},
    "deen_regdb": {},
    "embednet": {},
    "hacnn": {},
    "mdinet": {},
    "naic_resnet50": {"pcb": True},
    "osnet_x0_25": {},
    "shufflenet": {},
    "squeezenet1_0": {},
    "vit_small_patch16_224": {},
}
# Not written here, for the time it takes.
TRACED_ONLY = {"agw", "cal_resnet50"}
ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))


@pytest.fixture(scope="module")
def case(name):
    """Model in evaluation mode, images, what it is called with beside them, features."""
    model, images = shortened(make(name, **GRAPHS[name])), random_images(name)
    settle(model, images)
    model.eval()
    mode = {"mode": 2} if takes_mode(model) else {}
    with torch.no_grad():
        return model, images, mode, model(images, **mode)


@pytest.mark.parametrize("name", GRAPHS, scope="module")
def test_compiled_whole_gives_the_same_features(case):
    model, images, mode, features = case
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        assert_near(compiled(images, **mode), features, 1e-4)


@pytest.mark.skipif(not ONNX, reason="onnx, onnxscript or onnxruntime is not installed")
@pytest.mark.parametrize("name", [name for name in GRAPHS if name not in TRACED_ONLY], scope="module")
def test_onnxruntime_gives_the_same_features(case, tmp_path):
    import onnxruntime

    model, images, mode, features = case
    export_onnx(model, tmp_path / "model.onnx", tuple(images.shape[2:]), **mode)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (got,) = session.run(["features"], {"images": images.numpy()})
    assert_near(torch.from_numpy(got), features, 1e-3)
