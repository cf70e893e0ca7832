# SPDX-License-Identifier: Apache-2.0
"""The folder of a run: made once, never overwritten, held by one process at a time, its files replaced as a
whole.
"""

import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any

from fastreid_ops._atomic import write_atomic

LOCK = "run.lock"
BEFORE_CONFIG = {LOCK, "log.txt", "recipe.txt", "config_diff.json", "environment.json"}
_held: set[Path] = set()


class RunFolderError(ValueError):
    """The folder cannot be used for this run; the message says why and what to do."""


def remove(path: Path) -> None:
    """Remove a file if it is there."""
    if path.exists():
        os.unlink(path)


class RunFolder:
    """Paths and whole-file writes of one run; holds the folder's lock until `release()` or the end of the
    process.
    """

    writes = True

    def __init__(self, path: Path):
        self.path = path.resolve()
        self._lock: int | None = None

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def write_text(self, name: str, text: str) -> Path:
        """Write `name` (a relative path) as a whole, making its folder."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text.encode())
        return path

    def write_json(self, name: str, value: Any) -> Path:
        """Write `name` as JSON as a whole; NaN and infinities are refused (ValueError)."""
        return self.write_text(name, json.dumps(value, indent=1, allow_nan=False) + "\n")

    def read_json(self, name: str) -> Any:
        """The value of a JSON file of this run, None if there is no such file."""
        path = self.path / name
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def lock(self) -> str | None:
        """Hold the folder for this process. Returns a remark if the last holder died without letting go.

        The lock is the kernel's (POSIX record lock), so it ends with the process however that ends; the
        file's text only serves the messages. Errors: RunFolderError naming the process that holds it.
        """
        if self.path in _held:
            raise RunFolderError(
                f"run folder: {self.path}: got a second run in this process, expected one run per folder"
            )
        try:
            lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise RunFolderError(
                f"run folder: {self.path}: got {error.strerror}, expected a folder that can be written"
            ) from error
        last = os.read(lock, 4096).decode(errors="replace").strip()
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise RunFolderError(
                f"run folder: {self.path}: got a folder in use by {last or 'another process'}, "
                "expected one run per folder; wait for that run or end it"
            ) from error
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"process {os.getpid()} on {os.uname().nodename} since {since}\n".encode(), 0)
        self._lock = lock
        _held.add(self.path)
        return (
            f"the last run here ended without letting go of the folder ({last}); taken over" if last else None
        )

    def release(self) -> None:
        """Let go of the folder."""
        if self._lock is not None:
            os.ftruncate(self._lock, 0)
            os.close(self._lock)
            self._lock = None
            _held.discard(self.path)


def _unused(path: Path) -> bool:
    """Empty, or holding only what a start that ended before config.yaml was written leaves behind."""
    return all(
        child.name in BEFORE_CONFIG
        or child.name.endswith(".tmp")
        or (child.name == "checkpoints" and child.is_dir() and not any(child.iterdir()))
        for child in path.iterdir()
    )


def create(folder: str | None, recipe: str) -> RunFolder:
    """Make and lock a new run folder: the one named, or runs/<recipe>-<date-time>-<n>.

    Errors: RunFolderError if the named folder has content, cannot be written or is in use.
    """
    try:
        if folder is not None:
            path = Path(folder)
            path.mkdir(parents=True, exist_ok=True)
            if not _unused(path):
                raise RunFolderError(
                    f"run.folder: got {folder}, which is not empty, expected a new folder; to go on with "
                    f"that run: --resume {folder}"
                )
        else:
            stem = f"{recipe}-{time.strftime('%Y%m%d-%H%M%S')}"
            number = 1
            while True:
                path = Path("runs") / f"{stem}-{number}"
                try:
                    path.mkdir(parents=True)
                    break
                except FileExistsError:
                    number += 1
    except OSError as error:
        where = folder or "runs"
        raise RunFolderError(
            f"run.folder: {where}: got {error.strerror}, expected a place that can be written"
        ) from error
    run = RunFolder(path)
    run.lock()
    try:
        run.checkpoints.mkdir(exist_ok=True)
    except OSError as error:
        raise RunFolderError(
            f"run.folder: {path}: got {error.strerror}, expected a folder that can be written"
        ) from error
    return run


def reopen(folder: Path) -> tuple[RunFolder, str | None]:
    """Lock the folder of an earlier run; returns it and the remark of `RunFolder.lock`."""
    run = RunFolder(folder)
    remark = run.lock()
    run.checkpoints.mkdir(exist_ok=True)
    return run, remark
