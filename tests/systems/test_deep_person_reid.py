# SPDX-License-Identifier: Apache-2.0
"""deep-person-reid: its training step, its whole schedule beside torchreid's own engine, its recipes on files in the
layouts of the real data sets, and that it learns."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import importlib.util
import json
import sys
import types
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import deep_person_reid_trees as trees
import pytest
import torch
from torch import nn

from fastreid_ops import train
from fastreid_ops.config import ConfigError, from_dict
from fastreid_ops.data.datasets import read_dataset
from fastreid_ops.data.images import BadImagePolicy
from fastreid_ops.data.manifest import Manifest
from fastreid_ops.engine import run, setup
from fastreid_ops.engine.log import Log, Metrics, Progress
from fastreid_ops.engine.loop import Tools, forward_backward, train_epoch
from fastreid_ops.engine.methods import identity
from fastreid_ops.engine.run_folder import RunFolder
from fastreid_ops.engine.state import seed_everything
from fastreid_ops.models import TrainOutput

CPU = torch.device("cpu")
GOLDEN = Path(__file__).parents[1] / "golden" / "deep_person_reid"


class Batch(NamedTuple):
    images: torch.Tensor
    pids: torch.Tensor
    paths: list


def made_state(classes: int = 4, **sections):
    config = from_dict({"train": {"channels_last": False}, **sections})
    seed_everything(0)
    return setup.build_state(config, None, {pid: pid for pid in range(classes)}, CPU, print)


@pytest.fixture(scope="module")
def golden():
    spec = importlib.util.spec_from_file_location("golden_rule", GOLDEN / "golden_rule.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["osnet_x0_25", "hacnn"])
def test_training_step_golden(name, golden):
    want = golden.read(f"trainstep_{name}")
    meta = want["meta"]
    state = made_state(
        meta["num_classes"], model={"name": name}, loss={"triplet": 1.0, "label_smoothing": 0.1}
    )
    golden.fill(state.model, meta["gain"])
    state.model.train()
    batch = Batch(golden.images(meta["batch"], *meta["size"]), torch.tensor(meta["labels"]), [])
    tools = Tools(None, identity.step, None, None, None, None, None)
    losses = forward_backward(state, tools, batch, 1)
    assert losses["id"].item() == pytest.approx(want["loss_x"].item(), rel=1e-4)
    assert losses["triplet"].item() == pytest.approx(want["loss_t"].item(), rel=1e-4)
    buffers = state.model.state_dict()
    for key in ("bn_first", "bn_last"):
        assert golden.relative(buffers[meta[key]], want[key]) < 1e-3


class Batches:
    """Two batches an epoch of 4 people x 2 pictures, the same for both engines."""

    def __init__(self, epochs: int) -> None:
        draw = torch.Generator().manual_seed(5)
        pids = torch.arange(4).repeat_interleave(2)
        looks = torch.randn(4, 3, 16, 8, generator=draw)
        self.epochs = [
            [Batch(looks[pids] + 0.2 * torch.randn(8, 3, 16, 8, generator=draw), pids, []) for _ in range(2)]
            for _ in range(epochs)
        ]

    def len_epoch(self, epoch: int) -> int:
        return len(self.epochs[epoch])

    def iterate(self, epoch: int, start: int = 0):
        return iter(self.epochs[epoch][start:])


@pytest.fixture
def torchreid(monkeypatch):
    """torchreid's engines, losses and optimizers, without the parts of it that need OpenCV and TensorBoard."""
    spec = importlib.util.find_spec("torchreid")
    if spec is None:
        pytest.skip("torchreid is not installed")
    base = Path(spec.submodule_search_locations[0])

    def stub(name, path=None, **values):
        module = types.ModuleType(name)
        if path is not None:
            module.__path__ = [str(base / path)]
        for key, value in values.items():
            setattr(module, key, value)
        monkeypatch.setitem(sys.modules, name, module)
        return module

    for name in [name for name in sys.modules if name.split(".")[0] == "torchreid"]:
        monkeypatch.delitem(sys.modules, name)
    stub("torchreid", "")
    stub("torchreid.reid", "reid")
    utils = stub("torchreid.reid.utils", "reid/utils", re_ranking=None, visualize_ranked_results=None)
    accuracy = stub("torchreid.reid.metrics", "reid/metrics")
    accuracy.accuracy = importlib.import_module("torchreid.reid.metrics.accuracy").accuracy
    stub("torch.utils.tensorboard", SummaryWriter=None)
    for part in ("avgmeter", "torchtools"):
        module = importlib.import_module(f"torchreid.reid.utils.{part}")
        vars(utils).update({key: value for key, value in vars(module).items() if not key.startswith("__")})
    stub("torchreid.reid.engine", "reid/engine")
    engine = importlib.import_module("torchreid.reid.engine.engine")
    sys.modules["torchreid.reid.engine"].Engine = engine.Engine
    stub("torchreid.reid.engine.image", "reid/engine/image")
    triplet = importlib.import_module("torchreid.reid.engine.image.triplet")
    yield types.SimpleNamespace(
        engine=triplet.ImageTripletEngine, optim=importlib.import_module("torchreid.reid.optim")
    )
    for name in [name for name in sys.modules if name.split(".")[0] == "torchreid"]:
        sys.modules.pop(name)


