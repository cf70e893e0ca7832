# SPDX-License-Identifier: Apache-2.0
"""Harmonious attention (HACNN, Li et al., CVPR 2018): where a person is (soft), and where its parts are (hard).

Module and parameter names are those of deep-person-reid (torchreid, MIT), so its weight files load as they are.

The soft gate is sigmoid(relu(BN(W (s v) + b))), with s one number a position, v one a channel, and W a C x C
convolution of their outer product. A 1x1 convolution of an outer product is the outer product with W v, so neither the
product nor the convolution's output is ever laid out: the logits are s u + shift with u = W v, scaled by the
normalisation, and in training the mean and the variance of all B H W values of a channel follow from those of s and
from u.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastreid_ops.layers._network import batch_for_statistics, first_map, hidden_width, matrix, wide
from fastreid_ops.ops import _checks as check
from fastreid_ops.ops.attention import (
    Gate,
    Statistics,
    attention_gate,
    attention_pool,
    spatial_channel_attention,
)

REGIONS = 4
_ACTIVATION = "sigmoid_relu"


class ConvBlock(nn.Module):
    """Convolution with bias -> batch normalisation -> ReLU, HACNN's building block."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, padding: int = 0
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(x)))


class SpatialAttn(nn.Module):
    """(B, C, H, W), H and W even -> (B, 1, H, W), not negative. Up-sampled with aligned corners."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = ConvBlock(1, 1, 3, stride=2, padding=1)
        self.conv2 = ConvBlock(1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        first_map("SpatialAttn", x)
        return self.from_mean(attention_pool(x, channel=(), spatial=("avg",)).spatial_avg)

    def from_mean(self, mean: Tensor) -> Tensor:
        """The same from the mean over the channels, (B, 1, H, W)."""
        height, width = mean.shape[2:]
        if height % 2 or width % 2:
            raise ValueError(
                check.message("SpatialAttn", "x", f"{height} x {width}", "an even height and width")
            )
        small = self.conv1(mean)
        return self.conv2(F.interpolate(small, (height, width), mode="bilinear", align_corners=True))


class ChannelAttn(nn.Module):
    """(B, channels, H, W) -> (B, channels, 1, 1), not negative."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = hidden_width("ChannelAttn", channels, reduction)
        self.conv1 = ConvBlock(channels, hidden, 1)
        self.conv2 = ConvBlock(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        first_map("ChannelAttn", x, self.conv1.conv.in_channels)
        return self.from_mean(attention_pool(x, channel=("avg",)).channel_avg)

    def from_mean(self, mean: Tensor) -> Tensor:
        """The same from the mean over the positions, (B, channels)."""
        if self.conv1.bn.training or self.conv2.bn.training:
            batch_for_statistics("ChannelAttn", mean)
        return self.conv2(self.conv1(mean[:, :, None, None]))


def _track(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    """What batch normalisation does to its running statistics in a training step; ``variance`` is unbiased."""
    with torch.no_grad():
        norm.num_batches_tracked.add_(1)
        if norm.momentum is None:  # cumulative average
            momentum = 1.0 / norm.num_batches_tracked.to(norm.running_mean.dtype)
        else:
            momentum = norm.momentum
        norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), momentum)
        norm.running_var.lerp_(variance.to(norm.running_var.dtype), momentum)


