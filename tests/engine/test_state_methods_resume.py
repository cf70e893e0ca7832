# SPDX-License-Identifier: Apache-2.0
"""Random states, the identity method, the checks of a resume, exported weights, and the environment."""

import io
import json
import os
import random
import signal
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from safetensors import safe_open

from fastreid_ops.config import Config, to_dict
from fastreid_ops.config.schema import TrainConfig
from fastreid_ops.engine import environment, export
from fastreid_ops.engine.interrupt import Interrupt, Interrupted
from fastreid_ops.engine.methods import METHODS, identity, method
from fastreid_ops.engine.methods.context import Context
from fastreid_ops.engine.resume import ResumeError, check_config, check_labels
from fastreid_ops.engine.state import capture_random, restore_random, seed_everything
from fastreid_ops.models.output import TrainOutput


def draws():
    return [torch.randn(3).tolist(), random.random(), random.gauss(0, 1), np.random.randn(), np.random.rand()]


@pytest.mark.parametrize("before", [0, 1, 700])
def test_random_states_go_through_a_file(before):
    seed_everything(3)
    for _ in range(before):
        draws()
    random.gauss(0, 1)  # both generators keep half a pair of normal numbers
    np.random.randn()
    buffer = io.BytesIO()
    torch.save(capture_random(), buffer)
    expected = draws()
    seed_everything(99)
    buffer.seek(0)
    restore_random(torch.load(buffer, weights_only=True))
    assert draws() == expected


def test_seeds():
    seed_everything(5)
    first = draws()
    seed_everything(5)
    assert draws() == first
    seed_everything(2**40)
    assert draws() != first


class State:
    def __init__(self, output, **loss):
        self.config = Config()
        for key, value in loss.items():
            setattr(self.config.loss, key, value)
        self.model = lambda images: output
        self.criteria = identity.losses(Context(self.config, None, 3, None))


class Batch:
    images = None
    pids = torch.tensor([0, 0, 1, 1, 2, 2])


def test_identity_losses_are_weighted_and_averaged_over_heads():
    torch.manual_seed(0)
    logits, features = [torch.randn(6, 3) for _ in range(2)], [torch.randn(6, 5) for _ in range(2)]
    one = [
        identity.step(State(TrainOutput((a,), (b,)), triplet=1.0), Batch)
        for a, b in zip(logits, features, strict=True)
    ]
    both = identity.step(
        State(TrainOutput(tuple(logits), tuple(features)), cross_entropy=2.0, triplet=0.5), Batch
    )
    torch.testing.assert_close(both["id"], 2.0 * (one[0]["id"] + one[1]["id"]) / 2)
    torch.testing.assert_close(both["triplet"], 0.5 * (one[0]["triplet"] + one[1]["triplet"]) / 2)
    expected = torch.nn.functional.cross_entropy(logits[0], Batch.pids, label_smoothing=0.1)
    torch.testing.assert_close(one[0]["id"], expected)


def test_identity_terms_of_weight_zero_are_left_out():
    output = TrainOutput((torch.randn(6, 3),), (torch.randn(6, 5),))
    assert set(identity.step(State(output, triplet=0.0), Batch)) == {"id"}
    assert set(identity.step(State(output, cross_entropy=0.0, margin=None), Batch)) == {"triplet"}


def test_half_precision_heads_are_judged_in_float32():
    output = TrainOutput((torch.randn(6, 3).bfloat16(),), (torch.randn(6, 5).bfloat16(),))
    assert {loss.dtype for loss in identity.step(State(output), Batch).values()} == {torch.float32}


def test_the_table_of_methods():
    assert set(METHODS) == set(get_args(get_type_hints(TrainConfig)["method"]))
    for name in METHODS:
        assert callable(method(name).step)
        assert callable(method(name).losses)
    with pytest.raises(ValueError, match="got 'x', expected one of identity"):
        method("x")


def test_changed_configuration_key_by_key():
    old, new = to_dict(Config()), to_dict(Config())
    assert check_config(old, new, []) == {}
    new["run"]["folder"] = "elsewhere"
    assert check_config(old, new, []) == {}
    new["optim"]["lr"], new["train"]["epochs"] = 1.0, 99
    with pytest.raises(ResumeError) as error:
        check_config(old, new, ["train.epochs"])
    assert "optim.lr: got 1.0, expected 0.002" in str(error.value)
    assert "train.epochs" not in str(error.value)
    assert "--resume_allow optim.lr" in str(error.value)
    assert check_config(old, new, ["train.epochs", "optim.lr"]) == {
        "optim.lr": [2e-3, 1.0],
        "train.epochs": [24, 99],
    }


def test_changed_people():
    old = [["a", 0], [7, 1], ["c", 2]]
    check_labels(old, {"a": 0, 7: 1, "c": 2})
    with pytest.raises(
        ResumeError, match=r"got 3, expected the 3 of the run; missing 1 \('c'\), new 1 \('d'\)"
    ):
        check_labels(old, {"a": 0, 7: 1, "d": 2})
    with pytest.raises(ResumeError, match="missing 0, new 0"):
        check_labels(old, {"a": 1, 7: 0, "c": 2})


def test_exported_weights(run, tmp_path):
    state = run.state(train={"ema": 0.9})
    with torch.no_grad():
        state.ema.model.body[0].weight.fill_(0.5)
    digests = {export.export_weights(state, tmp_path / f"{i}.safetensors") for i in range(4)}
    assert len(digests) == 1
    with safe_open(tmp_path / "0.safetensors", "pt") as file:
        facts = file.metadata()
        assert set(file.keys()) == set(state.model.state_dict())
        assert (file.get_tensor("body.0.weight") == 0.5).all()
    assert facts["model"] == "osnet_x0_25"
    assert json.loads(facts["mean"]) == [0.485, 0.456, 0.406]
    assert (facts["height"], facts["width"], facts["num_classes"], facts["averaged"]) == (
        "128",
        "64",
        "4",
        "true",
    )
    assert facts["label_map_sha256"] == export.label_map_hash(state.label_map)
    assert export.label_map_hash({"a": 0, "b": 1}) != export.label_map_hash({"a": 1, "b": 0})


def test_interrupt_waits_for_the_check_and_restores_the_handlers():
    before = signal.getsignal(signal.SIGTERM)
    with Interrupt() as interrupt:
        interrupt.check()
        os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL  # a second signal would end the process
        with pytest.raises(Interrupted) as error:
            interrupt.check()
    assert error.value.number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before


def test_environment():
    facts = environment.describe(torch.device("cpu"))
    assert {
        "python",
        "torch",
        "numpy",
        "fastreid_ops",
        "isa",
        "threads",
        "cpu",
        "os",
        "cuda",
        "git_commit",
        "argv",
    } <= set(facts)
    assert all(type(value) in (str, int, bool, list, type(None)) for value in facts.values())
    assert environment.pick_device("cpu").type == "cpu"
    with pytest.raises(ValueError, match=r"run\.device: got cuda:99"):
        environment.pick_device("cuda:99")
