# SPDX-License-Identifier: Apache-2.0
"""Work shared out over the ranks of a torch.distributed group: every rank ends up with what one process computes
alone, bit for bit."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sharded import results

WORKER = Path(__file__).with_name("sharded.py")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_equal_bits_on_every_rank(ranks, tmp_path):
    want = results(None)
    targets = [tmp_path / f"{rank}.pt" for rank in range(ranks)]
    running = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(rank), str(ranks), str(tmp_path / "rendezvous"), str(target)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, target in enumerate(targets)
    ]
    for process in running:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
    for target in targets:
        got = torch.load(target, weights_only=True)
        assert got.keys() == want.keys()
        for name, value in want.items():
            assert torch.equal(got[name], value), name
