# SPDX-License-Identifier: Apache-2.0
"""Procedural people as a data set: rendered once into a folder, verified whenever it is read."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL

from fastreid_ops._atomic import sync_folder
from fastreid_ops.data import people as renderer
from fastreid_ops.data.manifest import Manifest, ManifestError
from fastreid_ops.data.people import PeopleOptions, render_dataset

SEAL = "complete.json"
MANIFEST = "manifest.csv"


def read(root: str | os.PathLike[str] | None = None, **options: object) -> Manifest:
    """Procedural people for training and, with other identities, for testing.

    Args:
        root: folder to keep the pictures in, made if it is not there; when None, people-<hash of options and
            renderer> in $FASTREID_OPS_CACHE or ~/.cache/fastreid_ops.
        options: fields of `PeopleOptions`.

    Returns:
        the manifest of a folder that is complete and unchanged: every file's sha256 is compared with the seal
        written after rendering. Two processes that want the same folder wait for one another. A damaged
        folder in the cache is rendered anew; anywhere else it is left alone and refused.

    Raises:
        ValueError: for unknown options, or a `root` that holds something else.
    """
    known = [field.name for field in dataclasses.fields(PeopleOptions)]
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            meant = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(f"people: options: got {name!r}, expected one of {', '.join(known)}{meant}")
    chosen = PeopleOptions(**options)
    content = {"options": json.loads(json.dumps(chosen.to_dict())), **_renderer()}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    folder = Path(root) if root is not None else cache_folder() / f"people-{digest}"
    # A folder of the user's own stays good when the renderer is improved; the cache follows the renderer.
    wanted = {"options": content["options"]} if root is not None else content
    if _damage(folder, wanted) is not None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _lock(folder):
            # Another process may have finished while this one waited.
            damage = _damage(folder, wanted)
            if damage is not None:
                if root is not None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                    raise ManifestError(
                        f"people: root: got {str(folder)!r}, {damage}; expected a new or empty folder"
                    )
                _render(folder, chosen, content)
    return Manifest.read_csv(folder / MANIFEST)


def cache_folder() -> Path:
    """$FASTREID_OPS_CACHE, or ~/.cache/fastreid_ops."""
    return Path(os.environ.get("FASTREID_OPS_CACHE") or Path.home() / ".cache" / "fastreid_ops")


def _renderer() -> dict[str, str]:
    """What decides, beside the options, which pixels come out: the renderer's source and the libraries it uses."""
    digest = hashlib.sha256()
    for source in sorted(Path(renderer.__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return {"renderer": digest.hexdigest(), "numpy": np.__version__, "pillow": PIL.__version__}


def _damage(folder: Path, content: dict) -> str | None:
    """Why the folder cannot be used, or None when it is whole."""
    try:
        seal = json.loads((folder / SEAL).read_text(encoding="utf-8"))
        if {name: seal.get(name) for name in content} != content:
            return "which was rendered with other options"
        for name, digest in seal["files"].items():
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
                return f"where {name} has changed since it was rendered"
        return None if MANIFEST in seal["files"] else f"whose {SEAL} is damaged"
    except OSError as error:
        return f"where {Path(error.filename or SEAL).name} is missing or cannot be read"
    except (ValueError, KeyError, AttributeError, TypeError):
        return f"whose {SEAL} is damaged"


def _render(folder: Path, options: PeopleOptions, content: dict) -> None:
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    try:
        target = work / "people"
        render_dataset(target, options)
        names = sorted(path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file())
        files = {name: hashlib.sha256((target / name).read_bytes()).hexdigest() for name in names}
        with (target / SEAL).open("w", encoding="utf-8") as seal:
            json.dump({**content, "files": files}, seal, indent=1)
            seal.flush()
            os.fsync(seal.fileno())
        if folder.exists():
            # Moved away first, so that the name never stands for a mixture of old and new.
            os.rename(folder, work / "old")
        os.rename(target, folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:
        # Without file locks two processes may both render; the rename still leaves one whole folder.
        yield
        return
    # The lock belongs to the process and ends with it, however it ends. The file stays: removing it would let
    # a third process lock another file of the same name.
    with (folder.parent / f".{folder.name}.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
