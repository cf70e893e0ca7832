# SPDX-License-Identifier: Apache-2.0
"""The check on a GPU where there is none: stages that hang, crash and fail, the budget, the file after every stage, and
a dry run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FIGURE = '{"name": "f", "seconds": 2.0, "bytes": 100}'


def alive(pid: int) -> bool:
    """Whether it runs: who is dead and not yet waited for does not."""
    status = Path(f"/proc/{pid}/status")
    return status.is_file() and "State:\tZ" not in status.read_text()


def run(check, *stages) -> dict:
    check.run(list(stages), list(stages))
    return check.results["stages"]


@pytest.mark.parametrize(
    ("words", "status", "reason"),
    [
        ("exit 0", "passed", None),
        ("exit 3", "failed", "exit status 3"),
        ("kill -SEGV $$", "crashed", "ended by SIGSEGV"),
        ("sleep 60", "timed out", "not done after 2 s"),
    ],
)
def test_how_a_command_ends(gpu_check, tmp_path, monkeypatch, words, status, reason):
    monkeypatch.setattr(gpu_check.process, "GRACE", 0.3)
    command = ["sh", "-c", f"echo begun; {words}"]
    found = gpu_check.process.run(command, 2, tmp_path / "log", cwd=tmp_path, environment=os.environ)
    assert (found.status, found.reason) == (status, reason)
    assert found.seconds < 20
    assert (tmp_path / "log").read_text() == "begun\n"


def test_a_command_that_is_not_there(gpu_check, tmp_path):
    found = gpu_check.process.run(["no-such-tool"], 1, tmp_path / "log", cwd=tmp_path, environment={})
    assert (found.status, found.reason) == ("failed", "no-such-tool: No such file or directory")


@pytest.mark.parametrize("first", ["sleep 60", "exit 0"], ids=["hangs", "ends"])
def test_nothing_of_the_group_is_left(gpu_check, tmp_path, monkeypatch, first):
    """A child of the child that does not listen, whether its parent hangs or has ended."""
    monkeypatch.setattr(gpu_check.process, "GRACE", 0.3)
    words = f"trap '' TERM; (trap '' TERM; sleep 60) & echo $! > pid; {first}"
    gpu_check.process.run(["sh", "-c", words], 2, tmp_path / "log", cwd=tmp_path, environment=os.environ)
    pid = int((tmp_path / "pid").read_text())
    end = time.monotonic() + 5
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive(pid)


def test_the_others_go_on(new_check, stage):
    check = new_check()
    found = run(
        check,
        stage("hangs", "sleep 60", limit=0.3),
        stage("crashes", "echo last words; kill -ABRT $$"),
        stage("fails", "exit 1"),
        stage("depends", "echo never", needs="fails"),
        stage("good", f"echo '{FIGURE}' > $FASTREID_FIGURES", kind="figures"),
    )
    assert [s["status"] for s in found.values()] == ["timed out", "crashed", "failed", "not run", "passed"]
    assert found["crashes"]["log"] == ["last words"]
    assert found["depends"]["reason"] == "fails failed"
    assert found["good"]["figures"][0]["seconds"] == 2.0
    written = json.loads(check.file.read_text())
    assert check.file.name == "test-1.json"
    assert written["stages"] == found


def test_figures_of_a_stage_that_was_ended(new_check, stage):
    """What it had measured stays; a line that was being written does not count."""
    words = (
        f"""echo '{FIGURE}' > $FASTREID_FIGURES; printf '{{"name": "half' >> $FASTREID_FIGURES; sleep 60"""
    )
    found = run(new_check(), stage("long", words, limit=2, kind="figures"))["long"]
    assert found["status"] == "timed out"
    assert [figure["name"] for figure in found["figures"]] == ["f"]
    assert found["figures"][0]["no floor"] == "the ceiling of copy was not measured in this run"


def test_the_file_is_whole_after_every_stage(gpu_check, new_check, stage, monkeypatch):
    seen = []
    check = new_check()
    write = gpu_check.results.write
    monkeypatch.setattr(
        gpu_check.results, "write", lambda *a: (write(*a), seen.append(json.loads(check.file.read_text())))
    )
    run(check, stage("a", "exit 0"), stage("b", "exit 0"))
    statuses = [[s["status"] for s in found["stages"].values()] for found in seen]
    assert statuses[:2] == [["passed", "not run"], ["passed", "passed"]]
    assert seen[0]["stages"]["b"]["reason"] == "its turn did not come"


def test_a_file_that_cannot_be_written_leaves_the_one_before(gpu_check, tmp_path):
    path = tmp_path / "r.json"
    gpu_check.results.write(path, {"format": 1})
    with pytest.raises(TypeError):
        gpu_check.results.write(path, {"format": 1, "bad": object()})
    assert json.loads(path.read_text()) == {"format": 1}
    with path.open() as reader:  # who has begun to read the old one reads it to its end
        gpu_check.results.write(path, {"format": 2})
        assert json.load(reader) == {"format": 1}


def test_the_budget_ends_it(new_check, stage, gpu_check, monkeypatch):
    """A stage gets what is left, though its own limit be longer; one that would get too little is not begun."""
    monkeypatch.setattr(gpu_check, "LEAST", 0.5)
    begin = time.monotonic()
    check = new_check(budget=4)
    found = run(check, stage("short", "exit 0"), stage("long", "sleep 60", limit=40), stage("late", "exit 0"))
    assert time.monotonic() - begin < 20
    assert [s["status"] for s in found.values()] == ["passed", "timed out", "not run"]
    assert 0.5 < found["long"]["limit_seconds"] <= 4
    assert found["late"]["reason"] == "0 s of the budget were left"


def test_resumed(new_check, stage):
    """What came to its own end is kept, with its date; what did not is run, and so are the ceilings."""
    names = ("ceilings", "good", "bad", "hung")
    words = ("exit 0", "exit 0", "exit 2", "sleep 60")
    run(
        new_check(),
        *(stage(n, w, limit=0.3 if n == "hung" else 9) for n, w in zip(names, words, strict=True)),
    )
    again = [stage(name, "echo again") for name in names]
    check = new_check()
    check.resume()
    kept = set(check.results["stages"])
    found = run(check, *again)
    assert kept == {"good", "bad"}
    assert [found[name]["status"] for name in names] == ["passed", "passed", "failed", "passed"]
    assert "echo again" in found["hung"]["command"]
    assert "echo again" in found["ceilings"]["command"]
    assert found["good"]["date"] <= found["hung"]["date"]
    other = new_check(commit="def")
    other.resume()
    assert other.results["stages"] == {}
    moved = check.file.rename(check.file.with_name("earlier.json"))
    later = new_check()
    later.resume()
    assert later.results["stages"] == {}
    later.resume(moved)
    assert set(later.results["stages"]) == {"good", "bad", "hung"}


def test_stopped_from_outside(gpu_check, new_check, stage, monkeypatch):
    """The file says which stage was under way."""
    check = new_check()
    seen = []

    def stopped(command, *rest, **more):
        seen.append(command)
        raise KeyboardInterrupt("SIGTERM")

    monkeypatch.setattr(gpu_check.process, "run", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(check, stage("a", "exit 0"), stage("b", "exit 0"))
    found = json.loads(check.file.read_text())["stages"]
    assert (found["a"]["status"], found["b"]["status"]) == ("interrupted", "not run")
    assert len(seen) == 1


def test_pytest_is_read_where_it_stopped(gpu_check, new_check, tmp_path, monkeypatch):
    """From a real run that dies in its last test."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)  # with workers, only one of them dies
    file = tmp_path / "test_it.py"
    file.write_text(
        "import os, pytest\n"
        "@pytest.mark.parametrize('x', ['a b', 'c'])\n"
        "def test_good(x): pass\n"
        "def test_bad(): assert 0\n"
        "def test_left(): pytest.skip('no device')\n"
        "def test_dies(): os.kill(os.getpid(), 9)\n"
    )
    options = sys.modules[gpu_check.stages.__module__].PYTEST
    command = (sys.executable, *options, "-c", os.devnull, str(file))
    found = run(new_check(), gpu_check.Stage("tests", "tests", command, 55, "tests"))["tests"]
    assert (found["status"], found["reason"]) == ("crashed", "ended by SIGKILL")
    assert found["tests"]["counts"] == {"passed": 2, "failed": 1, "skipped": 1}
    assert [name.split("::")[-1] for name in found["tests"]["failed"]] == ["test_bad"]
    assert found["tests"]["running"].endswith("::test_dies")


