# SPDX-License-Identifier: Apache-2.0
"""python killed.py PLAN WORD...: runs the plan's command once for each word, each in a process of its own, and prints
how each ended.

A word is the end of a file's name: the process cuts what stands for it in two and kills itself just before the file
takes its name. "held" runs while another process works in the folder, "whole" without anything in the way. The
processes are forked from this one, so that torch is loaded once.
"""

import os
import signal
import sys
import types
from pathlib import Path

from competition_entry import tiny

from fastreid_ops import competition, models
from fastreid_ops.config.plan import read_plan
from fastreid_ops.engine.competition import pipeline  # noqa: F401  what the command would import by itself
from fastreid_ops.engine.run_folder import RunFolder

_replace = os.replace


def killing(word):
    def replace(source, target, **rest):
        if str(target).endswith(word):
            os.truncate(source, os.path.getsize(source) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        return _replace(source, target, **rest)

    return replace


def forked(work):
    """(exit status, negative for a signal) of `work` in a process of its own."""
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        os._exit(work())
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def command(plan, word):
    if word not in ("whole", "held"):
        os.replace = killing(word)
    with open(f"{plan}.said", "a") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
        print(f"== {word}", flush=True)
        status = competition.main(["--plan", plan])
        sys.stdout.flush()
    return status


def held(plan):
    """The command while a process that was forked before it has the folder."""
    ready, go = os.pipe(), os.pipe()
    holder = os.fork()
    if holder == 0:
        RunFolder(Path(read_plan(plan).folder)).lock()
        os.write(ready[1], b"1")
        os.read(go[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    status = forked(lambda: command(plan, "held"))
    os.write(go[1], b"1")
    os.waitpid(holder, 0)
    return status


def main(plan, *words):
    module = types.ModuleType("competition_tiny")
    module.tiny = tiny
    sys.modules["competition_tiny"] = module
    models.MODELS["naic_tiny"] = "competition_tiny:tiny"
    for word in words:
        print(
            word, held(plan) if word == "held" else forked(lambda word=word: command(plan, word)), flush=True
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
