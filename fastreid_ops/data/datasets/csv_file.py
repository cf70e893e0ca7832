# SPDX-License-Identifier: Apache-2.0
"""Your own data: a CSV manifest whose files must be there."""

from __future__ import annotations

import os
from pathlib import Path, PureWindowsPath

from fastreid_ops.data import manifest_csv
from fastreid_ops.data.manifest import Manifest, ManifestError


def read(path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None) -> Manifest:
    """Read a manifest and make sure that every image file exists.

    Args:
        path: CSV file with the columns path,pid,camid,split and any of modality,clothes,tracklet,frame.
        root: folder that relative paths start from; the CSV file's own folder when None.

    Raises:
        ManifestError: a ValueError listing what is wrong as `file:line: column: got X, expected Y`.
    """
    file = Path(path)
    if root is not None and not Path(root).is_dir():
        raise ManifestError(
            f"{file}: root: got {os.fspath(root)!r}, which is no folder, expected the images' folder"
        )
    manifest = Manifest.read_csv(file, root)
    missing = [row for row in range(len(manifest)) if not manifest.file(row).is_file()]
    if missing:
        # Only to name lines in the message; a manifest that is right is parsed once.
        lines = manifest_csv.parse(file)[1]
        problems = [f"{file}:{lines[row]}: path: {_what_is_there(manifest, row)}" for row in missing[:5]]
        if len(missing) > 5:
            problems.append(
                f"{file}: {len(missing)} of {len(manifest)} files are missing; relative paths start from "
                f"{manifest.root}"
            )
        raise ManifestError(problems)
    return manifest


def _what_is_there(manifest: Manifest, row: int) -> str:
    name, full = manifest.path[row], manifest.file(row)
    if full.is_dir():
        return f"got {name!r}, a folder, expected an image file"
    if os.path.lexists(full):
        return f"got {name!r}, a broken link, a pipe or a device, expected an image file"
    if "\\" in name and (manifest.root / PureWindowsPath(name).as_posix()).is_file():
        return f"got {name!r}, expected forward slashes: {PureWindowsPath(name).as_posix()!r} is there"
    if full.parent.is_dir():
        for other in full.parent.iterdir():
            if other.name.lower() == full.name.lower():
                return f"got {name!r}, which does not exist; {other.name!r} with other capitals does"
    return f"got {name!r}, expected a file at {full}"
