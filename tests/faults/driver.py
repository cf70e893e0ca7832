# SPDX-License-Identifier: Apache-2.0
"""Runs training in forked children that die, fail or are signalled at a chosen event.

The parent imports torch once and starts no thread, so a child costs milliseconds. One JSON command a line on
standard input, one JSON answer a line on standard output. An event is a call of os.write, os.fsync,
os.replace, os.unlink or os.ftruncate, or a forward pass of the tiny model; children count them. Commands:

    argv        arguments of `fastreid_ops.train`, or
    writes      a folder: write checkpoints there as a run would (see `write_checkpoints`)
    log         file for the child's output
    trace       file for the list of events
    at, do      event number and what happens then: "kill" (SIGKILL; a write gets half its bytes out), "TERM", "INT"
    uid         user to become first, if this is root
    fail        {"call", "path", "errno", "times"}: calls whose file name contains `path` raise OSError
"""

import contextlib
import errno
import io
import json
import os
import signal
import sys
import tempfile
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import tiny
import torch

from fastreid_ops import models, train
from fastreid_ops.engine import checkpoint, run  # noqa: F401  (imported once for all children)

CALLS = ("write", "fsync", "replace", "unlink", "ftruncate")


class Events:
    """Counts events of this process and acts at the chosen one."""

    def __init__(self, command):
        self.command, self.names = command, []
        self.fail = dict(command.get("fail") or {})
        for call in CALLS:
            setattr(os, call, self._wrap(call, getattr(os, call)))
        forward = tiny.Tiny.forward
        tiny.Tiny.forward = lambda model, x: (
            self.event("forward", "train" if model.training else "eval"),
            forward(model, x),
        )[1]

    def _wrap(self, call, real):
        def wrapped(target, *rest, **more):
            name = os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else os.fspath(target)
            half = (lambda: real(target, bytes(rest[0])[: len(rest[0]) // 2])) if call == "write" else None
            self.event(call, os.path.basename(name), half)
            if call == self.fail.get("call") and self.fail["path"] in name and self.fail["times"] > 0:
                self.fail["times"] -= 1
                raise OSError(
                    getattr(errno, self.fail["errno"]), os.strerror(getattr(errno, self.fail["errno"]))
                )
            return real(target, *rest, **more)

        return wrapped

    def event(self, call, name, half=None):
        self.names.append(f"{call} {name}")
        if len(self.names) - 1 == self.command.get("at", -1):
            if self.command["do"] == "kill":
                if half is not None:
                    half()
                os.kill(os.getpid(), signal.SIGKILL)
            os.kill(os.getpid(), getattr(signal, "SIG" + self.command["do"]))


def write_checkpoints(folder):
    """Step 2 and a better best, then step 3 and the removal of all but one: everything a run does to its
    checkpoints.
    """
    for step in (2, 3):
        content = {"step": step, "weights": torch.full((1000,), float(step))}
        checkpoint.write(folder / "best.pt", content)
        checkpoint.write(folder / checkpoint.step_name(step), content)
        checkpoint.keep_last(folder, 1)


def child(command):
    output = os.open(command["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if "uid" in command and os.geteuid() == 0:
        os.setuid(command["uid"])
    events = Events(command)
    try:
        code = (
            write_checkpoints(Path(command["writes"])) or 0
            if "writes" in command
            else train.main(command["argv"])
        )
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        if "trace" in command:
            Path(command["trace"]).write_text(json.dumps(events.names))
    return code


def warm_up():
    """One run in the parent, so that what is imported and set up on first use is there in every child."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        csv = tiny.write_people(Path(folder) / "people")
        code = train.main(tiny.arguments(csv, Path(folder) / "run"))
    if code:
        sys.exit(f"driver: the warm-up run ended with {code}")


def main():
    torch.set_num_threads(1)
    models.MODELS["tiny"] = "tiny:tiny"
    warm_up()
    if threading.active_count() > 1:
        sys.exit("driver: a thread was started, forking is not safe")
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            code = 99
            try:
                code = child(json.loads(line))
            finally:
                os._exit(code)
        status = os.waitpid(pid, 0)[1]
        print(json.dumps(os.waitstatus_to_exitcode(status)), flush=True)


if __name__ == "__main__":
    main()
