# SPDX-License-Identifier: Apache-2.0
"""Signals to all processes of a run: the workers leave the first to their parent."""

import multiprocessing
import os
import signal

import numpy as np
import pytest
from PIL import Image

from fastreid_ops.data.loader import EvalLoader
from fastreid_ops.data.manifest import Manifest
from fastreid_ops.data.transforms import EvalTransform
from fastreid_ops.data.worker_signals import leave_to_the_parent


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_epoch_outlives_a_signal(tmp_path, number):
    for row in range(8):
        Image.fromarray(np.full((8, 4, 3), 20 * row, np.uint8)).save(tmp_path / f"{row}.png")
    names = [f"{row}.png" for row in range(8)]
    manifest = Manifest(tmp_path, names, [0] * 8, [0] * 8, ["gallery"] * 8)
    others, found = set(multiprocessing.active_children()), []
    for batch in EvalLoader(manifest, EvalTransform(8, 4), 1, 1):
        if not found:
            (worker,) = set(multiprocessing.active_children()) - others
            os.kill(worker.pid, number)
        found += batch.paths
    assert found == names


def _answer(pipe):
    leave_to_the_parent(0)
    while True:
        pipe.send("here")
        pipe.recv()


def test_the_second_ends_a_worker():
    mine, its = multiprocessing.Pipe()
    worker = multiprocessing.get_context("fork").Process(target=_answer, args=(its,), daemon=True)
    worker.start()
    assert mine.recv() == "here"
    os.kill(worker.pid, signal.SIGTERM)
    mine.send("?")
    assert mine.recv() == "here"
    os.kill(worker.pid, signal.SIGTERM)
    worker.join(30)
    assert worker.exitcode == -signal.SIGTERM
