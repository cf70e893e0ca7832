# SPDX-License-Identifier: Apache-2.0
"""The gate that fuses the streams of an omni-scale block (OSNet, Zhou et al., ICCV 2019, eq. 3; OSNet-AIN)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastreid_ops.layers._network import Maps, first_map, hidden_width, matrix
from fastreid_ops.ops import _checks as check
from fastreid_ops.ops.attention import (
    Gate,
    Statistics,
    attention_pool,
    channel_attention,
    spatial_channel_attention,
)

_ACTIVATIONS = {"sigmoid": torch.sigmoid, "relu": torch.relu, "linear": lambda logits: logits}


class ChannelGate(nn.Module):
    """x * activation(W2 relu(W1 mean(x) + b1) + b2), parameters `fc1`, `fc2` and, with LayerNorm, `norm1`.

    (B, channels, H, W) -> the same. A sequence of streams gives the sum of the gated streams, in one pass that writes
    nothing but the sum.

    Args:
        num_gates: logits of a sample: ``channels`` (default), or 1, the same gate for every channel; any number with
            ``return_gates``.
        return_gates: return the gates (B, num_gates, 1, 1) in place of the gated map, for a sequence a tuple of them.
        gate_activation: sigmoid, relu or linear.
        reduction: channels for each hidden one.
        layer_norm: LayerNorm over the hidden values of a sample, before their ReLU.

    Raises:
        ValueError: another number of channels than the layer's; fewer channels than the reduction; a number of gates
            that fits no channels; an unknown activation.
    """

    def __init__(
        self,
        channels: int,
        *,
        num_gates: int | None = None,
        return_gates: bool = False,
        gate_activation: str = "sigmoid",
        reduction: int = 16,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        hidden = hidden_width("ChannelGate", channels, reduction)
        gates = channels if num_gates is None else num_gates
        check.positive_int("ChannelGate", "num_gates", gates)
        if not return_gates and gates not in (1, channels):
            words = f"1 or {channels}, the channels, without return_gates"
            raise ValueError(check.message("ChannelGate", "num_gates", gates, words))
        check.choice("ChannelGate", "gate_activation", gate_activation, tuple(_ACTIVATIONS))
        self.channels = channels
        self.return_gates = return_gates
        self.gate_activation = gate_activation
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.norm1 = nn.LayerNorm((hidden, 1, 1)) if layer_norm else None
        self.fc2 = nn.Conv2d(hidden, gates, 1)

    def forward(self, x: Maps) -> Tensor | tuple[Tensor, ...]:
        first_map("ChannelGate", x, self.channels)
        if self.return_gates:
            return tuple(self._gates(one) for one in x) if isinstance(x, (list, tuple)) else self._gates(x)
        if self.norm1 is None:
            # One gate for all channels: its row of the last layer stands in the place of every channel's.
            weight2 = matrix(self.fc2).expand(self.channels, -1)
            bias2 = self.fc2.bias.expand(self.channels)
            weights = matrix(self.fc1), self.fc1.bias, weight2, bias2
            return channel_attention(x, *weights, activation=self.gate_activation)
        return spatial_channel_attention(
            x, self._every_channel, channel=("avg",), activation=self.gate_activation
        )

    def _network(self, mean: Tensor) -> Tensor:
        """(B, channels) -> logits (B, num_gates, 1, 1)."""
        hidden = self.fc1(mean[:, :, None, None])
        return self.fc2(torch.relu(hidden if self.norm1 is None else self.norm1(hidden)))

    def _every_channel(self, values: Statistics) -> Gate:
        return Gate(channel=self._network(values.channel_avg).expand(-1, self.channels, -1, -1))

    def _gates(self, x: Tensor) -> Tensor:
        mean = attention_pool(x, channel=("avg",)).channel_avg
        return _ACTIVATIONS[self.gate_activation](self._network(mean))