def test_pytest_with_workers_is_read(gpu_check, tmp_path):
    """As pytest-xdist prints it."""
    (tmp_path / "log").write_text(
        "[gw1] [ 25%] PASSED tests/gpu/test_a.py::test_x[float32-a b] \n"
        "[gw0] [ 50%] FAILED tests/gpu/test_a.py::test_y \n"
        "[gw0] [ 75%] SKIPPED tests/gpu/test_a.py::test_z \n"
    )
    found = gpu_check.reading.tests(tmp_path / "log")
    assert found["counts"] == {"passed": 1, "failed": 1, "skipped": 1}
    assert found["failed"] == ["tests/gpu/test_a.py::test_y"]


def test_a_sanitizer_is_read(gpu_check, tmp_path):
    log = tmp_path / "log"
    log.write_text(
        "ran nearest\n"
        "========= Invalid __global__ read of size 4 bytes\n"
        "=========     at void fastreid::<unnamed>::select_kernel<float>(T1)+0x30\n"
        "========= \n"
        "========= Invalid __global__ read of size 4 bytes\n"
        "=========     at void at::native::copy(T1)+0x30\n"
        "========= \n"
        "========= ERROR SUMMARY: 2 errors\n"
    )
    found = gpu_check.reading.sanitizer(log)
    assert (found["errors"], found["reports naming a kernel of ours"]) == (2, 1)
    assert (found["calls"], found["complete"]) == (["nearest"], False)
    log.write_text(
        "every call ran\n========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n"
    )
    found = gpu_check.reading.sanitizer(log)
    assert (found["errors"], found["complete"]) == (0, True)


