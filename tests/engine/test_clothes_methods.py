# SPDX-License-Identifier: Apache-2.0
"""The methods on clothes labels against recorded numbers of the originals and against their loops in plain torch."""

import copy
import dataclasses
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
from fastreid_ops.engine.methods import cal, cloth_changing
from fastreid_ops.engine.methods.context import Context
from fastreid_ops.engine.optim import build_optimizer, optimizer_step
from fastreid_ops.engine.schedule import build_schedule
from fastreid_ops.engine.state import TrainState
from fastreid_ops.models import TrainOutput, create_model

GOLDEN = Path(__file__).parents[1] / "golden"
OWN = {"match": "criteria.clothes_classifier.*", "optimizer": "adam", "scheduled": False}


@pytest.fixture(scope="module")
def golden():
    """The module that fills networks and makes inputs from names."""
    spec = importlib.util.spec_from_file_location(
        "golden_rule", GOLDEN / "deep_person_reid" / "golden_rule.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def manifest(pairs):
    """A training set of one image for each (pid, clothes)."""
    pid, clothes = map(list, zip(*pairs, strict=True))
    n = len(pid)
    return Manifest(Path(), [f"{i}.jpg" for i in range(n)], pid, [0] * n, ["train"] * n, clothes=clothes)


def make_state(method, model, training, **sections):
    config = from_dict(
        {
            "optim": {
                "name": "sgd",
                "lr": 0.05,
                "momentum": 0.0,
                "groups": [OWN],
                **sections.pop("optim", {}),
            },
            "train": {"channels_last": False, **sections.pop("train", {})},
            "schedule": {"name": "constant", "warmup_epochs": 0},
            **sections,
        }
    )
    classes = len(training.label_map())
    criteria = method.losses(Context(config, model, classes, training))
    return TrainState(
        config=config,
        model=model,
        criteria=criteria,
        optimizer=build_optimizer({"model": model, "criteria": criteria}, config.optim),
        schedule=build_schedule(config.schedule, config.train.epochs),
        device=torch.device("cpu"),
        label_map=training.label_map(),
    )


def make_batch(images, pids, clothes):
    return SimpleNamespace(images=images, pids=pids, clothes=clothes)


def train_step(method, state, batch):
    state.schedule.apply(state.optimizer, 0.0)
    losses = method.step(state, batch)
    sum(losses.values()).backward()
    optimizer_step(state.optimizer, None, None)
    return {name: value.item() for name, value in losses.items()}


class Given(nn.Module):
    """Hands out one feature and one set of logits, whatever the images."""

    def __init__(self, feature, logits):
        super().__init__()
        self.feature, self.logits = nn.Parameter(feature), nn.Parameter(logits)
        self.feature_dim = feature.shape[1]

    def forward(self, images):
        return TrainOutput((self.logits,), (self.feature,))


@pytest.fixture(scope="module")
def recorded(golden):
    with np.load(GOLDEN / "naic_and_cloth_changing" / "cal_losses.npz") as file:
        want = {name: torch.from_numpy(np.atleast_1d(file[name])) for name in file.files}
    feature = torch.from_numpy((1.5 * golden.noise("cal_feat", 128)).reshape(8, 16).astype(np.float32))
    weight = torch.from_numpy(golden.noise("cal_w", 192).reshape(12, 16).astype(np.float32))
    return want, feature, weight


def recorded_state(recorded, lr, **clothes):
    want, feature, weight = recorded
    pairs = [
        (p, c) for p, row in enumerate(want["pid2clothes"].tolist()) for c, mine in enumerate(row) if mine
    ]
    model = Given(feature.clone(), want["cos"].clone())
    loss = {"triplet": 1.0, "label_smoothing": 0.1, "clothes": clothes}
    groups = [] if clothes.get("memory") else [{**OWN, "lr": lr}]
    state = make_state(cal, model, manifest(pairs), loss=loss, optim={"groups": groups, "weight_decay": 0.0})
    if groups:
        state.criteria["clothes_classifier"].weight.data.copy_(weight)
    return state, make_batch(None, want["pid"], want["clothes"])


@pytest.mark.parametrize(
    ("pairs", "key"),
    [
        ("triplet", "pair_triplet_cos_m0.3"),
        ("cosface", "pair_cosface"),
        ("circle", "pair_circle"),
        ("contrastive", "pair_contrastive"),
    ],
)
def test_cal_gives_the_recorded_losses(recorded, golden, pairs, key):
    want, feature, weight = recorded
    state, batch = recorded_state(recorded, 1e-20, pairs=pairs)
    losses = cal.step(state, batch)
    expected = {"pairs": key, "clothes": "cls_cosface_m0", "adversarial": "cal_s16_e0.1"}
    assert list(losses) == ["id", *expected]
    identity = F.cross_entropy(want["cos"], want["pid"], label_smoothing=0.1)
    assert golden.relative(losses["id"].detach(), identity) < 1e-5
    for name, recorded_as in expected.items():
        assert golden.relative(losses[name].detach(), want[recorded_as][0]) < 1e-5, name
    assert not losses["clothes"].requires_grad
    losses["adversarial"].backward()
    again = feature.clone().requires_grad_()
    (F.normalize(again) @ F.normalize(weight).T).backward(want["cal_s16_e0.1_grad"])
    assert golden.relative(state.model.feature.grad, again.grad) < 1e-4
    assert state.criteria["clothes_classifier"].weight.grad is None


def test_cal_with_a_bank_gives_the_recorded_loss(recorded, golden):
    want, _, _ = recorded
    state, batch = recorded_state(recorded, None, memory=True)
    losses = cal.step(state, batch)
    assert list(losses) == ["id", "pairs", "adversarial"]
    assert golden.relative(losses["adversarial"].detach(), want["calmem_step1"][0]) < 1e-5
    assert golden.relative(state.criteria["adversarial"].feature_memory, want["calmem_mem1"]) < 1e-5


class Small(nn.Module):
    feature_dim = 6

    def __init__(self):
        super().__init__()
        self.body, self.bn, self.classifier = nn.Linear(5, 6, bias=False), nn.BatchNorm1d(6), nn.Linear(6, 3)

    def forward(self, images):
        feature = self.bn(self.body(images))
        return TrainOutput((self.classifier(feature),), (feature,))


def adversarial(cosine, clothes, owner, pids, s, epsilon):
    """The published formula, row by row."""
    total = 0
    for row, label, pid in zip(s * cosine, clothes, pids, strict=True):
        mine = [k for k in range(len(owner)) if owner[k] == pid]
        others = sum(row[k].exp() for k in range(len(owner)) if owner[k] != pid)
        for k in mine:
            weight = epsilon / len(mine) + (1 - epsilon) * (k == label)
            total = total - weight * (row[k] - (row[k].exp() + others).log())
    return total / len(cosine)


def test_cal_is_the_originals_loop():
    """Two optimizers and two backward passes in the order of the source, three batches: weights agree."""
    torch.manual_seed(0)
    owner = [0, 0, 1, 2, 2, 2]
    state = make_state(
        cal,
        Small(),
        manifest([(p, c) for c, p in enumerate(owner)]),
        loss={"triplet": 0.0, "clothes": {"scale": 8.0, "epsilon": 0.2}},
        optim={"name": "adam", "lr": 0.01, "weight_decay": 0.0},
    )
    net, head = Small(), nn.Parameter(torch.empty(6, 6))
    net.load_state_dict(state.model.state_dict())
    head.data.copy_(state.criteria["clothes_classifier"].weight)
    first, second = torch.optim.Adam(net.parameters(), lr=0.01), torch.optim.Adam([head], lr=0.01)
    for turn in range(3):
        images, clothes = torch.randn(8, 5), torch.randint(6, (8,))
        pids = torch.tensor(owner)[clothes]
        got = train_step(cal, state, make_batch(images, pids, clothes))
        output = net(images)
        feature = output.features[0]
        cosine = F.normalize(feature.detach()) @ F.normalize(head).T
        own = F.cross_entropy(8 * cosine, clothes)
        second.zero_grad()
        own.backward()
        second.step()
        identity = F.cross_entropy(output.logits[0], pids, label_smoothing=0.1)
        against = adversarial(F.normalize(feature) @ F.normalize(head).T, clothes, owner, pids, 8.0, 0.2)
        first.zero_grad()
        (identity + against).backward()
        first.step()
        want = {"id": identity.item(), "clothes": own.item(), "adversarial": against.item()}
        assert got == pytest.approx(want, rel=1e-4), turn
    torch.testing.assert_close(state.criteria["clothes_classifier"].weight, head, rtol=1e-4, atol=1e-5)
    for (name, mine), its in zip(state.model.named_parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("memory", [False, True])
def test_cal_begins_with_its_epoch_and_comes_back(memory):
    def new():
        torch.manual_seed(1)
        optim = {"groups": [] if memory else [OWN]}
        clothes = {"from_epoch": 2, "memory": memory}
        pairs = [(p, c) for p in range(3) for c in range(2)]
        return make_state(
            cal, Small(), manifest(pairs), loss={"triplet": 0.0, "clothes": clothes}, optim=optim
        )

    def batch(number):
        generator = torch.Generator().manual_seed(number)
        clothes = torch.randint(6, (8,), generator=generator)
        return make_batch(torch.randn(8, 5, generator=generator), clothes // 2, clothes)

    state = new()
    before = {name: value.clone() for name, value in state.criteria.state_dict().items()}
    state.epoch = 1
    assert list(train_step(cal, state, batch(0))) == ["id"]
    assert all(torch.equal(before[name], value) for name, value in state.criteria.state_dict().items())
    state.epoch = 2
    assert list(train_step(cal, state, batch(1))) == ["id", *([] if memory else ["clothes"]), "adversarial"]
    assert any(not torch.equal(before[name], value) for name, value in state.criteria.state_dict().items())
    other = new()
    other.restore(copy.deepcopy(state.capture(0, {})))
    for number in (2, 3):
        assert train_step(cal, state, batch(number)) == train_step(cal, other, batch(number))
    for name, value in state.criteria.state_dict().items():
        assert torch.equal(value, other.criteria.state_dict()[name]), name
    for name, value in state.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name]), name


def test_the_classifier_steps_in_float32_under_mixed_precision():
    def step(amp):
        torch.manual_seed(2)
        pairs = manifest([(p, c) for p in range(3) for c in range(2)])
        state = make_state(cal, Small(), pairs, loss={"triplet": 0.0}, train={"amp": amp})
        clothes = torch.arange(6)
        with state.autocast():
            losses = cal.step(state, make_batch(torch.randn(6, 5), clothes // 2, clothes))
        return losses, state.criteria["clothes_classifier"].weight

    (exact, head), (half, same) = step("off"), step("bf16")
    assert {name: value.dtype for name, value in half.items()} == dict.fromkeys(exact, torch.float32)
    assert same.dtype == torch.float32
    for name, value in exact.items():
        assert half[name].item() == pytest.approx(value.item(), rel=0.03), name
    assert not torch.equal(head, same)  # the features were bfloat16
    torch.testing.assert_close(head, same, rtol=0.05, atol=0.01)


def batch_hard(features, pids, margin):
    total = 0
    for i in range(len(features)):
        apart = (features[i] - features).square().sum(1).clamp(min=1e-12).sqrt()
        total = total + F.relu(apart[pids == pids[i]].max() - apart[pids != pids[i]].min() + margin)
    return total / len(features)


def originals_step(net, clothes_net, first, second, images, pids, clothes):
    """The order of main/core/train.py, term by term."""
    feature_map = net.multi_scale(net.backbone(images))
    pooled = net.global_pool(feature_map).flatten(1)
    logits = net.global_classifier(net.global_bn_neck(pooled))
    terms = {
        "id": F.cross_entropy(logits, pids, label_smoothing=0.1),
        "triplet": batch_hard(pooled, pids, 0.3),
    }
    own = F.cross_entropy(clothes_net(feature_map.detach()), clothes)
    second.zero_grad()
    own.backward()
    second.step()
    with torch.no_grad():
        heat = torch.einsum("bc,bchw->bhw", list(clothes_net.parameters())[-1][clothes], feature_map).flatten(
            1
        )
        heat = heat - heat.amin(1, True)
        heat = (heat / (heat.amax(1, True) + 1e-6)).view(len(images), 1, *feature_map.shape[2:])
    worn = net.clothe_correction(feature_map, feature_map * heat)
    terms["correction"] = F.cross_entropy(clothes_net(worn), clothes, label_smoothing=0.1)
    rest = net.unclothe_pool(torch.clamp(feature_map - worn, min=0)).flatten(1)
    taught = net.unclothe_classifier(net.unclothe_bn_neck(rest))
    terms["unclothed_id"] = F.cross_entropy(taught, pids, label_smoothing=0.1)
    terms["unclothed_triplet"] = batch_hard(rest, pids, 0.3)
    student, teacher = F.log_softmax(logits / 4, 1), F.softmax(taught / 4, 1)
    terms["distillation"] = 0.1 * F.kl_div(student, teacher, reduction="batchmean")
    first.zero_grad()
    sum(terms.values()).backward()
    first.step()
    return {name: value.item() for name, value in {**terms, "clothes": own}.items()}


@pytest.fixture(scope="module")
def network(golden):
    return golden.fill(create_model("cc_resnet50_ibn_a", 2), 2.0)


def clothed_state(model, **loss):
    training = manifest([(p, c) for p in range(2) for c in range(2)])
    optim = {"lr": 1e-3, "weight_decay": 0.0, "groups": [{**OWN, "optimizer": "sgd", "lr": 1e-2}]}
    return make_state(cloth_changing, model, training, loss={"triplet": 1.0, **loss}, optim=optim)


def test_cloth_changing_is_the_originals_loop(network, golden):
    state = clothed_state(network.train())
    classifier = golden.fill(state.criteria["clothes_classifier"], 2.0).train()
    net, clothes_net = copy.deepcopy(network), copy.deepcopy(classifier)
    # SGD: Adam's first steps turn the rounding of a small gradient into a whole step.
    first = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=1e-3)
    second = torch.optim.SGD([p for p in clothes_net.parameters() if p.requires_grad], lr=1e-2)
    images, pids, clothes = golden.images(4, 64, 32), torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 2, 3])
    start = {name: value.clone() for name, value in net.state_dict().items()}
    batch = make_batch(images, pids, clothes)
    got = train_step(cloth_changing, state, batch)
    want = originals_step(net, clothes_net, first, second, images, pids, clothes)
    assert got == pytest.approx(want, rel=1e-4, abs=1e-6)
    mine, its = classifier.state_dict(), clothes_net.state_dict()
    for name in its:
        torch.testing.assert_close(mine[name], its[name], rtol=1e-3, atol=1e-5, msg=name)
    for (name, ours), theirs in zip(state.model.named_parameters(), net.parameters(), strict=True):
        moved = (theirs - start[name]).norm()
        assert (ours - theirs).norm() <= 0.02 * moved + 1e-6, name
    # The second step starts from weights that rounding has moved apart.
    got = train_step(cloth_changing, state, batch)
    want = originals_step(net, clothes_net, first, second, images, pids, clothes)
    assert got == pytest.approx(want, rel=2e-2, abs=1e-4)


