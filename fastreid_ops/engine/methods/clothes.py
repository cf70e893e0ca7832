# SPDX-License-Identifier: Apache-2.0
"""What the methods on clothes labels share: the labels, and a clothes classifier that is trained before the rest of a
step uses it.
"""

from collections.abc import Callable
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from fastreid_ops.config import ConfigError
from fastreid_ops.data import columns
from fastreid_ops.engine.methods.context import Context
from fastreid_ops.engine.optim import parts
from fastreid_ops.engine.ranks import average_over_ranks

CLASSIFIER = "clothes_classifier"


def clothes_labels(context: Context) -> list[int]:
    """The label of every training row, as batches have them. Errors: ConfigError where nobody wrote down clothes."""
    labels = columns.clothes_labels(context.training)
    if labels is None:
        data = context.config.data
        raise ConfigError(
            f"data.dataset: got {data.dataset}, which has no column clothes, expected one that has for train.method "
            f"{context.config.train.method}"
        )
    return labels


def check_own_optimizer(context: Context) -> None:
    """Errors: ConfigError unless `optim.groups` gives the clothes classifier an optimizer."""
    name = f"criteria.{CLASSIFIER}.weight"
    first = next((group for group in context.config.optim.groups if fnmatchcase(name, group.match)), None)
    if first is None or first.optimizer is None:
        raise ConfigError(
            f"optim.groups: got {'no group' if first is None else repr(first.match) + ' without an optimizer'} for the "
            f"clothes classifier, expected one such as {{match: 'criteria.{CLASSIFIER}.*', optimizer: adam, "
            "scheduled: false}"
        )


def train_alone(state, module: nn.Module, features: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """One step of the optimizer that `module` has to itself, with the gradient of loss(module(features)).

    In float32 whatever mixed precision does elsewhere, with every batch rather than every `train.accumulate`, without
    `optim.clip`. Of several processes each has a part of the batch; all of them step with the mean of the gradients.
    `features` must not want a gradient. Returns the loss, detached. Errors: ValueError if the optimizer of `module`
    moves something else as well.
    """
    own = {id(p): p for p in module.parameters() if p.requires_grad}
    optimizer = next(
        part
        for part in parts(state.optimizer)
        if any(id(p) in own for g in part.param_groups for p in g["params"])
    )
    if {id(p) for group in optimizer.param_groups for p in group["params"]} != set(own):
        raise ValueError(
            f"optim.groups: criteria.{CLASSIFIER}.*: got an optimizer that others share, expected one of its own"
        )
    with torch.autocast(features.device.type, enabled=False):
        value = loss(module(features.float()))
    # Not `backward`, whose hooks belong to the reducer of the whole step: several processes could not go on after it.
    for parameter, gradient in zip(own.values(), torch.autograd.grad(value, own.values()), strict=True):
        parameter.grad = gradient
    average_over_ranks([parameter.grad for parameter in own.values()])
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return value.detach()