def test_a_profile_is_read(gpu_check, tmp_path):
    """Names, units, and a line for each launch, between what the program itself prints."""
    log = tmp_path / "log"
    log.write_text(
        "==PROF== Connected to process 7\n"
        '"ID","Kernel Name","gpu__time_duration.sum","launch__registers_per_thread"\n'
        '"","","nsecond","register/thread"\n'
        '"0","tile_kernel","1,234","128"\n'
        "==PROF== Disconnected\n"
    )
    assert gpu_check.reading.profile(log) == [
        {
            "Kernel Name": "tile_kernel",
            "gpu__time_duration.sum (nsecond)": "1,234",
            "launch__registers_per_thread (register/thread)": "128",
        }
    ]
    log.write_text("==ERROR== no counters\n")
    assert gpu_check.reading.profile(log) == []


def test_every_kernel_is_profiled(gpu_check):
    """The pattern names the kernels that the sources define or launch, and nothing else."""
    pattern = sys.modules[gpu_check.stages.__module__].kernels()
    sources = [file.read_text() for file in (ROOT / "csrc").rglob("*.cu*") if "tests" not in file.parts]
    named = {name for text in sources for name in re.findall(r"\b(\w+_kernel)[(<,]", text)}
    assert set(pattern.removeprefix("^(").removesuffix(")$").split("|")) == named


def test_floors(gpu_check):
    with_floor = gpu_check.results.with_floor
    ceilings = {"copy": 100.0, "bf16": 1000.0}
    found = with_floor(
        {"name": "f", "seconds": 4.0, "bytes": 200, "operations": 3000, "unit": "bf16"}, ceilings
    )
    assert (found["floor_seconds"], found["floor_of"], found["of_floor"]) == (3.0, "operations", 0.75)
    found = with_floor({"name": "f", "seconds": 4.0, "bytes": 200, "least_of_floor": 0.6}, ceilings)
    assert (found["floor_seconds"], found["of_floor"], found["met"]) == (2.0, 0.5, False)
    found = with_floor(
        {"name": "f", "seconds": 4.0, "bytes": 200, "least_of_floor": 0.6}, ceilings, judge=False
    )
    assert "met" not in found
    found = with_floor({"name": "f", "seconds": 4.0, "operations": 1, "unit": "fp32"}, ceilings)
    assert found["no floor"] == "the ceiling of fp32 was not measured in this run"


