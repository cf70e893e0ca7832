# SPDX-License-Identifier: Apache-2.0
"""The loop against a training loop written out plainly, and what it does besides."""

import copy
import io
import json
import math

import pytest
import torch
from torch import nn

from fastreid_ops.engine.interrupt import Interrupted
from fastreid_ops.engine.loop import NonFiniteLoss, fit


def lines(run):
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]


def plainly(run, state, epochs, accumulate=1, clip=None, autocast=None):
    """Adam, label smoothing and batch-hard triplet by hand, from the state's weights; returns the weights
    after `epochs`.
    """
    model = copy.deepcopy(state.model).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1.0, weight_decay=5e-4, foreach=False)
    loader = run.Loader()
    for epoch in range(epochs):
        batches = list(loader.iterate(epoch, 0))
        for first in range(0, len(batches), accumulate):
            group = batches[first : first + accumulate]
            total = 0
            for place, batch in enumerate(group):
                progress = epoch + (first + place) / len(batches)
                with torch.autocast("cpu", torch.bfloat16, enabled=autocast is not None):
                    output = model(batch.images)
                    logits, feature = output.logits[0].float(), output.features[0].float()
                    smooth = nn.functional.cross_entropy(logits, batch.pids, label_smoothing=0.1)
                    distance = (feature[:, None] - feature[None]).square().sum(2).clamp_min(1e-12).sqrt()
                    same = batch.pids[:, None] == batch.pids[None]
                    positive = torch.where(same, distance, -math.inf).amax(1)
                    negative = torch.where(same, math.inf, distance).amin(1)
                    triplet = (positive - negative + 0.3).clamp_min(0).mean()
                    loss = smooth + state.config.loss.triplet * triplet
                total = total + loss / len(group)
            total.backward()
            if clip:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            cosine = 0.01 + 0.99 * (1 + math.cos(math.pi * (progress - 1) / 2)) / 2
            optimizer.param_groups[0]["lr"] = 2e-3 * (0.1 + 0.9 * progress if progress < 1 else cosine)
            optimizer.step()
            optimizer.zero_grad()
    return model.state_dict()


@pytest.mark.parametrize(("accumulate", "clip"), [(1, None), (2, None), (4, 0.5), (99, None)])
def test_against_a_plain_loop(run, accumulate, clip):
    state = run.state(dropout=0.0, train={"accumulate": accumulate, "epochs": 3}, optim={"clip": clip})
    expected = plainly(run, state, 3, accumulate, clip)
    fit(state, run.tools())
    for name, value in state.model.state_dict().items():
        torch.testing.assert_close(
            value, expected[name], rtol=2e-4, atol=2e-5, msg=lambda m, name=name: f"{name}: {m}"
        )
    assert state.step == sum(math.ceil(n / accumulate) for n in (5, 6, 5))
    assert (state.epoch, state.batch) == (3, 0)


def test_records(run):
    fit(run.state(), run.tools(scores=[0.3, 0.2, 0.6]))
    train = [line for line in lines(run) if line["kind"] == "train"]
    assert [line["step"] for line in train] == list(range(1, 17))
    assert [line["epoch"] for line in train] == [0] * 5 + [1] * 6 + [2] * 5
    for line in train:
        assert line["loss"] == pytest.approx(sum(line["losses"].values()))
        assert set(line["losses"]) == {"id", "triplet"}
        assert line["grad_norm"] > 0
        assert line["images_per_s"] > 0
    assert train[0]["lr"] == pytest.approx(2e-3 * 0.1)
    assert train[1]["lr"] == pytest.approx(2e-3 * (0.1 + 0.9 / 5))
    found = [
        (line["epoch"], line["step"], line["set"], line["mAP"])
        for line in lines(run)
        if line["kind"] == "eval"
    ]
    assert found[::2] == [(1, 5, "first", 0.3), (2, 11, "first", 0.2), (3, 16, "first", 0.6)]
    assert {line["rank5"] for line in lines(run) if line["kind"] == "eval"} == {0.9}


@pytest.mark.parametrize("every", [2, 5])
def test_log_every(run, every):
    fit(run.state(run={"log_every": every}), run.tools())
    assert [line["step"] for line in lines(run) if line["kind"] == "train"] == list(range(every, 17, every))


def test_best_and_checkpoints(run):
    state = run.state(run={"checkpoint_every_epochs": 2, "checkpoint_every_steps": 3}, train={"epochs": 4})
    fit(state, run.tools(scores=[0.3, 0.2, 0.25, 0.6]))
    assert [(c["step"], c["epoch"], c["batch"], best) for c, best in run.saved] == [
        (3, 0, 3, False),
        (5, 1, 0, True),
        (6, 1, 1, False),
        (9, 1, 4, False),
        (11, 2, 0, False),
        (12, 2, 1, False),
        (15, 2, 4, False),
        (18, 3, 2, False),
        (21, 3, 5, False),
        (22, 4, 0, True),
    ]
    assert state.best == {"set": "first", "mAP": 0.6, "step": 22}


@pytest.mark.parametrize(("every", "count"), [(0, 0), (1, 3), (2, 2), (3, 1), (7, 1)])
def test_evaluation_every_n_epochs_and_at_the_end(run, every, count):
    results = fit(run.state(eval={"every": every}), run.tools())
    assert len(run.assessed) == count
    assert (results is None) == (every == 0)


@pytest.mark.parametrize("ema", [None, 0.8])
def test_the_average_is_what_is_evaluated(run, ema):
    state = run.state(train={"ema": ema})
    fit(state, run.tools())
    expected = state.model if ema is None else state.ema.model
    assert all(model is expected for model in run.assessed)
    assert state.model.training


