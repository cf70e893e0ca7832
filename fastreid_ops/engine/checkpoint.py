# SPDX-License-Identifier: Apache-2.0
"""Checkpoint files: written so that a crash at any point leaves a usable one, verified before they are
believed.

A checkpoint NAME.pt has a sidecar NAME.pt.sha256 in the format of `sha256sum`. Order of a write, each step
durable (fsync of the file and of the folder) before the next begins:

    1. NAME.pt.tmp       the content, whole
    2. NAME.pt.sha256    the new digest; if NAME.pt exists already (best.pt), its digest as well
    3. NAME.pt           by rename from NAME.pt.tmp
    4. NAME.pt.sha256    the new digest alone, if there were two
    5. NAME.pt is read back, compared and loaded; only then may older ones be removed

Whoever is killed between two steps leaves either the old pair, or the old file with a sidecar that knows it,
or the new pair. A checkpoint is valid if its sha256 is any line of its sidecar. One without a sidecar is
never taken up by itself.

The content is tensors and plain Python values, read with `weights_only=True`: reading a file never runs code
from it.
"""

import contextlib
import hashlib
import io
import pickletools  # disassembles, never runs
import re
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError  # the type of torch.load's refusal; nothing here unpickles
from typing import Any

import torch

from fastreid_ops._atomic import write_atomic
from fastreid_ops.engine.run_folder import remove

FORMAT = "fastreid_ops.checkpoint"
VERSION = 1
_REFUSALS = (
    RuntimeError,
    ValueError,
    UnpicklingError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    OSError,
)
_PLAIN = (
    "torch._utils._rebuild",
    "collections.OrderedDict",
    "torch.FloatStorage",
    "torch.storage",
    "torch.serialization",
)
_STEP = re.compile(r"step-(\d{8})\.pt")


class CheckpointError(ValueError):
    """A file that is not a sound checkpoint of this project; the message says what it is instead."""


def step_name(step: int) -> str:
    """File name of the checkpoint after `step` optimizer steps."""
    return f"step-{step:08d}.pt"


def steps(folder: Path) -> list[Path]:
    """The step checkpoints of a folder, newest first, sound or not."""
    return sorted((p for p in folder.glob("step-*.pt") if _STEP.fullmatch(p.name)), reverse=True)


def sidecar(path: Path) -> Path:
    """Where the sha256 of `path` is kept."""
    return path.with_name(path.name + ".sha256")


def write(path: Path, content: dict[str, Any]) -> str:
    """Write one checkpoint in the order above and read it back; returns its sha256.

    Memory: the serialised content once (serialising straight into a full disk would leave torch's writer in
    an undefined state). Errors: OSError from the disk, in which case whatever was valid before is valid
    still; CheckpointError if it reads back wrong.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "version": VERSION, **content}, buffer)
    data = buffer.getbuffer()
    digest = hashlib.sha256(data).hexdigest()
    lines = [digest]
    if path.exists():
        lines += [line for line in _digests(path) if line != digest]

    def announce():
        write_atomic(sidecar(path), "".join(f"{line}  {path.name}\n" for line in lines).encode())

    write_atomic(path, data, before_rename=announce)
    if len(lines) > 1:
        write_atomic(sidecar(path), f"{digest}  {path.name}\n".encode())
    read(path)
    return digest


def keep_last(folder: Path, count: int) -> None:
    """Remove all but the newest `count` step checkpoints, the file before its sidecar, then sidecars left
    alone.
    """
    for path in [p for p in steps(folder) if p.is_file()][count:]:
        remove(path)
    for left in folder.glob("*.tmp"):  # of a process that was killed in the middle of a write
        remove(left)
    for lonely in folder.glob("*.pt.sha256"):
        if not lonely.with_name(lonely.name.removesuffix(".sha256")).exists():
            remove(lonely)


def read(path: Path) -> dict[str, Any]:
    """The content of one of our checkpoints, on the CPU, after its sha256 was compared.

    Errors: CheckpointError for a missing, truncated, changed or foreign file, naming what is wrong with it.
    """
    data = _bytes(path)
    known = _digests(path)
    actual = hashlib.sha256(data).hexdigest()
    if not known:
        raise CheckpointError(f"checkpoint: {path}: got no sha256 beside it, expected {sidecar(path).name}")
    if actual not in known:
        raise CheckpointError(
            f"checkpoint: {path}: got sha256 {actual[:16]}... of {len(data)} bytes, expected "
            f"{known[0][:16]}..."
        )
    content = load_plain(data, str(path))
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(
            f"checkpoint: {path}: got a file of another program, expected format {FORMAT!r}"
        )
    if content.get("version") != VERSION:
        raise CheckpointError(f"checkpoint: {path}: got version {content.get('version')}, expected {VERSION}")
    return content


def newest(folder: Path, warn: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
    """The newest sound step checkpoint and its content; each unsound newer one is told to `warn`. None if
    there is none at all.

    Errors: CheckpointError if there are checkpoints and every one is unsound.
    """
    found = steps(folder)
    for path in found:
        try:
            return path, read(path)
        except CheckpointError as error:
            warn(f"{error}; trying the one before")
    if found:
        raise CheckpointError(
            f"checkpoint: {folder}: got {len(found)} unsound checkpoints, expected at least one sound"
        )
    return None


def load_plain(data: bytes, name: str) -> Any:
    """torch.load of tensors and plain values only, from bytes, onto the CPU.

    Errors: CheckpointError; for a file that holds anything else the message lists the code it names.
    """
    if not zipfile.is_zipfile(io.BytesIO(data)):
        raise CheckpointError(
            f"checkpoint: {name}: got {len(data)} bytes that are no complete torch file, "
            "expected one written by torch.save (zip format)"
        )
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except _REFUSALS as error:
        code = code_names(data)
        if code:
            raise CheckpointError(
                f"checkpoint: {name}: got a file that names code: {', '.join(code)}; "
                "expected tensors and plain values only. It was not loaded"
            ) from error
        first = str(error).strip().split("\n")[0] or type(error).__name__
        raise CheckpointError(
            f"checkpoint: {name}: got a damaged or foreign file ({first}), expected tensors and plain values"
        ) from error


def code_names(data: bytes) -> list[str]:
    """Functions and classes that a torch file would import beyond those of plain tensors, read without
    running it.
    """
    found = set()
    with contextlib.suppress(
        ValueError, KeyError, IndexError, zipfile.BadZipFile, NotImplementedError, zlib.error
    ):
        archive = zipfile.ZipFile(io.BytesIO(data))
        texts: list[str] = []  # pushed so far; module and name of a STACK_GLOBAL are the last two
        memo: dict[int, str] = {}
        content = archive.read(next((n for n in archive.namelist() if n.endswith("data.pkl")), "data.pkl"))
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name in ("GLOBAL", "INST"):
                found.add(argument.replace(" ", "."))
            elif opcode.name == "STACK_GLOBAL":
                found.add(".".join(texts[-2:]))
            elif opcode.name in ("MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT"):
                memo[len(memo) if argument is None else int(argument)] = texts[-1] if texts else ""
            elif opcode.name in ("BINGET", "LONG_BINGET", "GET"):
                texts.append(memo.get(int(argument), ""))
            elif isinstance(argument, str):
                texts.append(argument)
    return sorted(name for name in found if not name.startswith(_PLAIN))


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"checkpoint: {path}: got {error.strerror}, expected a readable file"
        ) from error


def _digests(path: Path) -> list[str]:
    """Digests that the sidecar lists for this file name."""
    try:
        lines = sidecar(path).read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    return [line[:64] for line in lines if re.fullmatch(r"[0-9a-f]{64}  " + re.escape(path.name), line)]
