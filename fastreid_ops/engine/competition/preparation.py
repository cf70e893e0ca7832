# SPDX-License-Identifier: Apache-2.0
"""The folder of a competition entry before any work: that it can be written, has room, and holds no halves of files."""

import shutil
from pathlib import Path

from fastreid_ops.config import ConfigError

# Where the stages write; the runs in models/ see to their own folders.
PARTS = (".", "features", "distances", "models", "pseudo", "results", "seals", "weights")


def make_folder(folder: Path) -> None:
    """Make it where it is not there. Errors: ConfigError where it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"folder: {folder}: got {error.strerror}, expected a place that can be written"
        ) from error


def remove_halves(folder: Path) -> list[str]:
    """Remove what processes that were killed had not finished writing; returns the names. The folder must be held."""
    left = [file for part in PARTS for file in sorted((folder / part).glob("*.tmp"))]
    for file in left:
        file.unlink()
    return [str(file.relative_to(folder)) for file in left]


def check_room(folder: Path, shapes: dict[str, tuple[int, int]]) -> None:
    """`shapes` has by file name (rows, columns) of float32 matrices that will be written. Those that are there already
    do not count. Errors: ConfigError where the disk has no room for the others.
    """
    wanted = {name: shape for name, shape in shapes.items() if not (folder / name).is_file()}
    needed = sum(4 * rows * columns for rows, columns in wanted.values())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ConfigError(
            f"folder: {folder}: got {free / 2**20:.1f} MiB free, expected {needed / 2**20:.1f} for {len(wanted)} "
            "matrices of distances"
        )
