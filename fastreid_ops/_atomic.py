# SPDX-License-Identifier: Apache-2.0
"""Whole-file writes: whatever happens, a file is the old one or the new one."""

import os
from collections.abc import Callable
from pathlib import Path


def write_atomic(
    path: Path, data: bytes | memoryview, before_rename: Callable[[], None] | None = None
) -> None:
    """Put `data` under `path` so that after a crash there is the old file or the new one, never a part.

    Temp file in the same folder, fsync, `before_rename()`, rename, fsync of the folder. One writer of a path at a
    time. Errors: OSError; the temp file is removed and an older file untouched.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if before_rename is not None:
            before_rename()
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names of a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
