# SPDX-License-Identifier: Apache-2.0
"""The cloth-changing method against its original's loop in plain torch; what methods on clothes labels refuse."""

import copy
import dataclasses

import pytest
import torch
from clothes_support import OWN, Given, Small, make_batch, make_state, manifest, train_step
from torch import nn
from torch.nn import functional as F

from fastreid_ops.config import ConfigError, from_dict, validate
from fastreid_ops.engine.methods import cal, cloth_changing
from fastreid_ops.models import create_model


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


def test_labels_are_smoothed_as_the_options_say(network, golden):
    """Over the others: over ids, and over the clothes of the correction; the classifier's own loss at its own rate."""
    loss = {"label_smoothing": 0.2, "smoothing": "others"}
    logits, pids = torch.randn(6, 5), torch.tensor([0, 4, 2, 2, 1, 3])
    alone = {"triplet": 0.0, "clothes": {"adversarial": 0.0}, **loss}
    given, rows = Given(torch.randn(6, 4), logits), manifest([(0, 0), (1, 1)])
    state = make_state(cal, given, rows, loss=alone, optim={"groups": []})
    (found,) = cal.step(state, make_batch(None, pids, None)).values()
    assert found.item() == pytest.approx(smoothed(logits, pids, 0.8, 0.05), rel=1e-5)

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
