# SPDX-License-Identifier: Apache-2.0
"""The optimizer from the `optim` section of the configuration, and one step of it."""

from collections.abc import Iterable, Iterator

import torch
from torch import nn


def parameter_groups(modules: Iterable[nn.Module], config) -> list[dict]:
    """One group, or two when parameters of one dimension (biases, norms) are left out of the weight decay."""
    seen = {id(p): p for module in modules for p in module.parameters() if p.requires_grad}
    parameters = list(seen.values())
    groups = [{"params": parameters, "weight_decay": config.weight_decay}]
    if not config.decay_bias_and_norm:
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
    return [group | {"base_lr": config.lr} for group in groups if group["params"]]


def build_optimizer(modules: Iterable[nn.Module], config) -> torch.optim.Optimizer:
    """Adam, AdamW, AMSGrad or SGD over every trainable parameter, in torch's fused form.

    Fused: one call for all tensors. A small network has hundreds of tensors, and a Python loop over them
    costs more than the arithmetic. Errors: ValueError when nothing is trainable.
    """
    groups = parameter_groups(modules, config)
    if not groups:
        raise ValueError("build_optimizer: modules: got no trainable parameter, expected at least one")
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=True)
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return kind(groups, lr=config.lr, betas=tuple(config.betas), amsgrad=config.name == "amsgrad", fused=True)


def trained(optimizer: torch.optim.Optimizer) -> Iterator[nn.Parameter]:
    """Every parameter the optimizer moves."""
    return (p for group in optimizer.param_groups for p in group["params"])


def optimizer_step(
    optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None, clip: float | None
) -> torch.Tensor:
    """Unscale (fp16), bound the gradient norm, step, clear the gradients. Returns the norm before the bound,
    0-d.

    With a scaler, a step whose gradients overflowed is left out and the scale halved, as torch.amp documents.
    """
    if scaler is not None:
        scaler.unscale_(optimizer)
    parameters = [p for p in trained(optimizer) if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in parameters])
    if clip is not None:
        nn.utils.clip_grads_with_norm_(parameters, clip, norm)
    if scaler is not None:
        scaler.step(optimizer)
        scaler.update()
    else:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm
