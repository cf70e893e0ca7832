# SPDX-License-Identifier: Apache-2.0
"""SIGKILL in the middle of every stage, then the same command: real processes, and the bytes of an entry that nothing
happened to.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

from competition_entry import contents, run
from competition_entry import plan as make_plan

DRIVER = Path(__file__).with_name("killed.py")
# In the order of the stages: the file that the process was about to finish.
PLACES = (
    "models/a/checkpoints/step-00000005.pt",  # training, at the end of its second epoch
    "weights/a-epoch2.safetensors",
    "seals/train-a.json",  # everything made, nothing written down
    "features/a-epoch1.npy",
    "distances/a-epoch2-green-exact.npy",
    "pseudo/by_a.csv",
    "models/b/config.yaml",  # a run that has hardly begun
    "results/b-exact.json",
    "result-exact.json",
)


def test_killed_in_every_stage(done, root, tmp_path):
    plan = make_plan(root, tmp_path)
    words = [*PLACES[:6], "held", *PLACES[6:], "whole"]
    ended = subprocess.run(
        [sys.executable, str(DRIVER), plan, *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert dict(line.rsplit(" ", 1) for line in ended.splitlines()) == {
        **dict.fromkeys(PLACES, "-9"),
        "held": "1",
        "whole": "0",
    }
    entry = tmp_path / "entry"
    assert contents(entry) == contents(done[0])
    assert not list(entry.rglob("*.tmp"))
    said = dict(part.split("\n", 1) for part in Path(f"{plan}.said").read_text().split("== ")[1:])
    assert re.search(r"got a folder in use by process \d+ on .* since", said["held"])
    # What is done is not done again, and what was in the middle of something goes on from there.
    assert "resumed at epoch" in said[PLACES[1]]
    assert "features/a-epoch1.npy.tmp was not finished and is removed" in said[PLACES[4]]
    assert "train-a: done" in said[PLACES[4]]
    assert "features-a-epoch1: done" in said[PLACES[5]]
    last = said["whole"].splitlines()
    assert [line for line in last if re.match(r"(train|features|pseudo|distances)-", line)] == [
        line for line in last if line.endswith(": done")
    ]
    assert "result-exact" in last
    assert run(plan, "--status") == 0
