# SPDX-License-Identifier: Apache-2.0
"""Attention layers as their sources write them, in plain PyTorch: pool modules, a small network, a sigmoid, a product
that broadcasts. `eager` and `compiled` make callables of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class _Layer(nn.Module):
    streams = 1

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels, self.hidden = channels, max(1, channels // 16)
        self.avg_pool, self.max_pool = nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(1)

    def both(self, x: Tensor) -> Tensor:
        return torch.cat([self.avg_pool(x), self.max_pool(x)], 1).flatten(1)


class PoolAndGate(_Layer):
    """No network: what every layer with both statistics does to the map."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.avg_pool(x) + self.max_pool(x))


class SqueezeExcitation(_Layer):
    """SE of the re-identification backbones: no biases."""

    biases = False

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.fc1 = nn.Linear(channels, self.hidden, bias=self.biases)
        self.fc2 = nn.Linear(self.hidden, channels, bias=self.biases)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc2(torch.relu(self.fc1(self.avg_pool(x).flatten(1))))
        return x * torch.sigmoid(y)[:, :, None, None]


class Run196(SqueezeExcitation):
    biases = True


class EfficientChannel(_Layer):
    """ECA: a convolution along the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(self.avg_pool(x).squeeze(-1).transpose(-1, -2))
        return x * torch.sigmoid(y.transpose(-1, -2).unsqueeze(-1))


class Run197(_Layer):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.fc1, self.fc2 = nn.Linear(2 * channels, self.hidden), nn.Linear(self.hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(self.both(x)))))[:, :, None, None]


class Run201(_Layer):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.fc = nn.Linear(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.fc(self.both(x)))[:, :, None, None]


class Run203(_Layer):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.fc1, self.fc2 = (
            nn.Linear(2 * channels, self.hidden, bias=False),
            nn.Linear(self.hidden, channels, bias=False),
        )
        self.bn = nn.BatchNorm1d(self.hidden)

    def network(self, statistics: Tensor) -> Tensor:
        return self.fc2(torch.relu(self.bn(self.fc1(statistics))))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.network(self.both(x)))[:, :, None, None]


class CbamChannel(_Layer):
    """One network of 1 x 1 convolutions for both statistics."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.fc1 = nn.Conv2d(channels, self.hidden, 1, bias=False)
        self.fc2 = nn.Conv2d(self.hidden, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        avg = self.fc2(torch.relu(self.fc1(self.avg_pool(x))))
        return x * torch.sigmoid(avg + self.fc2(torch.relu(self.fc1(self.max_pool(x)))))


class CbamSpatial(_Layer):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        planes = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True).values], 1)
        return x * torch.sigmoid(self.conv(planes))


class Cbam(_Layer):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.channel, self.spatial = CbamChannel(channels), CbamSpatial(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.spatial(self.channel(x))


class OSNetGate(_Layer):
    """One gate for the four streams of a block, whose sum is the block's result."""

    streams = 4

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.fc1, self.fc2 = nn.Conv2d(channels, self.hidden, 1), nn.Conv2d(self.hidden, channels, 1)

    def gate(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(self.avg_pool(x)))))

    def forward(self, *maps: Tensor) -> Tensor:
        first, second, third, fourth = maps
        return self.gate(first) + self.gate(second) + self.gate(third) + self.gate(fourth)


LAYERS: dict[str, type[_Layer]] = {
    "pool and gate": PoolAndGate,
    "SE": SqueezeExcitation,
    "196": Run196,
    "197": Run197,
    "201": Run201,
    "203": Run203,
    "ECA": EfficientChannel,
    "CBAM channel": CbamChannel,
    "CBAM spatial": CbamSpatial,
    "CBAM": Cbam,
    "OSNet gate": OSNetGate,
}


def eager(layer: nn.Module) -> Callable[..., Tensor]:
    return layer


def compiled(layer: nn.Module) -> Callable[..., Tensor]:
    """For the very sizes of its first call."""
    return torch.compile(layer, dynamic=False, fullgraph=True)


RIVALS = {"eager": eager, "torch.compile": compiled}
