# SPDX-License-Identifier: Apache-2.0
"""What stands still while training: a fixed base in the first epochs, statistics of batch normalisation.

The two-step transfer of the deep-person-reid repository: layers that are new are trained alone before the
pretrained ones are let go. The optimizer keeps all parameters; those that stand still get no gradient, and it
leaves what has none alone, weight decay included.
"""

from collections.abc import Iterable

from torch import nn


def set_training_mode(model: nn.Module, parameters: Iterable[nn.Parameter], train, epoch: int) -> None:
    """Modes and gradients of `model` for one epoch, as the `train` section says.

    Everything is in training mode and `parameters`, those that the optimizer moves, want gradients, but:
    in the first `train.fixed_base_epochs` the children that are not among `train.open_layers` are in evaluation mode
    and want none (`model` itself stays in training mode, so that its forward pass is the training one); with
    `train.freeze_bn` every batch normalisation is in evaluation mode all along.
    """
    model.train()
    still: set[int] = set()
    if epoch < train.fixed_base_epochs:
        for name, child in model.named_children():
            if name not in train.open_layers:
                child.eval()
                still.update(map(id, child.parameters()))
        for name in train.open_layers:  # what an open child shares with a closed one is trained
            still.difference_update(map(id, model.get_submodule(name).parameters()))
    for parameter in parameters:
        parameter.requires_grad_(id(parameter) not in still)
    if train.freeze_bn:
        set_bn_to_eval(model)


def set_bn_to_eval(model: nn.Module) -> None:
    """Batch normalisations of any dimension into evaluation mode: their running mean and variance are used and no
    longer updated, weight and bias go on being trained. `model.train()` undoes it.

    Known by "BatchNorm" in the name of the class, as in deep-person-reid: SyncBatchNorm is one, InstanceNorm is none.
    """
    for module in model.modules():
        if "BatchNorm" in type(module).__name__:
            module.eval()


def check_open_layers(model: nn.Module, open_layers: Iterable[str]) -> None:
    """Errors: ValueError naming the first of `open_layers` that is no child of `model`."""
    children = [name for name, _ in model.named_children()]
    for name in open_layers:
        if name not in children:
            raise ValueError(
                f"train.open_layers: got {name!r}, expected children of the model: {', '.join(children)}"
            )
