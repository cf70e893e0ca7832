# SPDX-License-Identifier: Apache-2.0
"""Training methods: one visible table name -> module. A method is a module with two functions:

    losses(context) -> nn.ModuleDict           loss modules; what they hold is trained and saved as well
    step(state, batch) -> dict[str, Tensor]    forward pass and weighted losses, 0-d; the loop sums them

`context` is a `fastreid_ops.engine.methods.context.Context`. What depends on the epoch reads `state.epoch`.

The loop owns everything else: mixed precision, backward, accumulation, clipping, checkpoints, evaluation, the mean of
the gradients over several processes. A method that takes a step of its own inside `step`, or keeps something of the
images, does that for all of them: without `backward`, with what `fastreid_ops.engine.ranks` has for it.
"""

from importlib import import_module
from types import ModuleType

METHODS = {
    "identity": "fastreid_ops.engine.methods.identity",
    # Visible and infrared images
    "wrim": "fastreid_ops.engine.methods.wrim",
    "deen": "fastreid_ops.engine.methods.deen",
    "agw": "fastreid_ops.engine.methods.agw",
    # Clothes
    "cloth_changing": "fastreid_ops.engine.methods.cloth_changing",
    "cal": "fastreid_ops.engine.methods.cal",
    # NAIC 2020
    "naic": "fastreid_ops.engine.methods.naic",
}


def method(name: str) -> ModuleType:
    """The module of a method. Errors: ValueError for a name that is not in the table."""
    if name not in METHODS:
        raise ValueError(f"method: name: got {name!r}, expected one of {', '.join(sorted(METHODS))}")
    return import_module(METHODS[name])
