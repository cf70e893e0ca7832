# SPDX-License-Identifier: Apache-2.0
"""The methods for visible and infrared images against their formulas written out, and DEEN against what its public
code gave for the same weights and images."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fastreid_ops.config import ConfigError, from_dict
from fastreid_ops.config.check import validate
from fastreid_ops.engine import setup
from fastreid_ops.engine.methods import agw, deen, wrim
from fastreid_ops.engine.methods.context import Context
from fastreid_ops.models import TrainOutput, create_model

GOLDEN = Path(__file__).parents[1] / "golden" / "visible_infrared" / "golden_rule.py"
PIDS = torch.tensor([0, 0, 2, 2, 1, 1] * 2)  # three people, two images of each in both halves
SMALL = {"image_size": [32, 32], "dim": 24, "depth": 4, "num_heads": 4, "dropout": 0.0}


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Fixed(nn.Module):
    """A network of two modalities whose output is given."""

    def __init__(self, output, groups=1):
        super().__init__()
        self.output, self.groups = output, groups
        self.b1_head = nn.ModuleDict({"con_head": nn.Identity()})

    def forward(self, images, mode=0):
        return self.output


def losses_of(method, name, model, images=None, pids=PIDS, options=None, cross_modal=None, **loss):
    """The weighted losses of a step as floats, with the terms off that are not named."""
    values = {"triplet": 0.0, "cross_entropy": 0.0, **loss, "cross_modal": cross_modal or {}}
    values = {"loss": values, "train": {"method": name}, "data": {"sampler": "paired"}}
    config = from_dict({**values, "model": {"options": options or {}}})
    criteria = method.losses(Context(config, model, 5, None))
    state = SimpleNamespace(config=config, model=model, criteria=criteria)
    return {k: v.item() for k, v in method.step(state, SimpleNamespace(images=images, pids=pids)).items()}


# The formulas, term by term.


def cross_entropy(logits, labels, smoothing=0.0):
    """`smoothing` is shared by the other classes."""
    total = 0.0
    for row, label in zip(logits.double().tolist(), labels.tolist(), strict=True):
        norm = math.log(sum(math.exp(v) for v in row))
        for k, value in enumerate(row):
            share = 1 - smoothing if k == label else smoothing / (len(row) - 1)
            total += share * (norm - value)
    return total / len(logits)


def distance(a, b):
    return math.dist(a.tolist(), b.tolist())


def batch_hard(features, labels, margin=0.3):
    terms = []
    for x, y in zip(features, labels, strict=True):
        to = [(distance(x, other), bool(y == label)) for other, label in zip(features, labels, strict=True)]
        positive, negative = max(d for d, same in to if same), min(d for d, same in to if not same)
        terms.append(max(0.0, positive - negative + margin))
    return sum(terms) / len(terms)


def cmkic(rows, labels, k, temperature):
    rows = nn.functional.normalize(rows.double(), dim=1)
    half, total = len(rows) // 2, 0.0
    for own, other in ((slice(0, half), slice(half, None)), (slice(half, None), slice(0, half))):
        for z, y in zip(rows[own], labels[own], strict=True):
            s = [
                (float(z @ r) / temperature, bool(y == label))
                for r, label in zip(rows[other], labels[other], strict=True)
            ]
            negatives = sum(math.exp(v) for v, same in s if not same)
            keys = sorted(v for v, same in s if same)[:k]
            total += sum(math.log(math.exp(v) + negatives) - v for v in keys) / len(keys) / half
    return total


def cpm(original, generated, labels, margin=0.2):
    half, ids = len(labels) // 2, sorted(set(labels.tolist()))
    halves = (slice(0, half), slice(half, None))
    centre = {
        (name, side): {i: x[halves[side]][labels[halves[side]] == i].mean(0) for i in ids}
        for name, x in (("own", original.double()), ("new", generated.double()))
        for side in (0, 1)
    }
    total = 0.0
    for side in (0, 1):
        own, new, other = centre["own", side], centre["new", side], centre["own", 1 - side]
        for i in ids:
            across = distance(other[i], new[i])
            near = [min(distance(c[i], c[k]) for k in ids if k != i) for c in (new, own)]
            hinges = [max(0.0, across - d + margin) for d in (distance(own[i], new[i]), *near)]
            total += (hinges[0] + (hinges[1] + hinges[2]) / 2) / len(ids) / 2
    return total


def contrast(rows, labels, temperature):
    rows = nn.functional.normalize(rows.double(), dim=1)
    half, total = len(rows) // 2, 0.0
    for own, other in ((slice(0, half), slice(half, None)), (slice(half, None), slice(0, half))):
        for z, y in zip(rows[own], labels[own], strict=True):
            s = [float(z @ r) / temperature for r in rows[other]]
            norm = math.log(sum(math.exp(v) for v in s))
            found = [norm - v for v, label in zip(s, labels[other], strict=True) if label == y]
            total += sum(found) / len(found) / half / 2
    return total


def test_wrim_is_its_formula():
    names = ("b1", "b11", "b12", "b2")
    logits = tuple(random(12, 5, seed=i) for i in range(4))
    features = tuple(random(12, 3 + i, seed=10 + i) for i in range(3))
    projections = {f"projection_{name}": random(12, 4, seed=20 + i) for i, name in enumerate(names)}
    model = Fixed(TrainOutput(logits, features, (), {**projections, "other": random(3)}))
    weights = {"cross_entropy": 0.7, "triplet": 1.5, "label_smoothing": 0.1, "smoothing": "others"}
    got = losses_of(
        wrim, "wrim", model, cross_modal={"cmkic": 0.5, "cmkic_k": 1, "temperature": 0.2}, **weights
    )
    want = {
        "id": 0.7 * sum(cross_entropy(x, PIDS, 0.1) for x in logits) / 4,
        "triplet": 1.5 * sum(batch_hard(x, PIDS) for x in features) / 3,
        "cmkic": 0.5 * sum(cmkic(x, PIDS, 1, 0.2) for x in projections.values()) / 4,
    }
    assert got == pytest.approx(want, rel=1e-5)


def test_agw_is_its_formula():
    features, logits = random(12, 4), random(12, 5, seed=1)
    total = 0.0
    for x, y in zip(features, PIDS, strict=True):
        to = [(distance(x, f), bool(y == label)) for f, label in zip(features, PIDS, strict=True)]
        means = []
        for sign in (1, -1):
            kept = [d for d, same in to if same == (sign == 1)]
            weights = [math.exp(sign * d) for d in kept]
            means.append(sum(w * d for w, d in zip(weights, kept, strict=True)) / sum(weights))
        total += math.log(1 + math.exp(means[0] - means[1])) / 12
    model = Fixed(TrainOutput((logits,), (features,)))
    got = losses_of(agw, "agw", model, cross_entropy=1.0, label_smoothing=0.0, triplet=2.0)
    assert got == pytest.approx({"id": cross_entropy(logits, PIDS), "triplet": 2 * total}, rel=1e-5)
    # Far apart, the published code's negatives count for nothing; near each other they nearly agree.
    far, legacy = Fixed(TrainOutput((logits,), (40 * features,))), {"legacy_weights": True}
    positives = losses_of(agw, "agw", far, triplet=1.0, cross_modal=legacy)["triplet"]
    assert positives > losses_of(agw, "agw", far, triplet=1.0)["triplet"] + 10


def test_deen_is_its_formula():
    logits, features = (tuple(random(12, n, seed=i + n) for i in range(3)) for n in (5, 7))
    model = Fixed(TrainOutput(logits, features), groups=3)
    weights = {"cpm": 0.8, "cpm_margin": 0.3, "orthogonality": 0.01}
    got = losses_of(
        deen, "deen", model, cross_entropy=1.0, label_smoothing=0.0, triplet=0.5, cross_modal=weights
    )
    labels = PIDS.repeat(3)
    want = {
        "id": cross_entropy(torch.cat(logits), labels),
        "triplet": 0.5 * batch_hard(torch.cat(features), labels),
        "cpm": 0.8 * sum(cpm(features[0], new, PIDS, 0.3) for new in features[1:]),
        "orthogonality": 0.01 * (features[1] * features[2]).sum().item() / 36,
    }
    assert got == pytest.approx(want, rel=1e-5)


def test_deen_training_step_of_the_public_code():
    """Weights and images as recorded: orthogonality and cross entropy follow from the recorded numbers alone."""
    spec = importlib.util.spec_from_file_location("golden_rule", GOLDEN)
    golden = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(golden)
    network = golden.fill(create_model("deen_sysu", 395, dropout=0.0)).train()
    images = torch.cat([golden.normal(f"x_{kind}", 2, 3, 384, 144) for kind in ("vis", "ir")])
    with torch.no_grad():
        output = network(images)
    pids, want = torch.tensor([3, 394, 3, 394]), golden.read("deen_sysu_train")
    got = losses_of(
        deen,
        "deen",
        Fixed(output, groups=network.groups),
        pids=pids,
        cross_entropy=1.0,
        label_smoothing=0.0,
        triplet=1.0,
        cross_modal={"cpm": 0.8, "orthogonality": 0.01},
    )
    assert got["orthogonality"] == pytest.approx(0.01 * 354.229492, rel=1e-5)
    assert got["id"] == pytest.approx(cross_entropy(want["logits"], pids.repeat(3)), abs=1e-4)
    # Half of each pooled row was recorded, so the distances are those of the rows compared with it.
    features = torch.cat(output.features)
    torch.testing.assert_close(features[:, ::2], want["pool"], rtol=0, atol=1e-4)
    assert got["triplet"] == pytest.approx(batch_hard(features, pids.repeat(3)), rel=1e-4)
    both = sum(cpm(output.features[0], new, pids) for new in output.features[1:])
    assert got["cpm"] == pytest.approx(0.8 * both, rel=1e-4)


ALL = {"cpm": 0.8, "orthogonality": 0.01, "branch_orthogonality": 0.1, "contrastive": 1.0, "temperature": 0.2}


@pytest.mark.parametrize(
    ("expansion", "terms"),
    [
        ("expand", {"cpm", "orthogonality"}),
        ("fuse", set()),
        ("tmhee", {"branch_orthogonality"}),
        ("cmatm", {"branch_orthogonality"}),
        ("ssdec", {"branch_orthogonality", "contrastive"}),
    ],
)
def test_the_expansion_alone_picks_the_terms(expansion, terms):
    torch.manual_seed(0)
    options = {**SMALL, "dee": expansion}
    model, images = create_model("embednet", 5, **options), random(12, 3, 32, 32)
    kept = []
    model.register_forward_hook(lambda *found: kept.append(found[-1]))
    got = losses_of(
        deen, "deen", model, images, options=options, cross_entropy=1.0, triplet=1.0, cross_modal=ALL
    )
    assert got.keys() == {"id", "triplet", *terms}
    (output,) = kept
    if "branch_orthogonality" in terms:
        branches = output.auxiliary["branches"]
        pairs = [(a, b) for i, a in enumerate(branches) for b in branches[i + 1 :]]
        cosines = [nn.functional.cosine_similarity(a, b, dim=-1).abs().mean() for a, b in pairs]
        assert got["branch_orthogonality"] == pytest.approx(
            0.1 * sum(c.item() for c in cosines) / len(pairs), rel=1e-4
        )
    if "contrastive" in terms:
        assert got["contrastive"] == pytest.approx(contrast(output.features[0].detach(), PIDS, 0.2), rel=1e-4)


def refused(words, method="deen", model="deen_regdb", sampler="paired", cross_modal=None):
    values = {
        "model": {"name": model},
        "train": {"method": method},
        "data": {"sampler": sampler, "batch_size": 16},
        "loss": {"cross_modal": cross_modal or {}},
    }
    with pytest.raises(ConfigError) as error:
        validate(from_dict(values))
    assert words in str(error.value)


def test_refused_configurations():
    refused("data.sampler: got pk, expected paired for train.method deen", sampler="auto")
    words = "loss.cross_modal.cmkic: got 1.0 with train.method deen, expected 0 (it is a term of wrim)"
    refused(words, cross_modal={"cmkic": 1.0})
    refused("loss.cross_modal.cpm: got 0.5 with train.method agw", method="agw", cross_modal={"cpm": 0.5})
    refused("loss.cross_modal.cpm: got -1.0, expected 0 or a number above", cross_modal={"cpm": -1.0})
    refused("loss.cross_modal.cmkic_k: got 0", cross_modal={"cmkic_k": 0})
    refused("loss.cross_modal.temperature: got 0.0", cross_modal={"temperature": 0.0})


def test_refused_networks():
    config = from_dict({"model": {"name": "osnet_x0_25"}, "train": {"method": "deen"}})
    for method in (agw, deen, wrim):
        with pytest.raises(ConfigError, match="got osnet_x0_25, expected a network of two modalities"):
            method.losses(Context(config, create_model("osnet_x0_25", 5), 5, None))
    config = from_dict({"model": {"name": "agw"}, "loss": {"cross_modal": {"cmkic": 1.0}}})
    with pytest.raises(ConfigError, match=r"cmkic: got 1\.0 for model agw, expected 0"):
        wrim.losses(Context(config, create_model("agw", 5), 5, None))


def test_a_network_of_two_modalities_is_not_given_other_batches():
    config = from_dict({"model": {"name": "embednet", "options": SMALL}})
    with pytest.raises(
        ConfigError, match=r"data\.sampler: got pk, expected paired: embednet takes the first half"
    ):
        setup.build_state(config, None, {0: 0, 1: 1}, torch.device("cpu"), print)
