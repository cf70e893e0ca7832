# SPDX-License-Identifier: Apache-2.0
"""kill -9 anywhere: the run that is taken up again ends with the same bits as the one nothing happened to."""

import json
import random
import shutil

import pytest

POINTS = 25


def _take_up(driver, run, argv, **more):
    """Resume a run that has become one, start it again otherwise."""
    begun = (run / "config.yaml").is_file()
    return driver.do(argv=["--resume", str(run)] if begun else argv, **more)


def _points(events):
    """25 events: 13 of checkpoint writes, 12 of all others, spread by a fixed seed."""
    rng = random.Random(20)
    inside = [i for i, name in enumerate(events) if ".pt" in name]
    outside = [i for i, name in enumerate(events) if ".pt" not in name]
    return sorted(rng.sample(inside, 13) + rng.sample(outside, POINTS - 13))


def test_the_undisturbed_run_is_worth_comparing_with(undisturbed):
    result, events = undisturbed
    kinds = {name.split()[0] for name in events}
    assert kinds == {"write", "fsync", "replace", "unlink", "ftruncate", "forward"}
    assert sum(line["kind"] == "train" for line in result["metrics"]) >= 8
    assert [line["epoch"] for line in result["metrics"] if line["kind"] == "eval"] == [0, 1, 2, 3]


def test_two_undisturbed_runs_are_equal(driver, people, tiny, tmp_path, undisturbed, outcome):
    assert driver.do(argv=tiny.arguments(people, tmp_path / "run")) == 0
    assert outcome(tmp_path / "run") == undisturbed[0]


@pytest.mark.parametrize("number", range(POINTS))
def test_killed_once(driver, people, tiny, tmp_path, undisturbed, outcome, number):
    expected, events = undisturbed
    point = _points(events)[number]
    run = tmp_path / "run"
    argv = tiny.arguments(people, run)
    assert driver.do(argv=argv, at=point, do="kill") == -9, events[point]
    assert _take_up(driver, run, argv) == 0, (events[point], driver.output)
    assert outcome(run) == expected, events[point]
    assert not list(run.rglob("*.tmp"))


def test_killed_again_and_again(driver, people, tiny, tmp_path, undisturbed, outcome):
    """Every attempt is killed a little later than it began to make progress, until one gets through."""
    expected, _ = undisturbed
    run, rng = tmp_path / "run", random.Random(1)
    argv, kills = tiny.arguments(people, run), 0
    while (code := _take_up(driver, run, argv, at=rng.randrange(50, 120), do="kill")) == -9:
        kills += 1
        assert kills < 60
    assert code == 0, driver.output
    assert kills >= 2
    assert outcome(run) == expected


@pytest.mark.parametrize("fraction", [0.5, 0.8])
def test_killed_with_a_worker_process(driver, people, tiny, tmp_path, undisturbed, outcome, fraction):
    """The number of workers changes nothing, and orphaned workers do not hold the folder."""
    expected, events = undisturbed
    run = tmp_path / "run"
    assert (
        driver.do(
            argv=tiny.arguments(people, run, "--data.workers", "1"), at=int(fraction * len(events)), do="kill"
        )
        == -9
    )
    assert driver.do(argv=["--resume", str(run)]) == 0, driver.output
    assert outcome(run) == expected


def test_checkpoint_writes_interrupted_at_every_call(driver, tmp_path):
    """Whatever call of the checkpoint writer is the last one: the newest and the best checkpoint stay usable."""
    import torch

    from fastreid_ops.engine import checkpoint

    def begin(folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name in ("best.pt", checkpoint.step_name(1)):
            checkpoint.write(folder / name, {"step": 1, "weights": torch.full((1000,), 1.0)})

    folder = tmp_path / "checkpoints"
    begin(folder)
    assert driver.do(writes=folder, trace=tmp_path / "trace.json") == 0, driver.output
    events = json.loads((tmp_path / "trace.json").read_text())
    assert len(events) >= 40
    reached = set()
    for point in range(len(events)):
        begin(folder)
        assert driver.do(writes=folder, at=point, do="kill") == -9
        path, content = checkpoint.newest(folder, pytest.fail)
        best = checkpoint.read(folder / "best.pt")
        for found in (content, best):
            assert torch.equal(found["weights"], torch.full((1000,), float(found["step"])))
        assert path.name == checkpoint.step_name(content["step"])
        assert best["step"] in (content["step"], content["step"] + 1), events[point]
        reached.add(content["step"])
        checkpoint.write(folder / "best.pt", content)  # and the next write finds its way
        checkpoint.keep_last(folder, 1)
        assert {p.name for p in folder.iterdir()} == {
            n + s for n in ("best.pt", path.name) for s in ("", ".sha256")
        }
    assert reached == {1, 2, 3}
