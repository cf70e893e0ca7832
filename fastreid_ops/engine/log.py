# SPDX-License-Identifier: Apache-2.0
"""What a run says: text to the terminal and log.txt, figures to metrics.jsonl (and TensorBoard), a progress
bar with ETA.
"""

import contextlib
import errno
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm


class Log:
    """Lines to standard output and to a file; the file is opened for appending."""

    def __init__(self, path: Path | None = None):
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._descriptor = os.open(path, flags, 0o644) if path is not None else None

    def say(self, text: str = "") -> None:
        """One or more lines; they do not disturb a progress bar."""
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()
        self.note(text)

    def warn(self, text: str) -> None:
        """A line that something is not as it should be though the run goes on."""
        self.say(f"warning: {text}")

    def note(self, text: str) -> None:
        """Lines for the file only; a full disk costs the line, not the run."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.write(self._descriptor, (text.rstrip() + "\n").encode())

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)


def plain(value: Any) -> Any:
    """Numbers fit for JSON: NaN and infinities become null."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Metrics:
    """metrics.jsonl: one object a line, each written whole with one system call, never twice for the same
    step.

    A checkpoint stores `position()`; after a resume `truncate()` takes the file back to it, so that the
    repeated steps do not appear twice. Lines that a full disk refuses are kept and tried again with the next
    one; until then `position()` raises OSError and no checkpoint is written. `board` is a SummaryWriter or
    None.
    """

    def __init__(self, path: Path, board=None):
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._waiting: list[bytes] = []
        self._board = board

    def append(self, record: dict[str, Any]) -> None:
        """Add one record of plain values."""
        self._waiting.append((json.dumps(plain(record), allow_nan=False) + "\n").encode())
        with contextlib.suppress(OSError):
            self._flush()
        if self._board is not None:
            _to_board(self._board, record)

    def _flush(self) -> None:
        while self._waiting:
            size = os.fstat(self._descriptor).st_size
            written = os.write(self._descriptor, self._waiting[0])
            if written < len(self._waiting[0]):
                os.ftruncate(self._descriptor, size)
                raise OSError(errno.ENOSPC, "No space left for metrics.jsonl")
            self._waiting.pop(0)

    def position(self) -> int:
        """Length in bytes, durable when this returns. Errors: OSError while lines are waiting for space."""
        self._flush()
        os.fsync(self._descriptor)
        return os.fstat(self._descriptor).st_size

    def truncate(self, position: int) -> int:
        """Cut the file back to a stored position; returns how many bytes are missing (0 unless the file was
        damaged).
        """
        size = os.fstat(self._descriptor).st_size
        os.ftruncate(self._descriptor, min(position, size))
        return max(position - size, 0)

    def close(self) -> None:
        """Errors: OSError if lines are waiting still; the file is closed nevertheless."""
        try:
            self._flush()
        finally:
            os.close(self._descriptor)
        if self._board is not None:
            self._board.close()


def open_board(folder: Path, step: int):
    """A TensorBoard writer into `folder`; figures after `step` of an earlier attempt are hidden. Errors:
    ImportError with the cure.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "run.tensorboard: got true without the package tensorboard, expected it: pip install "
            "'fastreid-ops[tensorboard]' "
            "(or run.tensorboard false; metrics.jsonl holds the same figures)"
        ) from error
    return SummaryWriter(str(folder), purge_step=step + 1)


def _to_board(board, record: dict[str, Any]) -> None:
    prefix = record["kind"] if record["kind"] == "train" else f"{record['kind']}/{record['set']}"
    for key, value in record.items():
        if isinstance(value, dict):
            for name, item in value.items():
                board.add_scalar(f"{prefix}/{key}/{name}", item, record["step"])
        elif isinstance(value, (int, float)) and key not in ("epoch", "step"):
            board.add_scalar(f"{prefix}/{key}", value, record["step"])


def duration(seconds: float) -> str:
    """1:05 or 2:03:04."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Progress:
    """How far training is: a bar per epoch on a terminal, otherwise a line at the end of an epoch and at
    least every 30 s.

    The time left of the whole run comes from the fraction done since this process started.
    """

    LINE_EVERY = 30.0

    def __init__(self, log: Log, epochs: int, started_at: float, terminal: bool | None = None):
        self._log, self._epochs, self._first = log, epochs, started_at
        self._start = self._last = time.monotonic()
        self._terminal = sys.stderr.isatty() if terminal is None else terminal
        self._bar = None
        self._sums: dict[str, float] = {}
        self._count = 0

    def epoch(self, epoch: int, total: int, done: int) -> None:
        """A new epoch of `total` batches begins, `done` of them already made."""
        if self._terminal:
            name = f"epoch {epoch + 1}/{self._epochs}"
            self._bar = tqdm(
                total=total, initial=done, desc=name, unit="batch", dynamic_ncols=True, leave=False
            )

    def step(self, epoch: int, done: int, total: int, record: dict[str, Any]) -> None:
        """After an optimizer step: `done` of `total` batches of this epoch; `record` is its train record."""
        left = self._left(epoch + done / total)
        for name, value in {"loss": record["loss"], **record["losses"]}.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {record['loss']:.3f}, run ends in {left}", refresh=False)
            self._bar.update(done - self._bar.n)
        if done == total or (not self._terminal and time.monotonic() - self._last > self.LINE_EVERY):
            self._close_bar()
            self._last = time.monotonic()
            means = " ".join(f"{name} {total_of / self._count:.4f}" for name, total_of in self._sums.items())
            self._sums, self._count = {}, 0
            self._log.say(
                f"epoch {epoch + 1}/{self._epochs} batch {done}/{total} step {record['step']}: mean {means}, "
                f"lr {record['lr']:.2e}, {record['images_per_s']:.0f} images/s, {left} left"
            )

    def _left(self, progress: float) -> str:
        done = progress - self._first
        elapsed = time.monotonic() - self._start
        return duration(elapsed / done * (self._epochs - progress)) if done > 0 else "?"

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def close(self) -> None:
        self._close_bar()
