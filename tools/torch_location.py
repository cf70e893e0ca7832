# SPDX-License-Identifier: Apache-2.0
"""Where is the torch to build against? Answered without importing it.

Under pip's build isolation the build runs the interpreter of the target environment with ``PYTHONPATH`` and
``PYTHONNOUSERSITE`` set so that its packages are hidden. So: look here, and if there is none, ask a fresh interpreter
without those two variables. ``FASTREID_TORCH=/path/to/site-packages/torch`` names it outright, for build front ends
that work in an environment of their own (``python -m build``).
"""

from __future__ import annotations

import importlib.util
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

_HIDING = ("PYTHONPATH", "PYTHONNOUSERSITE")


class Torch(NamedTuple):
    """One installed torch: its package directory, its version and the CUDA version it was built with (or None)."""

    root: str
    version: str
    cuda: str | None

    @property
    def release(self) -> tuple[int, int]:
        major, minor = self.version.split("+")[0].split(".")[:2]
        return int(major), int(minor)


def at(root: str | os.PathLike[str]) -> Torch | None:
    """The torch whose package directory is ``root``; None if there is none (a source tree does not count)."""
    facts_file = Path(root) / "version.py"
    if not facts_file.is_file() or not (Path(root) / "lib").is_dir():
        return None
    facts = runpy.run_path(str(facts_file))
    return Torch(str(root), str(facts["__version__"]), facts.get("cuda"))


def _here() -> Torch | None:
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return None
    return at(next(iter(spec.submodule_search_locations)))


def _in_target_environment() -> Torch | None:
    env = {name: value for name, value in os.environ.items() if name not in _HIDING}
    # From this file's folder: a directory called torch in the caller's must not be found instead.
    out = subprocess.run(
        [sys.executable, __file__],
        env=env,
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    facts = json.loads(out.stdout) if out.returncode == 0 else None
    return Torch(**facts) if facts else None


def find() -> Torch | None:
    """The torch of ``FASTREID_TORCH``, of this interpreter, or of the environment that pip hides; else None."""
    named = os.environ.get("FASTREID_TORCH")
    if named:
        torch = at(named)
        if torch is None:
            raise SystemExit(
                f"fastreid-ops: FASTREID_TORCH: got {named!r}, expected the directory of an installed torch package "
                "(the one that holds version.py and lib/)."
            )
        return torch
    return _here() or _in_target_environment()


if __name__ == "__main__":
    found = _here()
    print(json.dumps(found._asdict() if found else None))