class Shallow(nn.Module):
    def __init__(self, name: str, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.classifier = nn.Linear(8, classes)

    def forward(self, images):
        feature = self.norm(self.conv(images)).relu().mean((2, 3))
        return TrainOutput((self.classifier(feature),), (feature,)) if self.training else feature


def theirs_from(model):
    """The same network, returning what torchreid's do."""

    class Theirs(type(model)):
        def forward(self, images):
            output = super().forward(images)
            return output.logits[0], output.features[0]

    copied = copy.deepcopy(model)
    copied.__class__ = Theirs
    return copied


@pytest.mark.parametrize("name", ["sgd", "rmsprop", "amsgrad", "radam"])
def test_epochs_beside_torchreid(name, torchreid, monkeypatch, tmp_path):
    """Four epochs: the classifier alone in the first, a tenth of the rate for everything else, a step after the third.

    A shallow network on people that are easy to tell apart: in a deep one hardest examples that change places turn
    rounding into another course within a few steps. What each tensor moved by is compared, so that a wrong rate
    of any group shows.
    """
    epochs, lr = 4, {"sgd": 0.02, "rmsprop": 1e-4, "radam": 0.1}.get(name, 1e-3)
    staged = [{"match": "model.classifier.*"}, {"match": "model.*", "lr_factor": 0.1}]
    monkeypatch.setattr(setup, "create_model", Shallow)
    state = made_state(
        optim={"name": name, "lr": lr, "groups": staged},
        loss={"triplet": 1.0},
        schedule={"name": "multistep", "warmup_epochs": 0, "milestones": [3], "per_epoch": True},
        train={
            "channels_last": False,
            "epochs": epochs,
            "fixed_base_epochs": 1,
            "open_layers": ["classifier"],
        },
    )
    before = copy.deepcopy(state.model.state_dict())
    theirs = theirs_from(state.model)
    batches = Batches(epochs)
    optimizer = torchreid.optim.build_optimizer(
        theirs, name, lr, staged_lr=True, new_layers=["classifier"], base_lr_mult=0.1, adam_beta2=0.999
    )
    scheduler = torchreid.optim.build_lr_scheduler(optimizer, "multi_step", [3], 0.1)
    manager = types.SimpleNamespace(train_loader=None, test_loader=None, num_train_pids=4)
    engine = torchreid.engine(manager, theirs, optimizer, scheduler=scheduler, use_gpu=False)
    recorded, step = [], engine.forward_backward
    engine.forward_backward = lambda data: recorded.append(step(data)) or recorded[-1]
    engine.max_epoch = epochs

    metrics, log = Metrics(tmp_path / "metrics.jsonl", None), Log(tmp_path / "log.txt")
    tools = Tools(batches, identity.step, None, None, metrics, log, lambda: None)
    progress = Progress(log, epochs, 0.0)
    for epoch in range(epochs):
        engine.epoch = epoch
        engine.train_loader = [{"img": b.images, "pid": b.pids} for b in batches.epochs[epoch]]
        engine.train(print_freq=1000, fixbase_epoch=1, open_layers="classifier")
        train_epoch(state, tools, progress)
        state.epoch, state.batch = epoch + 1, 0
        found, wanted = state.model.state_dict(), theirs.state_dict()
        for key, start in before.items():
            moved = (wanted[key] - start).double()
            assert bool(moved.any()) == (epoch > 0 or key.startswith("classifier")), key
            gap = (found[key] - wanted[key]).double().norm() / moved.norm().clamp(min=1e-12)
            assert gap < 1e-3, f"{key} after epoch {epoch + 1}: {gap}"
    for each in (progress, metrics, log):
        each.close()
    ours = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(ours) == len(recorded) == 2 * epochs
    for mine, their in zip(ours, recorded, strict=True):
        assert mine["losses"]["id"] == pytest.approx(their["loss_x"], rel=1e-4)
        assert mine["losses"]["triplet"] == pytest.approx(their["loss_t"], rel=1e-4)


MARKET = (trees.market1501,)
RECIPES = {
    "market1501_resnet50_xent": MARKET,
    "market1501_resnet50_xent_htri": MARKET,
    "market1501_hacnn_xent": MARKET,
    "market1501_mudeep_xent_htri": MARKET,
    "market1501_osnet_x1_0": MARKET,
    "market1501_osnet_ain_x1_0": MARKET,
    "msmt17_combined_osnet_x1_0": (trees.market1501, trees.msmt17),
    "multi_source_osnet_ain_x1_0": (trees.market1501, trees.msmt17, trees.dukemtmcreid, trees.cuhk03),
    "mars_resnet50_xent": (trees.mars,),
    "mars_resnet50_xent_htri": (trees.mars,),
}


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_recipe_dry_run(recipe, tmp_path, monkeypatch, capsys):
    for build in RECIPES[recipe]:
        build(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    argv = ["--config", recipe, "--dry_run", "--data.batch_size", "8", "--data.workers", "0"]
    if "resnet50" in recipe:  # half the size a side, a quarter of the time
        argv += ["--data.height", "128", "--data.width", "64"]
    assert train.main([*argv, "--run.device", "cpu", "--run.threads", "1"]) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "dry run: one step of one batch" in said
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_fifteen_frames_evenly(tmp_path):
    """As VideoDataset of torchreid takes them, and again from the manifest that a run keeps of them."""
    trees.mars(tmp_path / "data")
    config = from_dict({"eval": {"sets": [{"name": "mars", "protocol": "mars", "frames": 15}]}})
    item, whole = config.eval.sets[0], read_dataset("mars", tmp_path / "data")
    data = setup.eval_data(item, whole, config, BadImagePolicy())
    assert Counter(data.query.tracklet) == dict.fromkeys(data.query.tracklet, 15)
    assert data.query.frame[:15] == list(range(15))  # of 20: every 20 // 15 = 1st of the first 15
    short = [
        frame for frame, camera in zip(data.gallery.frame, data.gallery.camid, strict=True) if camera == 1
    ]
    assert short[:15] == [0, 1] + 13 * [2]  # of 3: all, and the last one again
    run._write_manifests(RunFolder(tmp_path), [data], Log(None))
    kept = Manifest.read_csv(tmp_path / "manifests/mars.csv")
    again = setup.eval_data(item, kept, config, BadImagePolicy())
    for side in ("query", "gallery"):
        ours, before = getattr(again, side), getattr(data, side)
        assert ours.frame == before.frame
        assert [ours.file(i) for i in range(len(ours))] == [before.file(i) for i in range(len(before))]
    bare = from_dict({"eval": {"sets": [{"name": "a", "frames": 15}]}}).eval.sets[0]
    with pytest.raises(ConfigError, match=r"eval.sets: a: frames: got 15 of a set without tracklets"):
        setup.eval_data(bare, dataclasses.replace(whole, tracklet=None), config, BadImagePolicy())


IMAGES = "{train_ids: 20, test_ids: 16, images_per_camera: 3}"
TRACKLETS = "{train_ids: 16, test_ids: 12, images_per_camera: 2, like: mars, tracklet_length: 3}"


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Rendered once for both recipes that use them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTREID_OPS_CACHE", str(tmp_path_factory.mktemp("people")))
        yield


@pytest.mark.parametrize(
    ("recipe", "options", "epochs", "protocol"),
    [
        ("market1501_resnet50_xent", IMAGES, 8, "{name: test}"),
        ("market1501_resnet50_xent_htri", IMAGES, 8, "{name: test}"),
        ("mars_resnet50_xent", TRACKLETS, 6, "{name: test, protocol: mars, frames: 2}"),
        ("mars_resnet50_xent_htri", TRACKLETS, 6, "{name: test, protocol: mars, frames: 2}"),
    ],
)
def test_learns(recipe, options, epochs, protocol, people, tmp_path):
    """Each of the four scripts on small pictures of procedural people with the smallest OSNet: the loss falls, and
    people who were not trained on are found far better than by the network before its first step."""
    overrides = {
        "data.dataset": "people",
        "data.root": "null",
        "data.options": options,
        "data.workers": 0,
        "data.height": 64,
        "data.width": 32,
        "data.cache_images": "true",
        "model.name": "osnet_x0_25",
        "train.epochs": epochs,
        "schedule.milestones": f"[{epochs - 2}]",
        "optim.lr": 3e-3,
        "eval.every": 0,
        "eval.hsv_stripes": "false",
        "eval.sets": f"[{protocol}]",
        "run.folder": tmp_path / "run",
        "run.threads": 1,
        "run.device": "cpu",
        "run.report": "false",
        "run.log_every": 1,
        "run.checkpoint_every_epochs": 100,
    }
    argv = [word for key, value in overrides.items() for word in (f"--{key}", str(value))]
    assert train.main(["--config", recipe, *argv]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    losses = {epoch: [x["loss"] for x in lines if x["kind"] == "train" and x["epoch"] == epoch]
              for epoch in (0, epochs - 1)}  # fmt: skip
    first, last = (sum(values) / len(values) for values in losses.values())
    assert last < 0.7 * first
    rows = json.loads((tmp_path / "run/results/table.json").read_text())["rows"]
    before, after = (next(row for row in rows if row["system"] == name) for name in ("untrained", "trained"))
    assert after["mAP"] > before["mAP"] + 0.1, (before, after)
    assert after["rank1"] > before["rank1"]