def test_cloth_changing_terms_follow_weights_and_epoch(network, golden):
    images, pids, clothes = golden.images(4, 32, 16), torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 2, 3])
    batch = make_batch(images, pids, clothes)
    network.train()
    state = clothed_state(network, clothes={"from_epoch": 1})
    before = {name: value.clone() for name, value in state.criteria.state_dict().items()}
    assert list(cloth_changing.step(state, batch)) == ["id", "triplet"]
    assert all(torch.equal(value, before[name]) for name, value in state.criteria.state_dict().items())
    state.epoch = 1
    whole = cloth_changing.step(state, batch)
    assert list(whole)[:3] == ["clothes", "id", "triplet"]
    assert len(whole) == 7
    assert all(p.grad is None for p in state.criteria.parameters())
    weight = "clothes_classifier.global_classifier.classifier.weight"
    assert not torch.equal(state.criteria.state_dict()[weight], before[weight])
    bare = clothed_state(network, clothes={"correction": 0.0, "unclothed": 0.0, "distillation": 0.0})
    assert list(cloth_changing.step(bare, batch)) == ["clothes", "id", "triplet"]
    taught = clothed_state(network, clothes={"correction": 0.0, "unclothed": 0.0, "detach_teacher": True})
    network.zero_grad(set_to_none=True)
    cloth_changing.step(taught, batch)["distillation"].backward()
    assert network.unclothe_classifier.classifier.weight.grad is None
    assert network.global_classifier.classifier.weight.grad is not None


