# SPDX-License-Identifier: Apache-2.0
"""Loads the native libraries, or says why not and what mends it.

``_C`` holds all CPU operators and registers them with torch when it is imported; ``_cuda.so`` registers their CUDA
kernels and is loaded where torch was built with CUDA. Without ``_C`` the operators fall back to their ``reference()``,
after one warning. torch has to be imported first: the libraries find its own by name, not by path.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import json
import os
import re
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

from fastreid_ops._version import __version__

_PACKAGE = Path(__file__).resolve().parent
ISA_NAMES = ("baseline", "avx2", "avx512", "avx512_bf16")


class LibraryStatus(NamedTuple):
    """What is loaded. ``reason`` and ``fix`` (a shell command) are None where nothing is amiss."""

    native: bool
    cuda: bool
    reason: str | None
    fix: str | None
    torch: str
    torch_cuda: str | None
    built_torch: str | None
    built_cuda: str | None


def rebuild_command(*, cuda: bool = False) -> str:
    """The command that builds this installation anew for the running interpreter and torch."""
    prefix = "FASTREID_CUDA=1 " if cuda else ""
    pip = f"{prefix}{sys.executable} -m pip install"
    source = _PACKAGE.parent
    if (source / "setup.py").is_file() and (source / "CMakeLists.txt").is_file():
        return f"{pip} -e {source}"
    return f"{pip} --force-reinstall --no-deps --no-cache-dir {_origin()}"


def _origin() -> str:
    """Where a non-editable installation can be built from again: where pip had it from, or an index."""
    try:
        record = importlib.metadata.distribution("fastreid-ops").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        record = None
    url = json.loads(record)["url"] if record else ""
    if url and not url.endswith(".whl"):
        return url
    return f"--no-binary fastreid-ops fastreid-ops=={__version__}"


def libraries() -> dict[str, list[Path]]:
    """The library files in the package folder, whichever Python they were built for."""
    return {name: sorted(_PACKAGE.glob(f"{name}.*so")) for name in ("_C", "_cuda", "numpy")}


def built_with(library: Path) -> str | None:
    """The torch version that ``library`` (``_C``) was built with, read from its bytes: it may not load."""
    found = re.search(rb"fastreid-ops built with torch ([^\s\0]+)", library.read_bytes())
    return found[1].decode() if found else None


def _why_not(error: ImportError, torch_version: str) -> tuple[str, str | None]:
    """Why ``_C`` did not import, in one sentence, and the torch it was built with."""
    files = libraries()["_C"]
    tag = f"cpython-{sys.version_info.major}{sys.version_info.minor}"
    if isinstance(error, ModuleNotFoundError):
        if not files:
            return f"the native library was never built in {_PACKAGE}", None
        return f"the native library was built for another Python ({files[0].name}; this one is {tag})", None
    built = next((built_with(file) for file in files if tag in file.name), None)
    return (
        f"the native library, built with torch {built or 'of unknown version'}, does not load with torch "
        f"{torch_version} ({error})"
    ), built


def _load_cuda(torch, built_cuda: str | None) -> tuple[bool, str | None]:
    """Loads the CUDA kernels; returns (loaded, why not)."""
    file = _PACKAGE / "_cuda.so"
    running = torch.version.cuda
    if built_cuda is None or not file.is_file():
        return (
            False,
            f"torch {torch.__version__} has CUDA {running}, but fastreid-ops was built for the CPU only",
        )
    if built_cuda.split(".")[0] != running.split(".")[0]:
        return (
            False,
            f"fastreid-ops was built with CUDA {built_cuda}, torch {torch.__version__} has CUDA {running}",
        )
    try:
        torch.ops.load_library(str(file))
    except (OSError, RuntimeError) as error:
        return False, f"the CUDA kernels do not load with torch {torch.__version__}: {error}"
    return True, None


@functools.cache
def status() -> LibraryStatus:
    """Loads what can be loaded, once, and says what that was. Never warns.

    Raises:
        ImportError: torch is not installed.
        ValueError: the environment variable FASTREID_ISA is none of baseline, avx2, avx512, avx512_bf16.
    """
    isa = os.environ.get("FASTREID_ISA")
    if isa is not None and isa not in ISA_NAMES:
        raise ValueError(f"FASTREID_ISA: got {isa!r}, expected baseline, avx2, avx512 or avx512_bf16")
    import torch

    running = (torch.__version__, torch.version.cuda)
    try:
        core = importlib.import_module("fastreid_ops._C")
    except ImportError as error:
        reason, built = _why_not(error, torch.__version__)
        return LibraryStatus(False, False, reason, rebuild_command(), *running, built, None)
    facts = (*running, core.torch_version, core.cuda_version)
    if core.version != __version__:
        reason = f"the native library was built from fastreid-ops {core.version}, this is {__version__}"
        return LibraryStatus(False, False, reason, rebuild_command(), *facts)
    if torch.version.cuda is None:
        return LibraryStatus(True, False, None, None, *facts)
    loaded, reason = _load_cuda(torch, core.cuda_version)
    return LibraryStatus(True, loaded, reason, None if loaded else rebuild_command(cuda=True), *facts)


@functools.cache
def load() -> LibraryStatus:
    """`status()` for the operators: warns, once, where the native code cannot be used on this machine."""
    found = status()
    if found.reason is not None and (not found.native or _has_gpu()):
        where = "CUDA tensors take" if found.native else "All operators take"
        warnings.warn(
            f"fastreid_ops: {found.reason}. {where} the slow plain-torch path. To mend it: {found.fix}",
            RuntimeWarning,
            stacklevel=2,
        )
    return found


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