def test_the_table_of_a_gpu(new_check, stage):
    """Ceilings on top, clocks nowhere, failures by their words, and whether a target is met."""
    lines = (
        '{"name": "copies", "ceiling": "copy", "rate": 4e12}',
        '{"name": "clocks", "ceiling_clocks": {"clocks.sm": "1980 MHz"}}',
        '{"name": "broken", "error": "RuntimeError: out of memory"}',
        '{"name": "pool", "seconds": 0.002, "bytes": 7000000000, "least_of_floor": 0.8, "target": "80 %"}',
        '{"name": "slow", "seconds": 0.5, "rival_seconds": 0.25, "target": "as fast", "met": false}',
    )
    words = "".join(f"echo '{line}' >> $FASTREID_FIGURES; " for line in lines)
    check = new_check()
    run(check, stage("ceilings", words, kind="figures"))
    table = (check.out / "table.txt").read_text()
    assert "ceiling copy       4000.00 GB/s" in table
    assert "clocks" not in table
    rows = {line.split()[0]: line.split() for line in table.splitlines() if line[:1].isalpha()}
    assert rows["broken"][1:] == ["RuntimeError:", "out", "of", "memory"]
    assert rows["pool"][1:4] == ["2.0000", "1.7500", "0.88"]
    assert rows["pool"][5:] == ["met:", "80", "%"]
    assert rows["slow"][4:] == ["0.50", "NOT", "met:", "as", "fast"]
    written = json.loads(check.file.read_text())
    assert written["stages"]["ceilings"]["figures"][1]["ceiling_clocks"] == {"clocks.sm": "1980 MHz"}


def test_names_of_stages(gpu_check):
    every = gpu_check.stages(dry=False)
    assert [s.name for s in gpu_check.named(every, "ranking, ceilings,ranking")] == ["ranking", "ceilings"]
    assert gpu_check.named(every, None) == every
    with pytest.raises(ValueError, match="gpu_check: stages: got rankng, expected some of build, "):
        gpu_check.named(every, "rankng")


@pytest.mark.parametrize("dry", [False, True])
def test_every_command_names_what_is_there(gpu_check, dry):
    """Files, test folders and parts of the benchmarks."""
    from device_figures import PARTS

    every = gpu_check.stages(dry=dry, architectures="9.0")
    for stage in every:
        assert all(
            (ROOT / word).exists() for word in stage.command if word.endswith(".py") or "tests/" in word
        )
        if "benchmarks/device_figures.py" in stage.command:
            assert stage.command[2] in PARTS
    environment = next(stage for stage in every if stage.name == "build").environment
    assert environment["TORCH_CUDA_ARCH_LIST"] == "9.0"
    assert ("FASTREID_CUDA" in environment) is not dry
    assert {stage.needs for stage in every} == {None, "build"}


def test_dry_run(tmp_path):
    """The very same way on the CPU: ceilings, a scenario, and what was not asked for."""
    command = [sys.executable, "tools/gpu_check.py", "--dry-run", "--out", str(tmp_path)]
    done = subprocess.run(
        [*command, "--stages", "ceilings,rerank"], cwd=ROOT, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "dry-run.json").read_text())
    assert found["run"]["dry_run"] is True
    assert found["ceilings"].keys() == {"copy", "fp32", "bf16", "fp64"}
    assert all(rate > 0 for rate in found["ceilings"].values())
    figures = found["stages"]["rerank"]["figures"]
    assert len(figures) == 3
    for figure in figures:
        floor = max(
            figure["bytes"] / found["ceilings"]["copy"], figure["operations"] / found["ceilings"]["bf16"]
        )
        assert figure["floor_seconds"] == pytest.approx(floor)
        assert figure["of_floor"] == pytest.approx(floor / figure["seconds"])
        assert "met" not in figure  # nothing is said of targets at tiny sizes
    assert found["stages"]["naic"] == {
        "what": "scenario 2 at the size of NAIC",
        "status": "not run",
        "reason": "it was not asked for",
    }
    table = (tmp_path / "table.txt").read_text()
    assert "DRY RUN" in table
    assert "re-ranking, MSMT17" in table
    assert "===== rerank: passed" in (tmp_path / "log.txt").read_text()


def test_no_device_is_said_at_once(gpu_check, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gpu_check.Check, "_facts", lambda self: {"torch": "2.13.0"})
    assert gpu_check.main(["--out", str(tmp_path)]) == 2
    assert "gpu_check: device: got no CUDA device, expected one" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
