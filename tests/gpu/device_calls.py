# SPDX-License-Identifier: Apache-2.0
"""Calls and problems that several of the tests on a device use."""

from __future__ import annotations

import torch

from fastreid_ops import pairwise_distance
from fastreid_ops.ops.attention import (
    Gate,
    attention_gate,
    attention_pool,
    channel_attention,
    spatial_channel_attention,
)

SHAPE = (4, 32, 12, 6)


def weights(device: str) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(9)
    return [torch.randn(shape, generator=generator).to(device) for shape in ((8, 64), (32, 8))]


def _whole(x: torch.Tensor) -> torch.Tensor:
    return spatial_channel_attention(
        x,
        lambda v: Gate(v.channel_max, v.spatial_avg + v.spatial_max),
        spatial=("avg", "max"),
        residual=x,
        relu=True,
    )


def _two_layers(x: torch.Tensor) -> torch.Tensor:
    first, second = weights_of(x)
    return channel_attention(x, first, None, second, None, statistics=("avg", "max"))


_WEIGHTS: dict[torch.device, list[torch.Tensor]] = {}


def weights_of(x: torch.Tensor) -> list[torch.Tensor]:
    """Made before a capture: copies from the host cannot be in one."""
    if x.device not in _WEIGHTS:
        _WEIGHTS[x.device] = weights(str(x.device))
    return _WEIGHTS[x.device]


CALLS = {
    "pool": lambda x: torch.cat([v.flatten() for v in attention_pool(x, spatial=("avg", "max"))]),
    "pool, equal ties": lambda x: attention_pool(x, ties="equal").channel_max,
    "channel gate": lambda x: attention_gate(x, channel=x[:, :, 0, 0], residual=x),
    "spatial gate": lambda x: attention_gate(x, spatial=x[:, 0], relu=True),
    "outer gate": lambda x: attention_gate(x, channel=x[:, :, 0, 0], spatial=x[:, 0], shift=x[0, :, 1, 1]),
    "full gate": lambda x: attention_gate(x, full=x[:, :, ::2, ::2].contiguous()),
    "streams": lambda x: attention_gate([x, x], channel=[x[:, :, 0, 0], x[:, :, 1, 1]]),
    "two layers": _two_layers,
    "whole": _whole,
    "distance": lambda x: pairwise_distance(x.flatten(1), x.flatten(1) + 1, check_finite=False),
}


def values(seed: int, device: str) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)).to(device)


def raw(value: torch.Tensor) -> torch.Tensor:
    value = value.detach().contiguous()
    return (value if value.dim() else value.reshape(1)).view(torch.uint8)


def tensors(result: object) -> list[torch.Tensor]:
    parts = result if isinstance(result, tuple) else (result,)
    return [raw(part) for part in parts if isinstance(part, torch.Tensor)]


def problem(device: str, queries: int, gallery: int, depth: int):
    generator = torch.Generator().manual_seed(5)
    people = torch.randn(gallery // 20 + 1, depth, generator=generator)
    who = torch.randint(len(people), (queries + gallery,), generator=generator)
    rows = people[who] + 0.8 * torch.randn(queries + gallery, depth, generator=generator)
    cameras = torch.randint(4, (len(rows),), generator=generator)
    return [value.to(device).split([queries, gallery]) for value in (rows, who, cameras)]
