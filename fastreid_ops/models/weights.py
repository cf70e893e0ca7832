# SPDX-License-Identifier: Apache-2.0
"""Weights from elsewhere: load what fits, say what did not."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor, nn

# Names under which training scripts nest the weights inside a checkpoint.
_NESTS = ("state_dict", "model_state_dict", "model", "net", "weights")
# Prefixes seen in the wild: DataParallel, torchreid/fast-reid/bag-of-tricks wrappers.
_FOREIGN_PREFIXES = ("", "backbone.", "base.", "model.", "encoder.")
_OWN_PREFIXES = ("", "backbone.", "base.")


@dataclass(frozen=True)
class LoadReport:
    """What `load_weights` did.

    Attributes:
        loaded: entries of the model that received a value.
        missing: entries of the model for which the file holds nothing that fits; they keep their value.
        unexpected: entries of the file that the model has no place for.
        misfits: (entry, shape in the file, shape in the model), left out; a classifier of other identities, as a rule.
        renamed: (prefix taken off the file's names, prefix put on them).
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misfits: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    renamed: tuple[str, str]

    def describe(self) -> str:
        """The report as lines of text."""

        def some(names: tuple[str, ...]) -> str:
            return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")

        lines = [f"loaded {len(self.loaded)} of {len(self.loaded) + len(self.missing)} entries"]
        if any(self.renamed):
            lines.append(f"names: prefix {self.renamed[0]!r} replaced by {self.renamed[1]!r}")
        for name, got, expected in self.misfits:
            lines.append(f"left out for its shape: {name}, file {list(got)}, model {list(expected)}")
        if self.missing:
            lines.append(f"kept as they were: {some(self.missing)}")
        if self.unexpected:
            lines.append(f"of no use in the file: {some(self.unexpected)}")
        return "\n".join(lines)


class _ForeignObjects:
    """Turns torch's refusal of a file that holds more than tensors into one sentence.

    The refusal is recognised by its class name: its class lives in a module whose loader must not be used here.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and kind.__name__ == "UnpicklingError":
            raise ValueError(
                f"load_weights: source: got {self.path}, which is no file of plain tensors; nothing was run from it. "
                "If you trust it, re-save its state_dict() with torch.save or as safetensors"
            ) from error


def read_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Tensors of a ``.safetensors`` file or of a torch checkpoint, by name, on the CPU.

    Torch files are read with ``weights_only=True``: no code of the file is run. Nested checkpoints
    (``{"state_dict": ...}`` and the like) are unwrapped.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file holds other things than tensors, is damaged, or has no state dict in it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"load_weights: source: got {path}, expected an existing file")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"load_weights: source: got {path}, which cannot be read: {error}") from error
    try:
        with _ForeignObjects(path):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError) as error:
        raise ValueError(f"load_weights: source: got {path}, which cannot be read: {error}") from error
    return _unwrap(content, str(path))


def _unwrap(content: object, where: str) -> dict[str, Tensor]:
    while isinstance(content, Mapping):
        nested = next((n for n in _NESTS if isinstance(content.get(n), Mapping)), None)
        if nested is None:
            tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
            if tensors:
                return tensors
            break
        content = content[nested]
    raise ValueError(f"load_weights: source: got {where} without a state dict, expected names and tensors")


def _strip(names: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k[len(prefix) :] if prefix and k.startswith(prefix) else k: v for k, v in names.items()}


def load_weights(model: nn.Module, source: str | os.PathLike[str] | Mapping[str, object]) -> LoadReport:
    """Copy every entry of ``source`` that fits ``model`` by name and shape; tell about the others.

    Names are tried as they are and with the usual prefixes taken off or put on (``module.``, ``backbone.``,
    ``base.`` ...); the variant that fits best is used for the whole file. The model is left untouched on an error.

    Args:
        model: changed in place; dtypes and devices stay the model's.
        source: path of a torch or safetensors file, or a (possibly nested) state dict.

    Raises:
        FileNotFoundError, ValueError: see `read_weights`; ValueError also where not one parameter fits.
    """
    found = _unwrap(source, "a dict") if isinstance(source, Mapping) else read_weights(source)
    while any(name.startswith("module.") for name in found):
        found = _strip(found, "module.")

    own = model.state_dict()
    parameters = {name for name, _ in model.named_parameters()}
    best: dict[str, Tensor] = {}
    best_hits, renamed = -1, ("", "")
    for foreign in _FOREIGN_PREFIXES:
        stripped = _strip(found, foreign)
        for prefix in _OWN_PREFIXES:
            candidate = {prefix + name: value for name, value in stripped.items()}
            hits = sum(1 for n, v in candidate.items() if n in parameters and v.shape == own[n].shape)
            if hits > best_hits:
                best, best_hits, renamed = candidate, hits, (foreign, prefix)
    if best_hits == 0:
        raise ValueError(
            f"load_weights: source: got {len(found)} entries ({', '.join(list(found)[:3])}, ...) of which none fits "
            f"the model, expected names such as {', '.join(list(own)[:3])}; is it the right architecture?"
        )
    fits = {name: value for name, value in best.items() if name in own and value.shape == own[name].shape}
    with torch.no_grad():
        for name, value in fits.items():
            own[name].copy_(value)
    return LoadReport(
        loaded=tuple(name for name in own if name in fits),
        missing=tuple(name for name in own if name not in fits),
        unexpected=tuple(name for name in best if name not in own),
        misfits=tuple(
            (n, tuple(v.shape), tuple(own[n].shape))
            for n, v in best.items()
            if n in own and v.shape != own[n].shape
        ),
        renamed=renamed,
    )
