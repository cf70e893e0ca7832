# SPDX-License-Identifier: Apache-2.0
"""One rank of test_ranks, or a process alone: python ranks_worker.py (RANK|alone) PORTS FOLDER. Writes what it got to
FOLDER/<rank>.pt. This folder and that of tiny.py are on the path.
"""

import os
import signal
import sys
import time
from pathlib import Path

import conftest
import ranks_systems
import tiny
import torch
from torch.distributed import new_group

from fastreid_ops import evaluate, models, train
from fastreid_ops.engine import ranks as module
from fastreid_ops.engine.interrupt import Interrupted
from fastreid_ops.engine.log import Log
from fastreid_ops.engine.loop import Tools, fit
from fastreid_ops.engine.methods import identity
from fastreid_ops.engine.silent import SilentMetrics

# Losses without terms between images, nothing drawn, statistics that stand still: then the mean over two halves is the
# whole.
EQUAL = {
    "loss": {"triplet": 0.0},
    "optim": {"name": "sgd", "lr": 0.1, "momentum": 0.0, "clip": 1.0},
    "eval": {"every": 0},
}
WAYS = {
    "plain": {"freeze_bn": True, "epochs": 2},
    "accumulated": {"freeze_bn": True, "epochs": 2, "accumulate": 2},
    "fixed base": {"freeze_bn": True, "epochs": 2, "fixed_base_epochs": 1, "open_layers": ["heads"]},
}


class Recorded(SilentMetrics):
    def __init__(self):
        self.records = []

    def append(self, record):
        self.records.append({"loss": record["loss"], "norm": record["grad_norm"]})


class Part(conftest.Loader):
    """A rank's places of each batch."""

    def __init__(self, slots):
        super().__init__()
        self.slots = slots

    def iterate(self, epoch, start):
        for batch in super().iterate(epoch, start):
            places = self.slots(len(batch.pids))
            yield conftest.Batch(batch.images[places], batch.pids[places], [batch.paths[i] for i in places])


def trained(way, ranks):
    """Weights, buffers and records of a small training run; also of a method whose second head is never used."""
    state = conftest.make_state(heads=1, dropout=0.0, train=WAYS[way], **EQUAL)
    state.model.unused = torch.nn.Linear(2, 2)
    metrics = Recorded()
    tools = Tools(
        loader=Part(ranks.slots),
        step=identity.step,
        assess=lambda model: {},
        save=lambda state, best: None,
        metrics=metrics,
        log=Log(),
        check=lambda: None,
        ranks=ranks,
    )
    if ranks.world > 1:
        shared = module.SharedStep(ranks, state, identity.step)
        tools.step, tools.adding = shared.shared, shared.adding
    fit(state, tools)
    return {"weights": state.model.state_dict(), "records": metrics.records}


def meeting(ranks):
    """Rank 1 is late: what the first one says. In a group of its own, which is of no use afterwards."""
    late = module.Ranks()
    late.rank, late.world, late.timeout, late.group = ranks.rank, ranks.world, 0.5, new_group(backend="gloo")
    if ranks.rank == 1:
        time.sleep(1.5)
    try:
        late.meet("epoch 3, batch 7")
    except module.RankError as error:
        return str(error)
    return ""


def silent(ranks):
    """Rank 1 is at work elsewhere while the first one finds that a call failed: what that one says."""
    module.ANSWER = 0.5
    if ranks.rank == 1:
        time.sleep(1.5)
        return ""
    return str(ranks.lost())


def stopped(ranks):
    """Rank 1 had a signal: the call at which each stops, and the signal's number."""
    calls = []

    def check():
        calls.append(1)
        if ranks.rank == 1 and len(calls) == 3:
            raise Interrupted(signal.SIGTERM)

    agreed = ranks.agreed(check)
    try:
        for _ in range(5):
            agreed()
    except Interrupted as stop:
        return len(calls), stop.number
    return None


def runs(rank, ports, people, folder):
    """The commands: a whole run; one in which rank 1 gets a signal, its resumption and that of one in which it was
    killed; an evaluation.
    """
    models.MODELS["tiny"] = "tiny:tiny"
    forward, count = tiny.Tiny.forward, []

    def counted(self, images):
        if self.training:
            count.append(1)
            if rank == 1 and len(count) == interrupt_at:
                os.kill(os.getpid(), signal.SIGTERM)
        return forward(self, images)

    tiny.Tiny.forward = counted
    interrupt_at = 0
    os.environ["MASTER_PORT"] = ports.pop()
    statuses = [train.main(tiny.arguments(people, folder / "whole"))]
    count.clear()
    interrupt_at = 5
    os.environ["MASTER_PORT"] = ports.pop()
    statuses.append(train.main(tiny.arguments(people, folder / "cut")))
    interrupt_at = 0
    os.environ["MASTER_PORT"] = ports.pop()
    for name in ("cut", "killed"):
        statuses.append(train.main(["--resume", str(folder / name)]))
        os.environ["MASTER_PORT"] = ports.pop()
    return [*statuses, evaluate.main([str(folder / "cut")])]


def systems(folder, ranks):
    """One system of each kind."""
    people = folder / "systems" / "people.csv"
    return {name: ranks_systems.trained(name, people, ranks) for name in ranks_systems.SYSTEMS}


if __name__ == "__main__":
    # A rendezvous for each group: the next one must not meet what is left of the last.
    name, ports, folder = sys.argv[1], sys.argv[2].split(","), Path(sys.argv[3])
    torch.set_num_threads(1)
    people = folder / "people" / "people.csv"
    ranks_systems.add_networks()
    if name == "alone":
        models.MODELS["tiny"] = "tiny:tiny"
        train.main(tiny.arguments(people, folder / "alone"))
        found = {way: trained(way, module.Ranks()) for way in WAYS} | systems(folder, module.Ranks())
        torch.save(found, folder / "alone.pt")
        sys.exit()
    rank = int(name)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    found = {"runs": runs(rank, ports, people, folder)}
    os.environ["MASTER_PORT"] = ports.pop()
    ranks = module.Ranks(torch.device("cpu"), 120.0)
    found |= {way: trained(way, ranks) for way in WAYS} | systems(folder, ranks)
    found["stopped"] = stopped(ranks)
    found["meeting"] = meeting(ranks)
    found["silent"] = silent(ranks)
    torch.save(found, folder / f"{rank}.pt")
    # What failed leaves the group unusable; the process just ends.
