# SPDX-License-Identifier: Apache-2.0
"""The optimizer from the `optim` section of the configuration, and one step of it.

A parameter is called `model.<name>` or `criteria.<name>`. `optim.groups` gives those whose name fits a shell pattern
a learning rate, a weight decay or an optimizer of their own; the first pattern that fits decides. Staged learning
rates are two such patterns (`model.classifier.*` at factor 1, then `model.*` at factor 0.1), class centres one with
an optimizer of its own.
"""

from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from fastreid_ops.engine.ranger import Ranger

_RMSPROP_ALPHA = 0.99


class SeveralOptimizers:
    """Optimizers over disjoint parameters that step, save and resume as one.

    `param_groups` are the groups of all of them, those of the first optimizer first; the dictionaries are the
    optimizers' own, so that a rate set in one counts.
    """

    def __init__(self, parts: Iterable[torch.optim.Optimizer]) -> None:
        self.parts = list(parts)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts for group in part.param_groups]

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none=set_to_none)

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, content: Mapping[str, Any]) -> None:
        """Errors: ValueError for the state of another number of optimizers."""
        states = content.get("parts", [content])
        if len(states) != len(self.parts):
            raise ValueError(
                f"SeveralOptimizers.load_state_dict: parts: got {len(states)} optimizers, expected "
                f"{len(self.parts)}"
            )
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)


Optimizer = torch.optim.Optimizer | SeveralOptimizers


def named_parameters(modules: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    """Every trainable parameter by its full name; one that is shared stands under its first name only."""
    seen: dict[int, tuple[str, nn.Parameter]] = {}
    for part, module in modules.items():
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                seen.setdefault(id(parameter), (f"{part}.{name}", parameter))
    return dict(seen.values())


def parameter_groups(modules: Mapping[str, nn.Module], config) -> list[tuple[str | None, list[dict]]]:
    """(optimizer name, its parameter groups) for each optimizer; the first, called None, is the section's own.

    A group is split in two where parameters of one dimension (biases, norms) are left out of the weight decay.
    Errors: ValueError naming a pattern of `optim.groups` that no parameter is left for.
    """
    rest = named_parameters(modules)
    own: list[dict] = []
    others: list[tuple[str, list[dict]]] = []
    for place, group in enumerate(config.groups):
        fits = {name: p for name, p in rest.items() if fnmatchcase(name, group.match)}
        if not fits:
            known = ", ".join(sorted({".".join(name.split(".")[:2]) for name in rest})) or "none"
            raise ValueError(
                f"optim.groups: {place}: match: got {group.match!r}, which no parameter fits, expected a pattern "
                f"of names that begin with one of: {known}"
            )
        rest = {name: p for name, p in rest.items() if name not in fits}
        made = _decayed(
            list(fits.values()),
            config.weight_decay if group.weight_decay is None else group.weight_decay,
            config.decay_bias_and_norm or group.weight_decay is not None,
            base_lr=(config.lr if group.lr is None else group.lr) * group.lr_factor,
            scheduled=group.scheduled,
            momentum=config.momentum if group.momentum is None else group.momentum,
        )
        if group.optimizer is None:
            own += made
        else:
            others.append((group.optimizer, made))
    everything_else = _decayed(
        list(rest.values()),
        config.weight_decay,
        config.decay_bias_and_norm,
        base_lr=config.lr,
        scheduled=True,
        momentum=config.momentum,
    )
    first = [(None, everything_else + own)] if everything_else or own else []
    return first + others


def _decayed(parameters: list[nn.Parameter], decay: float, decay_all: bool, **values: Any) -> list[dict]:
    groups = [{"params": parameters, "weight_decay": decay}]
    if not decay_all:
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
    return [group | values for group in groups if group["params"]]


def build_optimizer(modules: Mapping[str, nn.Module], config) -> Optimizer:
    """The optimizer over every trainable parameter of `modules`, by the names they have in `optim.groups`.

    Adam, AdamW, AMSGrad and SGD in torch's fused form: one call for all tensors. A small network has hundreds of
    tensors, and a Python loop over them costs more than the arithmetic. Errors: ValueError when nothing is
    trainable, or a pattern fits nothing.
    """
    parts = parameter_groups(modules, config)
    if not parts:
        raise ValueError("build_optimizer: modules: got no trainable parameter, expected at least one")
    made = [_optimizer(name or config.name, groups, config) for name, groups in parts]
    return made[0] if len(made) == 1 else SeveralOptimizers(made)


def _optimizer(name: str, groups: list[dict], config) -> torch.optim.Optimizer:
    betas = tuple(config.betas)
    if name not in ("sgd", "rmsprop"):  # momentum is not theirs
        groups = [{key: v for key, v in group.items() if key != "momentum"} for group in groups]
    for group in groups:  # torch wants a rate above 0 in each; the schedule sets it anew before every step
        group["lr"] = group["base_lr"]
    if name == "sgd":
        made = torch.optim.SGD(
            groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov, fused=True
        )
        # Torch's fused step fails where some parameters have a momentum and others, whose first gradient comes later
        # (a fixed base, a branch that starts in some epoch), have none. From zero both begin alike.
        for group in made.param_groups:
            for parameter in group["params"] if group["momentum"] else ():
                made.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return made
    if name == "rmsprop":
        return torch.optim.RMSprop(groups, lr=config.lr, alpha=_RMSPROP_ALPHA)
    if name == "radam":
        return torch.optim.RAdam(groups, lr=config.lr, betas=betas, decoupled_weight_decay=True)
    if name == "ranger":
        return Ranger(groups, lr=config.lr, betas=betas)
    kind = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
    return kind(groups, lr=config.lr, betas=betas, amsgrad=name == "amsgrad", fused=True)


def parts(optimizer: Optimizer) -> list[torch.optim.Optimizer]:
    """The optimizers behind one: itself, or those of a SeveralOptimizers."""
    return optimizer.parts if isinstance(optimizer, SeveralOptimizers) else [optimizer]


def trained(optimizer: Optimizer) -> Iterator[nn.Parameter]:
    """Every parameter the optimizer moves."""
    return (p for group in optimizer.param_groups for p in group["params"])


def optimizer_step(
    optimizer: Optimizer, scaler: torch.amp.GradScaler | None, clip: float | None
) -> torch.Tensor:
    """Unscale (fp16), bound the gradient norm, step, clear the gradients. Returns the norm before the bound,
    0-d.

    With a scaler, a step whose gradients overflowed is left out and the scale halved, as torch.amp documents; of
    several optimizers each is left out by its own gradients.
    """
    if scaler is not None:
        with_gradients = [
            part
            for part in parts(optimizer)
            if any(p.grad is not None for group in part.param_groups for p in group["params"])
        ]
        for part in with_gradients:
            scaler.unscale_(part)
    parameters = [p for p in trained(optimizer) if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in parameters])
    if clip is not None:
        nn.utils.clip_grads_with_norm_(parameters, clip, norm)
    if scaler is not None:
        for part in with_gradients:
            scaler.step(part)
        scaler.update()
    else:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm
