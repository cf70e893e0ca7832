# SPDX-License-Identifier: Apache-2.0
"""Weight files, read without running anything of theirs.

torch's own reader with ``weights_only=True`` makes tensors and plain containers and nothing else. Checkpoints of the
re-identification projects also hold numpy numbers beside the weights (``rank1``, ``mAP``, ``cmc``). For those, names of
numpy stand for inert classes of this file while the reader works: numpy itself is never called, its objects never made,
and the values, which nobody needs, are dropped. Whatever else a file names is refused.
"""

from __future__ import annotations

import os
import re
import struct
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError  # the type of torch.load's refusal; nothing here unpickles

import torch
from torch import Tensor

# Names under which training scripts nest the weights inside a checkpoint.
NESTS = ("state_dict", "model_state_dict", "model", "net", "weights")
# Parts of the network that Simple-CCReID keeps beside it, each a module of its own.
BESIDE = {"classifier_state_dict": "classifier.", "clothes_classifier_state_dict": "clothes_classifier."}

# What torch.load raises for files that are cut short, of another kind, or made to confuse it.
_DAMAGE = (
    RuntimeError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    struct.error,
)
_NUMBER = re.compile(r"[<>=|]?(?:[biufc]\d+|\?)")
_lock = threading.Lock()  # the list of what torch.load may make belongs to the process


class _Refused(ValueError):
    """A file that uses a numpy name for something else than numbers."""


class _Dtype:
    def __new__(cls, code: object = None, *rest: object) -> _Dtype:
        if not isinstance(code, str) or not _NUMBER.fullmatch(code):
            raise _Refused(f"numpy.dtype({code!r})")
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Byte order and the like."""


class _Array:
    def __new__(cls, *rest: object) -> _Array:
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Shape, dtype and bytes."""


def _reconstruct(kind: object, *rest: object) -> _Array:
    if kind is not _Array:
        raise _Refused("numpy.core.multiarray._reconstruct of no array")
    return _Array()


def _scalar(dtype: object, *rest: object) -> _Array:
    if not isinstance(dtype, _Dtype):
        raise _Refused("numpy.core.multiarray.scalar of no dtype")
    return _Array()


_STAND_INS = [
    (_Dtype, "numpy.dtype"),
    (_Array, "numpy.ndarray"),
    *(
        (function, f"numpy.{core}.multiarray.{name}")
        for core in ("core", "_core")  # numpy 1 and 2
        for function, name in ((_reconstruct, "_reconstruct"), (_scalar, "scalar"))
    ),
]


@contextmanager
def _only_numbers() -> Iterator[None]:
    """torch.load makes tensors, containers and the stand-ins, whatever else the process has allowed it."""
    with _lock:
        allowed = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(_STAND_INS)
        try:
            yield
        finally:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(allowed)


@dataclass(frozen=True)
class State:
    """What a source holds.

    Attributes:
        tensors: by name.
        others: names, inside the state dict, of what is no tensor.
        beside: names of what stands beside the state dict (epoch, optimizer, figures).
        own: it is a checkpoint of this package.
    """

    tensors: dict[str, Tensor]
    others: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    own: bool = False


def read_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Tensors of a ``.safetensors`` file or of a torch checkpoint, by name, on the CPU.

    Torch files of every age are read with ``weights_only=True``: no code of the file is run. Nested checkpoints
    (``{"state_dict": ...}`` and the like) are unwrapped, keys that Python 2 or a careless rewrite left as bytes become
    text. What the process has allowed torch.load by `torch.serialization.add_safe_globals` counts for nothing here.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file holds other things than tensors, plain containers and numbers, is damaged, or has no state
            dict in it.
    """
    return read_state(path).tensors


def read_state(path: str | os.PathLike[str]) -> State:
    """As `read_weights`, with what is not a tensor named."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"load_weights: source: got {path}, expected an existing file")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return State(load_file(path))
        except SafetensorError as error:
            raise ValueError(f"load_weights: source: got {path}, which cannot be read: {error}") from error
    return unwrap(_load(path), str(path))


def _load(path: Path) -> object:
    try:
        with _only_numbers(), warnings.catch_warnings():
            # of pickle protocols, which are refused anyway, and of an encoding without effect, which it has
            warnings.simplefilter("ignore", UserWarning)
            try:
                return torch.load(path, map_location="cpu", weights_only=True)
            except UnicodeDecodeError:  # Python 2 wrote bytes as text
                return torch.load(path, map_location="cpu", weights_only=True, encoding="latin1")
    except (UnpicklingError, _Refused) as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        code = named[1] if named else str(error) if isinstance(error, _Refused) else None
        raise ValueError(
            f"load_weights: source: got {path}, which {f'names {code} and ' if code else ''}is no file of plain "
            "tensors; nothing was run from it. If you trust it, open it with the program that wrote it and re-save "
            "its state_dict() with torch.save or as safetensors"
        ) from error
    except _DAMAGE as error:
        first = str(error).strip().split("\n")[0] or type(error).__name__
        raise ValueError(f"load_weights: source: got {path}, which cannot be read: {first}") from error


def _text(key: object) -> str:
    return key.decode("latin1") if isinstance(key, bytes) else str(key)


def unwrap(content: object, where: str) -> State:
    """The state dict inside a possibly nested checkpoint.

    Raises:
        ValueError: there is none.
    """
    beside: list[str] = []
    extra: dict[str, Tensor] = {}
    own = False
    while isinstance(content, Mapping):
        content = {_text(key): value for key, value in content.items()}
        own = own or content.get("format") == "fastreid_ops.checkpoint"
        nest = next((name for name in NESTS if isinstance(content.get(name), Mapping)), None)
        if nest is None:
            tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
            if tensors:
                others = tuple(name for name in content if name not in tensors)
                return State({**tensors, **extra}, others, tuple(beside), own)
            break
        for name, value in content.items():
            if name in BESIDE and isinstance(value, Mapping):
                parts = {BESIDE[name] + _text(k).removeprefix("module."): v for k, v in value.items()}
                extra |= {k: v for k, v in parts.items() if isinstance(v, Tensor)}
            elif name != nest:
                beside.append(name)
        content = content[nest]
    raise ValueError(f"load_weights: source: got {where} without a state dict, expected names and tensors")
