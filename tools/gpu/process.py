# SPDX-License-Identifier: Apache-2.0
"""One command in a process group of its own, for at most so many seconds: whatever it does, its caller goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

GRACE = 3.0  # seconds between the request to stop and the end of the whole group


class Outcome(NamedTuple):
    """How a command ended: passed, failed (its own exit status), crashed (a signal), timed out, interrupted."""

    status: str
    returncode: int | None
    seconds: float
    reason: str | None


def run(
    command: Sequence[str], limit: float, log: Path, *, cwd: Path, environment: Mapping[str, str]
) -> Outcome:
    """Run it, all of its output into ``log``. Its whole group is ended afterwards, so that nothing of it holds the
    device. KeyboardInterrupt (and what else a signal handler raises) ends the group and is passed on."""
    start = time.monotonic()
    with log.open("wb") as output:
        try:
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            return Outcome("failed", None, 0.0, f"{command[0]}: {error.strerror}")
        try:
            returncode = process.wait(timeout=max(0.0, limit))
        except subprocess.TimeoutExpired:
            returncode = None
        finally:
            _end(process)
    seconds = time.monotonic() - start
    if returncode is None:
        return Outcome("timed out", None, seconds, f"not done after {limit:.0f} s")
    if returncode < 0:
        return Outcome("crashed", returncode, seconds, f"ended by {_signal_name(-returncode)}")
    if returncode > 0:
        return Outcome("failed", returncode, seconds, f"exit status {returncode}")
    return Outcome("passed", 0, seconds, None)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _end(process: subprocess.Popen) -> None:
    """The group: asked, then killed. It may be gone already, and the child's own exit does not end what it started."""
    asked = process.poll() is None
    _kill(process.pid, signal.SIGTERM)
    if asked:
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=GRACE)
    _kill(process.pid, signal.SIGKILL)
    if process.poll() is None:
        # What is left waits for the device inside a driver call, and ends when that answers.
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=GRACE)


def _kill(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