def outer_norm(norm: nn.BatchNorm2d, s: Tensor, u: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Batch normalisation of z = s u + bias without z.

    For s (B, 1, H, W), u (B, C) and bias (C,): factor (B, C) and shift (C,) with norm(z) = s factor + shift. In
    training the statistics are those of the B H W values of a channel and the running ones are updated as norm(z)
    would.
    """
    s, u, bias = wide(s).flatten(1), wide(u), wide(bias)
    if norm.training:
        # Variance = mean over samples of the variance inside a sample + variance of the samples' means.
        means = s.mean(1, keepdim=True) * u
        inside = (s.var(1, correction=0, keepdim=True) * u.square()).mean(0)
        variance = inside + means.var(0, correction=0)
        mean = means.mean(0) + bias
        if norm.track_running_stats:
            _track(norm, mean, variance * (s.numel() / (s.numel() - 1)))
    else:
        mean, variance = wide(norm.running_mean), wide(norm.running_var)
    scale = wide(norm.weight) * torch.rsqrt(variance + norm.eps)
    return scale * u, (bias - mean) * scale + wide(norm.bias)


class SoftAttn(nn.Module):
    """x times the soft gate, which lies in [0.5, 1). (B, channels, H, W), H and W even -> the same.

    `attention` gives the gate itself, (B, channels, H, W), what the original's module returns.

    Raises:
        ValueError: an odd height or width; another number of channels than the layer's; one sample in training.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.spatial_attn = SpatialAttn()
        self.channel_attn = ChannelAttn(channels)
        self.conv = ConvBlock(channels, channels, 1)

    def logits(self, values: Statistics) -> Gate:
        """What stands under the ReLU of the gate, from the two means of a map."""
        s = self.spatial_attn.from_mean(values.spatial_avg)
        v = self.channel_attn.from_mean(values.channel_avg).flatten(1)
        u = F.linear(v, matrix(self.conv.conv))
        norm, bias = self.conv.bn, self.conv.conv.bias
        if (
            type(norm) is not nn.BatchNorm2d
        ):  # SyncBatchNorm and others: their statistics are not ours to derive
            return Gate(full=norm(s * u[:, :, None, None] + bias[:, None, None]))
        factor, shift = outer_norm(norm, s, u, bias)
        return Gate(channel=factor, spatial=s, shift=shift)

    def forward(self, x: Tensor) -> Tensor:
        first_map("SoftAttn", x, self.conv.conv.in_channels)
        return spatial_channel_attention(
            x, self.logits, channel=("avg",), spatial=("avg",), activation=_ACTIVATION
        )

    def attention(self, x: Tensor) -> Tensor:
        """The gate, laid out: for pictures of it, no part of a network."""
        first_map("SoftAttn", x, self.conv.conv.in_channels)
        values = attention_pool(x, channel=("avg",), spatial=("avg",))
        return attention_gate(torch.ones_like(x), **self.logits(values)._asdict(), activation=_ACTIVATION)


class HardAttn(nn.Module):
    """Translations (t_x, t_y) of the four regions, in (-1, 1): tanh(W mean(x) + b). (B, channels, H, W) -> (B, 4, 2).

    W starts at 0 and b at (0, -0.75), (0, -0.25), (0, 0.25), (0, 0.75); the tanh acts on b too, so the regions start at
    t_y = -0.635, -0.245, 0.245, 0.635 (the original's behaviour; the paper names the values before the tanh).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, 2 * REGIONS)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        with torch.no_grad():
            self.fc.weight.zero_()
            self.fc.bias.copy_(torch.tensor([0.0, -0.75, 0.0, -0.25, 0.0, 0.25, 0.0, 0.75]))

    def forward(self, x: Tensor) -> Tensor:
        first_map("HardAttn", x, self.fc.in_features)
        return self.from_mean(attention_pool(x, channel=("avg",)).channel_avg)

    def from_mean(self, mean: Tensor) -> Tensor:
        """The same from the mean over the positions, (B, channels)."""
        return torch.tanh(self.fc(mean)).view(-1, REGIONS, 2)


class HarmAttn(nn.Module):
    """Soft and hard attention from one pair of statistics. (B, channels, H, W) -> x times the gate, theta (B, 4, 2).

    The original returns the gate and leaves the product to the network. Errors as `SoftAttn`.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.soft_attn = SoftAttn(channels)
        self.hard_attn = HardAttn(channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first_map("HarmAttn", x, self.hard_attn.fc.in_features)
        theta: list[Tensor] = []

        def network(values: Statistics) -> Gate:
            theta.append(self.hard_attn.from_mean(values.channel_avg))
            return self.soft_attn.logits(values)

        gated = spatial_channel_attention(
            x, network, channel=("avg",), spatial=("avg",), activation=_ACTIVATION
        )
        return gated, theta[0]
