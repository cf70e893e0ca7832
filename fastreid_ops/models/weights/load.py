# SPDX-License-Identifier: Apache-2.0
"""Copy foreign weights into a model, whichever names they bear."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fastreid_ops.models.weights.keymap import KeyMap
from fastreid_ops.models.weights.notes import notes
from fastreid_ops.models.weights.places import places
from fastreid_ops.models.weights.positions import fit_positions
from fastreid_ops.models.weights.read import State, read_state, unwrap
from fastreid_ops.models.weights.report import LoadReport, Resized, Skipped, Used
from fastreid_ops.models.weights.sources import SOURCES


def _plain(state: State) -> dict[str, tuple[str, Tensor]]:
    """Tensors by name without DataParallel's prefixes, with the name in the file."""
    found = {}
    for name, value in state.tensors.items():
        bare = name
        while bare.startswith("module."):
            bare = bare.removeprefix("module.")
        found[bare] = (name, value)
    return found


@dataclass(frozen=True)
class _Match:
    """One pair of maps: for each of the file's names (without prefixes) the entries of the model that it means."""

    source: KeyMap
    place: KeyMap
    targets: dict[str, tuple[str, ...]]
    hits: int = -1

    @property
    def name(self) -> str:
        return self.source.name + (f", to {self.place.name}" if self.place.name else "")


def _best(found: Mapping[str, tuple[str, Tensor]], own: Mapping[str, Tensor], parameters: set[str]) -> _Match:
    """Every source with every place; the pair wins that puts most parameters where they fit, the first of equals."""
    best = _Match(SOURCES[0], SOURCES[0], {})
    names = list(found)
    where = places(list(own))
    for source in SOURCES:
        if not source.is_for(names):
            continue
        plain = {name: source.apply(name) for name in names}
        for place in where:
            targets = {}
            for name, meanings in plain.items():
                goals = []
                for meaning in meanings:
                    moved = [goal for goal in place.apply(meaning) if goal in own]
                    goals += moved or [meaning] * (meaning in own)
                targets[name] = tuple(goals)
            fitting = {
                goal
                for name, goals in targets.items()
                for goal in goals
                if goal in parameters and found[name][1].shape == own[goal].shape
            }
            if len(fitting) > best.hits:
                best = _Match(source, place, targets, len(fitting))
    return best


def _unusable(value: Tensor) -> str | None:
    """Why a tensor cannot be copied, if it cannot."""
    if value.layout is not torch.strided or value.is_quantized or value.is_meta or value.is_nested:
        return "no plain dense tensor"
    return "complex numbers" if value.is_complex() else None


def _unknown(found: Mapping[str, object], own: Mapping[str, object]) -> ValueError:
    return ValueError(
        f"load_weights: source: got {len(found)} entries ({', '.join(list(found)[:3])}, ...) of which none fits "
        f"the model, expected names such as {', '.join(list(own)[:3])}; is it the right architecture?"
    )


def _sort_out(
    model: nn.Module,
    found: Mapping[str, tuple[str, Tensor]],
    own: Mapping[str, Tensor],
    targets: Mapping[str, tuple[str, ...]],
) -> tuple[dict[str, Tensor], dict[str, str], list[Skipped], list[Resized]]:
    """Values by entry of the model, the file's name of each, what is left out, what was interpolated."""
    class_token = any(name.rpartition(".")[2] == "cls_token" for name in found)
    values: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    skipped: list[Skipped] = []
    resized: list[Resized] = []
    for bare, goals in targets.items():
        name, value = found[bare]
        reason = _unusable(value)
        if reason or not goals:
            skipped.append(Skipped(name, reason or "no place"))
            continue
        for goal in goals:
            if goal in values:
                skipped.append(Skipped(name, f"{origin[goal]} has its place", goal))
                continue
            if value.shape == own[goal].shape:
                values[goal], origin[goal] = value, name
                continue
            fitted = fit_positions(model, goal, value, own[goal], class_token=class_token)
            if fitted is None:
                skipped.append(Skipped(name, "shape", goal, tuple(value.shape), tuple(own[goal].shape)))
            else:
                values[goal], origin[goal] = fitted[0], name
                if fitted[1] != fitted[2]:
                    resized.append(Resized(name, goal, *fitted[1:]))
    return values, origin, skipped, resized


def load_weights(model: nn.Module, source: str | os.PathLike[str] | Mapping[str, object]) -> LoadReport:
    """Copy every entry of ``source`` that fits ``model`` by name and shape; tell about the others.

    Names are translated by tables: `sources` knows those of torchreid (today's and 2018's), fast-reid, NAIC,
    Simple-CCReID, torchvision and timm, `places` where each of our models has its backbone. All pairs are tried, the
    one with which most parameters fit is used for the whole file, and the report names it. ``module.`` in front is
    taken off. Position embeddings of another number of patches are interpolated (bicubic). Weights of one ResNet-50 or
    vision transformer serve both streams of a two-stream network.

    Args:
        model: changed in place; dtypes and devices stay the model's.
        source: path of a torch or safetensors file, or a (possibly nested) state dict.

    Raises:
        FileNotFoundError, ValueError: see `read_weights`; ValueError also where not one parameter fits. The model is
            left untouched then.
    """
    state = unwrap(source, "a dict") if isinstance(source, Mapping) else read_state(source)
    found = _plain(state)
    own = model.state_dict()
    match = _best(found, own, {name for name, _ in model.named_parameters()})
    if match.hits < 1:
        raise _unknown(found, own)

    values, origin, skipped, resized = _sort_out(model, found, own, match.targets)
    if not values:
        raise _unknown(found, own)
    report = LoadReport(
        keymap=match.name,
        used=tuple(Used(origin[name], name) for name in own if name in values),
        skipped=(*(Skipped(name, "no tensor") for name in state.others), *skipped),
        missing=tuple(name for name in own if name not in values),
        resized=tuple(resized),
        beside=state.beside,
    )
    if not state.own:
        tensors = {bare: value for bare, (_, value) in found.items()}
        report = replace(report, notes=tuple(notes(model, match.source, tensors)))
    with torch.no_grad():
        for name, value in values.items():
            own[name].copy_(value)
    return report