def smoothed(logits, labels, true, other):
    """Cross entropy against `true` for the label and `other` for every other class, row by row."""
    rows = torch.full_like(logits, other).scatter(1, labels[:, None], true)
    return -(rows * logits.log_softmax(1)).sum(1).mean().item()


def test_labels_are_smoothed_as_the_options_say(recorded, network, golden):
    """Over the others: over ids, and over the clothes of the correction; the classifier's own loss at its own rate."""
    loss = {"label_smoothing": 0.2, "smoothing": "others"}
    pairs, (want, feature, _) = manifest([(p, c) for p in range(3) for c in range(2)]), recorded
    state = make_state(cal, Given(feature.clone(), want["cos"].clone()), pairs, loss={"triplet": 0.0, **loss})
    state.epoch, state.config.loss.clothes.from_epoch = 0, 1
    found = cal.step(state, make_batch(None, want["pid"], None))
    ids = want["cos"].shape[1]
    assert found["id"].item() == pytest.approx(
        smoothed(want["cos"], want["pid"], 0.8, 0.2 / (ids - 1)), rel=1e-5
    )

    images, pids, clothes = golden.images(4, 32, 16), torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 2, 3])
    clothed = {"classifier_smoothing": 0.3, "unclothed": 0.0, "distillation": 0.0}
    state = clothed_state(network.train(), **loss, clothes=clothed)
    classifier = golden.fill(state.criteria["clothes_classifier"], 2.0).train()
    before = copy.deepcopy(classifier)
    found = cloth_changing.step(state, make_batch(images, pids, clothes))
    output = network(images, clothes, classifier)
    own = before(output.auxiliary["feature_map"].detach())
    assert found["clothes"].item() == pytest.approx(smoothed(own, clothes, 0.775, 0.075), rel=1e-4)
    after = output.auxiliary["correction_logits"]
    assert found["correction"].item() == pytest.approx(smoothed(after, clothes, 0.8, 0.2 / 3), rel=1e-4)
    assert found["id"].item() == pytest.approx(smoothed(output.logits[0], pids, 0.8, 0.2), rel=1e-4)


