# SPDX-License-Identifier: Apache-2.0
"""Initial values shared by the models."""

from __future__ import annotations

from torch import nn


def initialise(module: nn.Module, *, linear_std: float | None = 0.01, conv_bias: bool = True) -> None:
    """Fill ``module`` in place with the values most re-identification networks start from.

    Convolutions: He et al. 2015, normal, fan-out, ReLU gain, zero bias. Normalisations: weight 1, bias 0.
    Linear layers: N(0, ``linear_std``), zero bias. Only torch's global generator is used, so ``torch.manual_seed``
    before the construction decides every value.

    Args:
        module: changed in place.
        linear_std: deviation; None leaves linear layers as they are.
        conv_bias: False leaves the biases of convolutions as they are.
    """
    for child in module.modules():
        if isinstance(child, nn.Conv2d):
            nn.init.kaiming_normal_(child.weight, mode="fan_out", nonlinearity="relu")
            if conv_bias and child.bias is not None:
                nn.init.zeros_(child.bias)
        elif isinstance(child, (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)):
            if child.weight is not None:
                nn.init.ones_(child.weight)
                nn.init.zeros_(child.bias)
        elif linear_std is not None and isinstance(child, nn.Linear):
            nn.init.normal_(child.weight, 0.0, linear_std)
            if child.bias is not None:
                nn.init.zeros_(child.bias)
