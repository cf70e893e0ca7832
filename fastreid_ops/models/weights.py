# SPDX-License-Identifier: Apache-2.0
"""Weights from elsewhere: load what fits, say what did not."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
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

_CHILDREN = {"conv1": 0, "bn1": 1, **{f"layer{stage}": stage + 3 for stage in (1, 2, 3, 4)}}
# What other programs call the parts of a network: what is replaced at the start of a name, and by what.
_SCHEMES: dict[str, dict[str, str]] = {
    "as they are": {},
    "fast-reid's heads": {"heads.bottleneck.0.": "bottleneck.", "heads.weight": "classifier.weight"},
    "stem as layer0": {"conv1.": "layer0.0.", "bn1.": "layer0.1."},
    "parts of a ResNet as numbers": {f"{name}.": f"{number}." for name, number in _CHILDREN.items()},
    "deep-person-reid of 2018, ResNet": {f"base.{number}.": f"{name}." for name, number in _CHILDREN.items()},
    "deep-person-reid of 2018, ResNet-50 mid": {
        "layers1.0.": "conv1.",
        "layers1.1.": "bn1.",
        "layers2.1.": "layer1.",
        "layers3.": "layer2.",
        "layers4.": "layer3.",
        **{f"layers5{letter}.": f"layer4.{block}." for block, letter in enumerate("abc")},
        "fc_fuse.": "fc_fusion.",
    },
    "deep-person-reid of 2018, SENet": {f"base.{stage}.": f"layer{stage}." for stage in range(5)},
    "deep-person-reid of 2018, DenseNet": {"base.": "features."},
}


@dataclass(frozen=True)
class LoadReport:
    """What `load_weights` did.

    Attributes:
        loaded: entries of the model that received a value.
        missing: entries of the model for which the file holds nothing that fits; they keep their value.
        unexpected: entries of the file that the model has no place for.
        misfits: (entry, shape in the file, shape in the model), left out; a classifier of other identities, as a rule.
        renamed: (prefix taken off the file's names, prefix put on them).
        scheme: whose names the file's were taken for, "as they are" for the model's own.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misfits: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    renamed: tuple[str, str]
    scheme: str = "as they are"

    def describe(self) -> str:
        """The report as lines of text."""

        def some(names: tuple[str, ...]) -> str:
            return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")

        lines = [f"loaded {len(self.loaded)} of {len(self.loaded) + len(self.missing)} entries"]
        if any(self.renamed):
            lines.append(f"names: prefix {self.renamed[0]!r} replaced by {self.renamed[1]!r}")
        if self.scheme != "as they are":
            lines.append(f"names: {self.scheme}")
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


def _replaced(name: str, scheme: Mapping[str, str]) -> str:
    for theirs, ours in scheme.items():
        if name.startswith(theirs):
            return ours + name[len(theirs) :]
    return name


def _readings(
    model: nn.Module, found: Mapping[str, Tensor]
) -> Iterator[tuple[str, tuple[str, str], dict[str, Tensor]]]:
    """Whose names the file's may be, prefix off and on, the entries under the model's names then."""
    for title, scheme in _SCHEMES.items():
        named = {_replaced(name, scheme): value for name, value in found.items()}
        if scheme and named.keys() == found.keys():
            continue
        for foreign in _FOREIGN_PREFIXES:
            stripped = _strip(named, foreign)
            for prefix in _OWN_PREFIXES:
                yield title, (foreign, prefix), {prefix + name: value for name, value in stripped.items()}
    # Networks with several places for one set of weights say themselves where it belongs.
    for title, method in (("a ResNet's", "from_resnet"), ("a vision transformer's", "from_vit")):
        spread: Callable[..., dict[str, Tensor]] | None = getattr(model, method, None)
        if spread is not None:
            yield title, ("", ""), spread(found)


def load_weights(model: nn.Module, source: str | os.PathLike[str] | Mapping[str, object]) -> LoadReport:
    """Copy every entry of ``source`` that fits ``model`` by name and shape; tell about the others.

    Names are tried as they are, as those of fast-reid's heads, of the ResNets of Simple-CCReID and of the
    cloth-changing network, and of deep-person-reid's first versions, each with the usual prefixes taken off or put on
    (``module.``, ``backbone.``, ``base.`` ...); the variant that fits best is used for the whole file. A network that
    has several places for the weights of a ResNet or a vision transformer (``from_resnet``, ``from_vit``) gets them in
    all of them. The model is left untouched on an error.

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
    best_hits, renamed, scheme = -1, ("", ""), ""
    for title, prefixes, candidate in _readings(model, found):
        hits = sum(1 for n, v in candidate.items() if n in parameters and v.shape == own[n].shape)
        if hits > best_hits:
            best, best_hits, renamed, scheme = candidate, hits, prefixes, title
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
        scheme=scheme,
    )