def refused(method, model, training, words, **sections):
    with pytest.raises((ConfigError, ValueError)) as error:
        make_state(method, model, training, **sections)
    assert words in str(error.value)


def test_what_cannot_be_is_refused_in_words(network):
    training = manifest([(0, 0), (1, 0)])
    bare = dataclasses.replace(training, clothes=None)
    refused(cal, Small(), bare, "data.dataset: got people, which has no column clothes")
    refused(cloth_changing, network, bare, "data.dataset: got people, which has no column clothes")
    refused(cloth_changing, Small(), training, "expected cc_resnet50 or cc_resnet50_ibn_a")
    refused(cal, nn.Linear(2, 2), training, "expected a network that knows its feature_dim")
    nothing = "optim.groups: got no group for the clothes classifier"
    refused(cal, Small(), training, nothing, optim={"groups": []})
    plain = [{"match": "criteria.*"}]
    refused(cal, Small(), training, "got 'criteria.*' without an optimizer", optim={"groups": plain})
    shared = [{"match": "*", "optimizer": "adam"}]
    state = make_state(cal, Small(), training, loss={"triplet": 0.0}, optim={"groups": shared})
    labels = torch.tensor([0, 1])
    with pytest.raises(
        ValueError, match=r"criteria\.clothes_classifier\.\*: got an optimizer that others share"
    ):
        cal.step(state, make_batch(torch.randn(2, 5), labels, labels))


@pytest.mark.parametrize(
    ("clothes", "words"),
    [
        ({"from_epoch": -1}, "loss.clothes.from_epoch: got -1, expected 0 or a number above"),
        ({"correction": -0.5}, "loss.clothes.correction: got -0.5"),
        ({"temperature": 0.0}, "loss.clothes.temperature: got 0.0, expected a number above 0"),
        ({"scale": -1.0}, "loss.clothes.scale: got -1.0, expected a number above 0"),
        ({"epsilon": 1.5}, "loss.clothes.epsilon: got 1.5, expected a number from 0 to 1"),
        (
            {"classifier_smoothing": 1.0},
            "loss.clothes.classifier_smoothing: got 1.0, expected a number from 0 to below 1",
        ),
        ({"momentum": 1.0}, "loss.clothes.momentum: got 1.0, expected a number from 0 to below 1"),
    ],
)
def test_values_out_of_range_are_refused(clothes, words):
    with pytest.raises(ConfigError) as error:
        validate(from_dict({"loss": {"clothes": clothes}}))
    assert words in str(error.value)
