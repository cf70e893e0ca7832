# SPDX-License-Identifier: Apache-2.0
"""The attention ops by their definition, with NumPy in 80-bit floats; and what people write in plain PyTorch."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from fastreid_ops.ops.attention import Gate, Statistics


def outputs(result):
    """The statistics by name, without those that were not asked for; other results as they are."""
    if not isinstance(result, Statistics):
        return {"result": result}
    return {name: value for name, value in result._asdict().items() if value is not None}


class Network:
    """``form(statistics, weight)`` of operators that NumPy's arrays and torch's tensors share, so that the oracle and
    the op run the same network, each in its own arithmetic."""

    def __init__(self, form, weight):
        self.form, self.weight = form, weight

    def __call__(self, values):
        dtype = next(v for v in values if v is not None).dtype
        values = Statistics(*(None if v is None else v.to(self._wide(dtype)) for v in values))
        return self.form(values, self.weight.to(self._wide(dtype)))

    @staticmethod
    def _wide(dtype):
        return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


# By definition


def _long(value):
    return value.double().numpy().astype(np.longdouble)


def _rounded(value):
    return torch.from_numpy(value.astype(np.float64))


def _activated(logits, activation):
    if activation in ("relu", "sigmoid_relu"):
        logits = np.maximum(logits, 0)
    return 1 / (1 + np.exp(-logits)) if "sigmoid" in activation else logits


def _statistics(x, channel, spatial):
    return Statistics(
        x.mean((2, 3)) if "avg" in channel else None,
        x.max((2, 3)) if "max" in channel else None,
        x.mean(1, keepdims=True) if "avg" in spatial else None,
        x.max(1, keepdims=True) if "max" in spatial else None,
    )


def _gated(x, gate, activation):
    batch, channels, height, width = x.shape
    channel = None if gate.channel is None else gate.channel.reshape(batch, channels, 1, 1)
    spatial = None if gate.spatial is None else gate.spatial.reshape(batch, 1, height, width)
    if gate.full is not None:
        rows = np.arange(height) * gate.full.shape[2] // height
        columns = np.arange(width) * gate.full.shape[3] // width
        logits = gate.full[:, :, rows][:, :, :, columns]
    elif channel is not None and spatial is not None:
        logits = channel * spatial
        if gate.shift is not None:
            logits = logits + gate.shift.reshape(-1, channels, 1, 1)
    else:
        logits = spatial if channel is None else channel
    return x * _activated(logits, activation)


def _finished(total, residual, relu):
    total = total if residual is None else total + residual
    return {"result": _rounded(np.maximum(total, 0) if relu else total)}


def _each(value, count):
    return value if isinstance(value, list) else [value] * count


def pool(x, *, channel=("avg", "max"), spatial=(), ties="first"):
    found = _statistics(_long(x), channel, spatial)
    return {name: _rounded(value) for name, value in found._asdict().items() if value is not None}


def gate(
    x, *, channel=None, spatial=None, shift=None, full=None, activation="sigmoid", residual=None, relu=False
):
    maps = x if isinstance(x, list) else [x]
    parts = [_each(value, len(maps)) for value in (channel, spatial, shift, full)]
    total = 0
    for one, *logits in zip(maps, *parts, strict=True):
        numbers = Gate(*(None if value is None else _long(value) for value in logits))
        total = total + _gated(_long(one), numbers, activation)
    return _finished(total, None if residual is None else _long(residual), relu)


def spatial_channel(
    x,
    network,
    *,
    channel=("avg", "max"),
    spatial=(),
    ties="first",
    activation="sigmoid",
    residual=None,
    relu=False,
):
    maps = [_long(one) for one in (x if isinstance(x, list) else [x])]
    weight = _long(network.weight)
    gates = [network.form(_statistics(one, channel, spatial), weight) for one in maps]
    total = sum(_gated(one, found, activation) for one, found in zip(maps, gates, strict=True))
    return _finished(total, None if residual is None else _long(residual), relu)


def channel(
    x, weight1, bias1=None, weight2=None, bias2=None, *, statistics=("avg",), shared=False, ties="first",
    activation="sigmoid", residual=None, relu=False,
):  # fmt: skip
    first, first_bias, second, second_bias = (
        None if w is None else _long(w) for w in (weight1, bias1, weight2, bias2)
    )

    def layers(values):
        hidden = values @ first.T + (0 if first_bias is None else first_bias)
        if second is None:
            return hidden
        return np.maximum(hidden, 0) @ second.T + (0 if second_bias is None else second_bias)

    total = 0
    for one in x if isinstance(x, list) else [x]:
        found = _statistics(_long(one), statistics, ())
        values = [v for v in (found.channel_avg, found.channel_max) if v is not None]
        logits = sum(map(layers, values)) if shared else layers(np.concatenate(values, 1))
        total = total + _gated(_long(one), Gate(channel=logits), activation)
    return _finished(total, None if residual is None else _long(residual), relu)


# In plain PyTorch, in the dtype of x


def _naive_statistics(x, channel, spatial):
    return Statistics(
        x.mean((2, 3)) if "avg" in channel else None,
        x.amax((2, 3)) if "max" in channel else None,
        x.mean(1, keepdim=True) if "avg" in spatial else None,
        x.amax(1, keepdim=True) if "max" in spatial else None,
    )


def _naive_gated(x, gate, activation):
    batch, channels, height, width = x.shape
    gate = Gate(*(None if value is None else value.to(x.dtype) for value in gate))
    channel = None if gate.channel is None else gate.channel.reshape(batch, channels, 1, 1)
    spatial = None if gate.spatial is None else gate.spatial.reshape(batch, 1, height, width)
    if gate.full is not None:
        # F.interpolate knows no empty batch.
        logits = F.interpolate(gate.full, (height, width)) if batch else x
    elif channel is not None and spatial is not None:
        logits = channel * spatial
        if gate.shift is not None:
            logits = logits + gate.shift.reshape(-1, channels, 1, 1)
    else:
        logits = spatial if channel is None else channel
    logits = logits.relu() if activation in ("relu", "sigmoid_relu") else logits
    return x * (logits.sigmoid() if "sigmoid" in activation else logits)


def _naive_finished(total, residual, relu):
    total = total if residual is None else total + residual
    return {"result": total.relu() if relu else total}


def naive_pool(x, *, channel=("avg", "max"), spatial=(), ties="first"):
    return outputs(_naive_statistics(x, channel, spatial))


def naive_gate(
    x, *, channel=None, spatial=None, shift=None, full=None, activation="sigmoid", residual=None, relu=False
):
    maps = x if isinstance(x, list) else [x]
    parts = [_each(value, len(maps)) for value in (channel, spatial, shift, full)]
    total = sum(_naive_gated(one, Gate(*own), activation) for one, *own in zip(maps, *parts, strict=True))
    return _naive_finished(total, residual, relu)


def naive_spatial_channel(
    x,
    network,
    *,
    channel=("avg", "max"),
    spatial=(),
    ties="first",
    activation="sigmoid",
    residual=None,
    relu=False,
):
    maps = x if isinstance(x, list) else [x]
    gates = [network(_naive_statistics(one, channel, spatial)) for one in maps]
    total = sum(_naive_gated(one, found, activation) for one, found in zip(maps, gates, strict=True))
    return _naive_finished(total, residual, relu)


def naive_channel(
    x, weight1, bias1=None, weight2=None, bias2=None, *, statistics=("avg",), shared=False, ties="first",
    activation="sigmoid", residual=None, relu=False,
):  # fmt: skip
    maps = x if isinstance(x, list) else [x]
    weights = [None if w is None else w.to(maps[0].dtype) for w in (weight1, bias1, weight2, bias2)]

    def layers(values):
        hidden = F.linear(values, weights[0], weights[1])
        return hidden if weights[2] is None else F.linear(hidden.relu(), weights[2], weights[3])

    total = 0
    for one in maps:
        found = _naive_statistics(one, statistics, ())
        values = [v for v in (found.channel_avg, found.channel_max) if v is not None]
        logits = sum(map(layers, values)) if shared else layers(torch.cat(values, 1))
        total = total + _naive_gated(one, Gate(channel=logits), activation)
    return _naive_finished(total, residual, relu)
