# SPDX-License-Identifier: Apache-2.0
"""Disks that fill up or fail, folders that cannot be written, signals, damaged checkpoints, two runs in one
folder.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest


def _events(undisturbed, part):
    return [i for i, name in enumerate(undisturbed[1]) if part in name]


@pytest.mark.parametrize("code", ["ENOSPC", "EIO", "EDQUOT"])
@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_checkpoint_that_cannot_be_written_costs_only_itself(
    driver, people, tiny, tmp_path, undisturbed, outcome, call, code
):
    run = tmp_path / "run"
    fail = {"call": call, "path": "step-00000006.pt", "errno": code, "times": 1}
    assert driver.do(argv=tiny.arguments(people, run), fail=fail) == 0, driver.output
    assert "warning: no checkpoint of step 6" in driver.output
    assert os.strerror(getattr(__import__("errno"), code)) in driver.output
    assert outcome(run) == undisturbed[0]
    assert not list(run.rglob("*.tmp"))


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_the_last_checkpoint_is_required(driver, people, tiny, tmp_path, undisturbed, outcome, call):
    run = tmp_path / "run"
    fail = {"call": call, "path": "step-00000009.pt", "errno": "ENOSPC", "times": 99}
    assert driver.do(argv=tiny.arguments(people, run), fail=fail) == 1
    assert "error: [Errno 28] No space left on device" in driver.output
    assert driver.do(argv=["--resume", str(run)]) == 0, driver.output
    assert outcome(run) == undisturbed[0]


@pytest.mark.parametrize("times", [1, 3])
def test_metrics_wait_for_space(driver, people, tiny, tmp_path, undisturbed, outcome, times):
    run = tmp_path / "run"
    fail = {"call": "write", "path": "metrics.jsonl", "errno": "ENOSPC", "times": times}
    assert driver.do(argv=tiny.arguments(people, run), fail=fail) == 0, driver.output
    assert outcome(run) == undisturbed[0]


def test_a_full_log_file_does_not_end_a_run(driver, people, tiny, tmp_path, undisturbed, outcome):
    run = tmp_path / "run"
    fail = {"call": "write", "path": "log.txt", "errno": "ENOSPC", "times": 999}
    assert driver.do(argv=tiny.arguments(people, run), fail=fail) == 0, driver.output
    assert outcome(run) == undisturbed[0]


@pytest.mark.parametrize(("word", "status"), [("TERM", 143), ("INT", 130)])
@pytest.mark.parametrize(
    "place", ["forward train", "forward eval", "fsync step-00000006.pt.tmp", "write metrics.jsonl"]
)
def test_signals(driver, people, tiny, tmp_path, undisturbed, outcome, word, status, place):
    """A checkpoint is written, the way on is said, the status is 128 + the signal; the resumed run is the
    undisturbed one.
    """
    run = tmp_path / "run"
    inside = _events(undisturbed, place)
    point = inside[len(inside) // 2]
    assert driver.do(argv=tiny.arguments(people, run), at=point, do=word) == status, driver.output
    assert f"SIG{word} received; go on with: python -m fastreid_ops.train --resume {run}" in driver.output
    assert "Traceback" not in driver.output
    assert list((run / "checkpoints").glob("step-*.pt"))
    assert driver.do(argv=["--resume", str(run)]) == 0, driver.output
    assert outcome(run) == undisturbed[0]


def test_a_signal_loses_no_step(driver, people, tiny, tmp_path, undisturbed):
    """Between two checkpoints of the plan: the step in progress is finished and kept."""
    run = tmp_path / "run"
    point = _events(undisturbed, "forward train")[6]  # the seventh step; checkpoints are planned for 6 and 8
    assert driver.do(argv=tiny.arguments(people, run), at=point, do="TERM") == 143
    assert (run / "checkpoints" / "step-00000007.pt").exists()


@pytest.fixture
def stopped(driver, people, tiny, tmp_path, undisturbed):
    """A run killed in its last epoch, with three checkpoints."""
    run = tmp_path / "run"
    assert (
        driver.do(argv=tiny.arguments(people, run), at=_events(undisturbed, "forward train")[8], do="kill")
        == -9
    )
    assert [p.name for p in sorted((run / "checkpoints").glob("step-*.pt"))] == [
        f"step-0000000{i}.pt" for i in (4, 6, 8)
    ]
    return run


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-1000])


def _empty(path):
    path.write_bytes(b"")


def _flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _foreign(path):
    path.write_bytes(b"not a checkpoint at all")


def _without_sidecar(path):
    path.with_name(path.name + ".sha256").unlink()


def _sidecar_of_another(path):
    path.with_name(path.name + ".sha256").write_text("0" * 64 + f"  {path.name}\n")


def _folder(path):
    path.unlink()
    path.mkdir()


DAMAGES = [_truncate, _empty, _flip, _foreign, _without_sidecar, _sidecar_of_another, _folder]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_newest_checkpoint(driver, stopped, undisturbed, outcome, damage):
    newest = stopped / "checkpoints" / "step-00000008.pt"
    damage(newest)
    code = driver.do(argv=["--resume", str(stopped)])
    assert f"warning: checkpoint: {newest}: got" in driver.output
    assert "trying the one before" in driver.output
    assert "resumed at epoch 3, batch 0, step 6" in driver.output
    assert code == 0, driver.output
    assert outcome(stopped) == undisturbed[0]


def test_every_checkpoint_damaged(driver, stopped):
    for path in (stopped / "checkpoints").glob("step-*.pt"):
        _flip(path)
    assert driver.do(argv=["--resume", str(stopped)]) == 1
    assert "got 3 unsound checkpoints, expected at least one sound" in driver.output


def test_changed_configuration(driver, stopped, undisturbed, outcome):
    argv = ["--resume", str(stopped), "--optim.lr", "0.5", "--eval.batch_size", "7"]
    assert driver.do(argv=argv) == 1
    assert "optim.lr: got 0.5, expected 0.002 of the run" in driver.output
    assert "eval.batch_size: got 7, expected 128 of the run" in driver.output
    assert (
        "--resume_allow eval.batch_size optim.lr" in driver.output
        or "--resume_allow optim.lr" in driver.output
    )
    assert driver.do(argv=[*argv, "--resume_allow", "eval.batch_size"]) == 1
    assert "eval.batch_size" not in driver.output
    assert driver.do(argv=[*argv, "--resume_allow", "eval.batch_size", "optim.lr"]) == 0, driver.output
    assert json.loads((stopped / "config_diff.json").read_text())["optim.lr"] == [0.002, 0.5]
    assert outcome(stopped)["weights"] != undisturbed[0]["weights"]


def test_changed_people(driver, stopped, people, tmp_path, tiny):
    other = tiny.write_people(tmp_path / "others", ids=9)
    argv = ["--resume", str(stopped), "--data.dataset", str(other), "--resume_allow", "data.dataset"]
    assert driver.do(argv=argv) == 1
    assert "training identities: got 6, expected the 5 of the run; missing 0, new 1 (5)" in driver.output


def test_damaged_metrics_are_told(driver, stopped):
    (stopped / "metrics.jsonl").write_text("")
    assert driver.do(argv=["--resume", str(stopped)]) == 0, driver.output
    assert "warning: metrics.jsonl" in driver.output


def test_a_moved_run_goes_on(driver, stopped, tmp_path, undisturbed, outcome):
    moved = tmp_path / "elsewhere" / "run"
    moved.parent.mkdir()
    stopped.rename(moved)
    assert driver.do(argv=["--resume", str(moved)]) == 0, driver.output
    assert outcome(moved) == undisturbed[0]
    assert not stopped.exists()


def test_a_clock_set_back_changes_nothing(driver, stopped, undisturbed, outcome):
    for path in stopped.rglob("*"):
        os.utime(path, (2**31, 2**31))
    assert driver.do(argv=["--resume", str(stopped)]) == 0, driver.output
    assert outcome(stopped) == undisturbed[0]


def test_a_folder_with_content_is_never_overwritten(driver, people, tiny, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    assert driver.do(argv=tiny.arguments(people, tmp_path / "run")) == 1
    assert "which is not empty" in driver.output
    assert f"--resume {tmp_path / 'run'}" in driver.output
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["thesis.txt"]


HOLD = """
import sys
from pathlib import Path
from fastreid_ops.engine.run_folder import RunFolder
print(RunFolder(Path(sys.argv[1])).lock(), flush=True)
sys.stdin.read()
"""


def test_two_runs_in_one_folder(driver, stopped, undisturbed, outcome):
    """Refused while the first lives, taken over with a remark once it was killed."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(stopped)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert "ended without letting go" in holder.stdout.readline()  # of the run that was killed before
        assert driver.do(argv=["--resume", str(stopped)]) == 1
        assert f"in use by process {holder.pid}" in driver.output
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    assert driver.do(argv=["--resume", str(stopped)]) == 0, driver.output
    assert f"(process {holder.pid} on " in driver.output
    assert outcome(stopped) == undisturbed[0]


def test_places_that_cannot_be_written(driver, people, tiny, tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "run", "/proc/fastreid-run", "/dev/null"):
        assert driver.do(argv=tiny.arguments(people, place)) == 1
        assert f"error: run.folder: {place}: got " in driver.output
        assert "expected a place that can be written" in driver.output


def test_read_only_folder(driver, people, tiny):
    """As another user where the tests run as root, who may write anywhere."""
    closed = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        closed.chmod(0o555)
        assert driver.do(argv=tiny.arguments(people, closed / "run"), uid=65534) == 1
        assert f"error: run.folder: {closed / 'run'}: got Permission denied" in driver.output
    finally:
        closed.rmdir()


def test_a_loss_that_is_not_finite_names_the_files(driver, people, tiny, tmp_path):
    run = tmp_path / "run"
    assert driver.do(argv=tiny.arguments(people, run, "--optim.lr", "1e38", "--train.ema", "null")) == 1
    assert "error: train: loss: got " in driver.output
    assert "expected finite values" in driver.output
    named = driver.output.split("Files of the batch: ")[1].split(", ")
    assert len(named) == 8
    assert all((people.parent / name.strip()).exists() for name in named)
    assert "Traceback" in (run / "log.txt").read_text()