def exactly(value):
    """A checkpoint's content with every tensor as its bytes, for comparison."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.contiguous().numpy().tobytes()
    if isinstance(value, dict):
        return {key: exactly(item) for key, item in value.items()}
    return [exactly(item) for item in value] if isinstance(value, (list, tuple)) else value


def snapshot(state):
    return exactly(state.capture(0, {}))


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"train": {"ema": 0.9, "accumulate": 2}, "optim": {"name": "sgd", "clip": 1.0}},
        {
            "train": {"amp": "bf16", "channels_last": True},
            "optim": {"name": "adamw", "decay_bias_and_norm": False},
        },
        {"train": {"amp": "fp16"}, "optim": {"name": "amsgrad"}},
        {
            "train": {"fixed_base_epochs": 1, "open_layers": ["heads"]},
            "optim": {
                "name": "ranger",
                "groups": [
                    {"match": "*.bias", "lr_factor": 2.0, "weight_decay": 0.0},
                    {"match": "model.heads.*", "optimizer": "sgd", "lr": 0.1, "scheduled": False},
                ],
            },
        },
    ],
    ids=["plain", "ema-accumulate-sgd", "bf16-channels-last", "fp16", "groups-fixed-base"],
)
def test_resume_at_any_step_to_the_bit(run, sections):
    """Stop after every single step, restore into a fresh state, go on: the same bits, and the same lines of
    metrics.
    """
    reference = run.state(**sections)
    fit(reference, run.tools())
    expected, expected_lines, steps = snapshot(reference), lines(run), reference.step
    for stop in range(1, steps):
        (run.path / "metrics.jsonl").unlink()
        run.saved.clear()
        state = run.state(**sections)

        def check(state=state, stop=stop):
            if state.step == stop:
                raise Interrupted(15)

        with pytest.raises(Interrupted):
            fit(state, run.tools(check=check))
        content = torch.load(io.BytesIO(_saved(run.saved[-1][0])), weights_only=True)
        assert content["step"] == stop
        torch.manual_seed(12345)
        again = run.state(**sections)
        again.restore(content)
        tools = run.tools()
        assert tools.metrics.truncate(content["metrics_position"]) == 0
        fit(again, tools)
        assert snapshot(again) == expected, stop
        assert [_without_clock(line) for line in lines(run)] == [
            _without_clock(line) for line in expected_lines
        ]


def _saved(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _without_clock(line):
    return {key: value for key, value in line.items() if key != "images_per_s"}


def test_interrupt_before_an_evaluation_repeats_only_the_evaluation(run):
    def assess(model):
        raise Interrupted(2)

    state, loader = run.state(), run.Loader()
    with pytest.raises(Interrupted):
        fit(state, run.tools(loader=loader, assess=assess))
    content = run.saved[-1][0]
    assert (content["epoch"], content["batch"], content["step"]) == (0, 5, 5)
    again, loader = run.state(), run.Loader()
    again.restore(content)
    fit(again, run.tools(loader=loader))
    assert loader.given[0] == (1, 0)
    assert len(run.assessed) == 3


def test_non_finite_loss_names_step_losses_and_files(run):
    state = run.state()
    with pytest.raises(NonFiniteLoss) as error:
        fit(state, run.tools(loader=run.Loader(bad=(1, 2))))
    text = str(error.value)
    assert "at step 8 (epoch 1, batch 3)" in text
    assert "id nan" in text
    assert "1-2-0.jpg, 1-2-1.jpg" in text
    assert state.step == 7
    assert all(p.isfinite().all() for p in state.model.parameters())


def test_with_accumulation_only_the_culprit_batch_is_named(run):
    with pytest.raises(NonFiniteLoss) as error:
        fit(run.state(train={"accumulate": 4}), run.tools(loader=run.Loader(bad=(0, 2))))
    assert "0-2-0.jpg" in str(error.value)
    assert "0-1-0.jpg" not in str(error.value)


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_mixed_precision_trains_and_differs(run, amp):
    seen = []

    def step(state, batch):
        seen.append(torch.is_autocast_enabled("cpu"))
        from fastreid_ops.engine.methods import identity

        return identity.step(state, batch)

    state = run.state(dropout=0.0, train={"amp": amp})
    expected = plainly(run, state, 3)
    fit(state, run.tools(step=step))
    assert all(seen)
    distance = sum(
        (state.model.state_dict()[k].double() - v.double()).abs().sum() for k, v in expected.items()
    )
    assert 0 < distance < 2.0
    assert all(p.dtype == torch.float32 for p in state.model.parameters())


def test_channels_last_batches(run):
    seen = []

    def step(state, batch):
        seen.append(batch.images.is_contiguous(memory_format=torch.channels_last))
        return {"id": state.model(batch.images).logits[0].square().mean()}

    fit(run.state(train={"channels_last": True}), run.tools(step=step))
    assert all(seen)


def test_a_failing_disk_costs_a_checkpoint_not_the_run(run, capsys):
    count = []

    def save(state, best):
        count.append(state.step)
        if len(count) < 3:
            raise OSError(28, "No space left on device")

    fit(run.state(), run.tools(save=save))
    assert "warning: no checkpoint of step 5: [Errno 28] No space left on device" in capsys.readouterr().out
    assert count == [5, 11, 16]

    def never(state, best):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        fit(run.state(), run.tools(save=never))


def test_an_epoch_without_batches_is_an_error(run):
    with pytest.raises(ValueError, match="got no batch in epoch 0"):
        fit(run.state(), run.tools(loader=run.Loader(length=0)))
