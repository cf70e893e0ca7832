# SPDX-License-Identifier: Apache-2.0
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


class Driver:
    """Sends commands to driver.py; see there."""

    def __init__(self, folder):
        self.folder = folder
        self.log = folder / "output.txt"
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "driver.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def do(self, **command):
        """Exit status of the child; negative for a signal. Its output is in `self.output`."""
        self.log.write_text("")
        command = {"log": str(self.log), **command}
        self._process.stdin.write(json.dumps(command, default=str) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the driver died"
        return json.loads(answer)

    @property
    def output(self):
        return self.log.read_text()

    def close(self):
        self._process.stdin.close()
        self._process.wait(30)


@pytest.fixture(scope="session")
def driver(tmp_path_factory):
    made = Driver(tmp_path_factory.mktemp("driver"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def tiny():
    """The module tiny.py (this folder is no package)."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("fault_tiny", HERE / "tiny.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def people(tmp_path_factory, tiny):
    """CSV of the tiny data set."""
    return tiny.write_people(tmp_path_factory.mktemp("people"))


def outcome(run):
    """What a run ends with: the sha256 of its weights, its metrics without wall-clock figures, its results."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("images_per_s", None)
    files = {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted((run / "results").glob("*.json"))
    }
    weights = hashlib.sha256((run / "weights.safetensors").read_bytes()).hexdigest()
    best = (run / "checkpoints" / "best.pt").exists()
    return {
        "weights": weights,
        "metrics": lines,
        "results": files,
        "baselines": (run / "baselines.json").read_text(),
        "best": best,
    }


@pytest.fixture(scope="session")
def undisturbed(driver, people, tiny, tmp_path_factory):
    """(outcome, list of events) of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert driver.do(argv=tiny.arguments(people, folder / "run"), trace=folder / "trace.json") == 0, (
        driver.output
    )
    return outcome(folder / "run"), json.loads((folder / "trace.json").read_text())


@pytest.fixture(name="outcome")
def _outcome():
    return outcome
