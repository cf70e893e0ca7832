# SPDX-License-Identifier: Apache-2.0
"""Training steps of `naic` against the numbers recorded from the original: the network hands the recorded features to
the losses, so that value and gradients of a whole step are the original's.
"""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastreid_ops.config import ConfigError, from_dict, validate
from fastreid_ops.data.manifest import Manifest
from fastreid_ops.engine.methods import naic
from fastreid_ops.engine.methods.context import Context
from fastreid_ops.layers.pcb_head import DynamicPCB
from fastreid_ops.models.naic import NAICNet

FOLDER = Path(__file__).parents[1] / "golden"


def _rule():
    spec = importlib.util.spec_from_file_location(
        "golden_rule", FOLDER / "deep_person_reid" / "golden_rule.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RULE = _rule()


def recorded(name):
    with np.load(FOLDER / "naic_and_cloth_changing" / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files if file[key].dtype.kind in "fi"}


def hashed(name, shape, scale=1.0):
    values = scale * RULE.noise(name, int(np.prod(shape)))
    return torch.from_numpy(values.reshape(shape).astype(np.float32))


class Identity(nn.Identity):
    """A backbone whose map is the picture."""

    def __init__(self, channels):
        super().__init__()
        self.out_channels = channels


def network(channels, classes, **options):
    net = NAICNet(Identity(channels), classes, **options)
    net.bottleneck.eval()  # its untrained statistics pass features on, up to a factor
    return net


def begin(net, classes, **loss):
    config = from_dict({"train": {"method": "naic"}, "loss": loss})
    rows = Manifest(Path(), ["a.jpg", "b.jpg"], [0, 1], [0, 0], ["train", "train"])
    criteria = naic.losses(Context(config, net, classes, rows)).to("cpu")
    return SimpleNamespace(config=config, model=net.train(False).train(), criteria=criteria)


def one_step(state, images, pids):
    state.model.bottleneck.eval()
    return naic.step(state, SimpleNamespace(images=images, pids=pids))


def as_map(features):
    return features[:, :, None, None].clone().requires_grad_()


@pytest.mark.parametrize(
    ("mining", "margin", "name"),
    [("weighted", None, "wtri_soft"), ("hard", None, "tri_soft"), ("hard", 0.3, "tri_hard0.3")],
)
def test_triplet_on_the_pooled_feature(mining, margin, name):
    want = recorded("naic_losses")
    images = as_map(hashed("tri_feat", (12, 16)))
    state = begin(network(16, 3), 3, cross_entropy=0.0, triplet=0.9, margin=margin, naic={"mining": mining})
    found = one_step(state, images, want["labels"])
    assert list(found) == ["triplet"]
    assert RULE.relative(found["triplet"].detach(), 0.9 * want[name]) < 1e-5
    found["triplet"].backward()
    assert RULE.relative(images.grad.flatten(1), 0.9 * want[f"{name}_d"]) < 2e-5


def test_centres_follow_the_unweighted_loss():
    want, weight = recorded("naic_losses"), 3e-4
    images = as_map(hashed("tri_feat", (12, 16)))
    state = begin(network(16, 5), 5, cross_entropy=0.0, triplet=0.0, naic={"center": weight})
    centers = state.criteria["center"].centers
    with torch.no_grad():
        centers.copy_(hashed("centers", (5, 16)))
    found = one_step(state, images, want["labels"])
    assert RULE.relative(found["center"].detach(), weight * want["center"]) < 1e-5
    found["center"].backward()
    assert RULE.relative(images.grad.flatten(1), want["center_dfeat_w"]) < 2e-5
    torch.optim.SGD([centers], lr=0.5).step()
    assert RULE.relative(centers.detach(), want["center_after"]) < 2e-5


@pytest.mark.parametrize(
    ("head", "scale", "margin"),
    [("arcface", 30.0, 0.4), ("cosface", 30.0, 0.4), ("amsoftmax", 30.0, 0.4), ("circle", 256.0, 0.25)],
)
def test_margin_heads_behind_the_neck(head, scale, margin):
    want, name = recorded("naic_heads"), f"{head}_s{scale:g}_m{margin}"
    images = as_map(hashed("head_feat", (6, 24), 2.0))
    own = {"head": head, "scale": scale, "margin": margin}
    state = begin(
        network(24, 7, classifier="none"), 7, triplet=0.0, cross_entropy=1.0, label_smoothing=0.0, naic=own
    )
    (weight,) = state.criteria["head"].parameters()
    rows = hashed("head_weight", (7, 24))
    with torch.no_grad():
        weight.copy_(rows if weight.shape == rows.shape else rows.T)
    found = one_step(state, images, want["labels"])
    assert RULE.relative(found["id"].detach(), want[f"{name}_ce"]) < 1e-5
    found["id"].backward()
    # Cosines do not see the neck's factor, so neither does the gradient at the picture.
    assert RULE.relative(images.grad.flatten(1), want[f"{name}_dfeat"]) < 3e-5
    gradient = weight.grad if weight.shape == rows.shape else weight.grad.T
    assert RULE.relative(gradient, want[f"{name}_dw"]) < 3e-5


def test_parts_of_the_original_step():
    want = recorded("pcb")
    net = network(64, 5, pcb=True)
    net.pcb = DynamicPCB(64, 5, features=32)
    RULE.fill(net.pcb, 2.0)
    images = (hashed("pcb_x_h16", (3, 64, 16, 8)) + 0.5).requires_grad_()
    state = begin(net, 5, cross_entropy=0.0, triplet=0.0)
    found = one_step(state, images, torch.tensor([0, 3, 4]))
    assert list(found) == ["parts"]
    assert RULE.relative(found["parts"].detach(), want["h16_train_losses"][7]) < 1e-5
    found["parts"].backward()
    assert RULE.relative(images.grad, want["h16_dx"]) < 1e-4


def test_total_of_the_preset_with_centres():
    """0.1 id + 0.9 triplet + 0.0003 centre, smoothed labels: each term by its own formula on the same output."""
    torch.manual_seed(0)
    net = network(16, 6, pcb=True)
    loss = {"cross_entropy": 0.1, "triplet": 0.9, "label_smoothing": 0.1, "margin": None}
    state = begin(net, 6, naic={"center": 3e-4}, **loss)
    images, pids = torch.rand(8, 16, 12, 4), torch.arange(8) // 2
    found = one_step(state, images, pids)
    assert list(found) == ["id", "triplet", "center", "parts"]
    output = net(images)
    logits, feature = output.logits[0], output.features[0]
    target = 0.9 * F.one_hot(pids, 6) + 0.1 / 6
    assert found["id"].item() == pytest.approx(
        0.1 * -(target * logits.log_softmax(1)).sum(1).mean().item(), rel=1e-5
    )
    rows = state.criteria["center"].centers[pids]
    assert found["center"].item() == pytest.approx(
        3e-4 * ((feature - rows) ** 2).sum(1).mean().item(), rel=1e-5
    )
    cross = [F.cross_entropy(output.auxiliary[f"part_logits_{i}"], pids).item() for i in range(6)]
    merge = F.cross_entropy(output.auxiliary["merge_logits"], pids).item()
    assert found["parts"].item() == pytest.approx(0.5 * sum(cross) / 6 + 0.5 * merge, rel=1e-5)
    sum(found.values()).backward()
    without = {name for name, p in net.named_parameters() if p.requires_grad and p.grad is None}
    assert without == set()


def test_half_precision_terms_are_float32():
    net = network(16, 4, classifier="none", pcb=True)
    state = begin(net, 4, naic={"head": "arcface", "center": 1e-3})
    with torch.autocast("cpu", torch.bfloat16):
        found = one_step(state, torch.rand(8, 16, 6, 3), torch.arange(8) // 2)
    assert {value.dtype for value in found.values()} == {torch.float32}


def test_refusals():
    with pytest.raises(
        ConfigError, match=r"classifier: got linear, expected none with loss\.naic\.head circle"
    ):
        begin(network(16, 4), 4, naic={"head": "circle"})
    with pytest.raises(
        ConfigError, match=r"classifier: got none, expected linear with loss\.naic\.head linear"
    ):
        begin(network(16, 4, classifier="none"), 4)
    with pytest.raises(
        ConfigError, match=r"model.name: got osnet_x0_25, expected one of the networks naic_\*"
    ):
        begin(nn.Linear(2, 2), 4)
    with pytest.raises(ConfigError, match=r"loss.naic.center: got -1.0, expected 0 or a number above"):
        validate(from_dict({"loss": {"naic": {"center": -1.0, "scale": 0.0}}}))
