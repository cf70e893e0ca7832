# SPDX-License-Identifier: Apache-2.0
"""Spatial and channel attention (csrc/attention): one family for the gates of SE, CBAM, ECA, OSNet, HACNN, WRIM-Net
and the cloth-changing networks.

Three pieces, and the whole: `attention_pool` takes the statistics of a feature map in one read, any small network
makes logits of them, `attention_gate` multiplies the map with the gates of the logits in one read and one write.
`spatial_channel_attention` is the three together with one backward pass, and `channel_attention` is the common case
(a network of one or two linear layers) as a single operator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastreid_ops import _library
from fastreid_ops.ops import _attention_checks as own
from fastreid_ops.ops import _attention_reference as plain
from fastreid_ops.ops import _checks as check

_STATUS = _library.load()

if _STATUS.native:
    from fastreid_ops.ops import _attention_autograd, _attention_whole

Maps = Tensor | Sequence[Tensor]


class Statistics(NamedTuple):
    """Statistics of a map (B, C, H, W), in its dtype; None where not asked for."""

    channel_avg: Tensor | None = None  # (B, C), over H and W
    channel_max: Tensor | None = None
    spatial_avg: Tensor | None = None  # (B, 1, H, W), over C
    spatial_max: Tensor | None = None


class Gate(NamedTuple):
    """Logits of a gate, as `attention_gate` takes them; None where there is no such part."""

    channel: Tensor | None = None
    spatial: Tensor | None = None
    shift: Tensor | None = None
    full: Tensor | None = None


def _native(x: Tensor) -> bool:
    if torch.onnx.is_in_onnx_export():  # ONNX knows no operators of ours
        return False
    return _STATUS.cuda if x.is_cuda else _STATUS.native and x.device.type in ("cpu", "meta")


def attention_pool(
    x: Tensor,
    *,
    channel: Sequence[str] = ("avg", "max"),
    spatial: Sequence[str] = (),
    ties: str = "first",
) -> Statistics:
    """Means and maxima of a feature map for each channel (over H and W) and for each position (over C), all that are
    asked for in one read of the map.

    *Shapes*: x (B, C, H, W), float32, float64, bfloat16 or float16, C, H and W at least 1; contiguous or channels_last
    without a copy, other strides with one. ``channel`` names the statistics for each channel, (B, C); ``spatial`` those
    for each position, (B, 1, H, W). Sums are carried in float32 (float64 for float64), results have the dtype of x.

    *NaN*: goes through: what holds a NaN has mean and maximum NaN.

    *Ties*: ``ties="first"`` sends the gradient of a maximum to its first place, in the order of H and W or of C, as
    ``AdaptiveMaxPool2d`` and ``max(dim)`` do; ``"equal"`` splits it evenly over all equal places, as ``amax`` does. The
    two differ after a ReLU, where whole channels are zero.

    *Determinism*: the same bits for any number of threads, on every instruction set; on a GPU in every call. First
    derivatives only.

    *Memory*: the results, and 4 bytes for each maximum. The gradient: itself.

    Raises:
        TypeError: an argument of the wrong type, dtype or layout.
        ValueError: wrong shape, an empty map, an unknown statistic or tie rule, nothing asked for.
    """
    op = "attention_pool"
    x = own.feature_map(op, "x", x)
    channel = own.statistics(op, "channel", channel)
    spatial = own.statistics(op, "spatial", spatial)
    return _pool(op, x, channel, spatial, ties)


def _pool(
    op: str,
    x: Tensor,
    channel: tuple[str, ...],
    spatial: tuple[str, ...],
    ties: str,
    link: object | None = None,
) -> Statistics:
    """`attention_pool`, its arguments checked but for ``ties``; ``link`` as in `spatial_channel_attention`."""
    if not channel and not spatial:
        raise ValueError(check.message(op, "channel", "() and spatial ()", "at least one statistic"))
    check.choice(op, "ties", ties, own.TIES)
    run = _attention_autograd.pool if _native(x) else plain.pool
    if link is not None:
        run = link.pool
    channel_avg, channel_max, spatial_avg, spatial_max = run(x, channel, spatial, ties)
    return Statistics(
        channel_avg,
        channel_max,
        None if spatial_avg is None else spatial_avg.unsqueeze(1),
        None if spatial_max is None else spatial_max.unsqueeze(1),
    )


def attention_gate(
    x: Maps,
    *,
    channel: Maps | None = None,
    spatial: Maps | None = None,
    shift: Tensor | None = None,
    full: Tensor | None = None,
    activation: str = "sigmoid",
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """A feature map times the gates of some logits: ``relu(x * activation(logits) + residual)``, in one read and one
    write. The gates are never laid out at the size of the map.

    ==========================  ===========================================================================
    given                       logit at (b, c, y, x)
    ==========================  ===========================================================================
    ``channel``                 ``channel[b, c]``
    ``spatial``                 ``spatial[b, y, x]``
    ``channel`` and ``spatial`` ``channel[b, c] * spatial[b, y, x] + shift[b, c]`` (``shift`` may be left out)
    ``full``                    ``full[b, c, y * h // H, x * w // W]``, the nearest entry
    ==========================  ===========================================================================

    ``activation``: ``sigmoid``, ``relu``, ``linear`` or ``sigmoid_relu``, the sigmoid of a ReLU. x may be a sequence of
    up to 8 maps, each with its own entry of ``channel`` or of ``spatial``: then the result is the sum of the gated maps,
    what the streams of OSNet are fused by.

    *Shapes*: x (B, C, H, W), float32, float64, bfloat16 or float16, as is the result; contiguous or channels_last
    without a copy, other strides with one. channel (B, C) or (B, C, 1, 1); spatial (B, H, W) or (B, 1, H, W); shift
    (C,), (B, C) or (B, C, 1, 1); full (B, C, h, w), h a divisor of H and w of W; residual like x. Logits may have any
    floating dtype; gates are computed in float32 (float64 for float64).

    *NaN*: goes through, as in a product.

    *Ties*: none. The gradient of the final ReLU at 0 is 0.

    *Determinism*: the same bits for any number of threads, on every instruction set; on a GPU in every call. First
    derivatives only.

    *Memory*: the result. Backward: the gradients, nothing else (``full`` in another dtype or order than x is copied).

    Raises:
        TypeError: an argument of the wrong type, dtype or layout.
        ValueError: wrong shapes, devices that differ, no logits or a combination that the table does not have.
    """
    maps, single = own.branches("attention_gate", x)
    logits = Gate(channel, spatial, shift, full)
    return _gate("attention_gate", maps, single, logits, activation, residual, relu)


def _gate(
    op: str,
    maps: list[Tensor],
    single: bool,
    logits: Gate,
    activation: str,
    residual: Tensor | None,
    relu: bool,
    link: object | None = None,
) -> Tensor:
    """`attention_gate`, its first argument checked; ``link`` as in `spatial_channel_attention`."""
    channel, spatial, shift, full = logits
    channels = own.each(op, "channel", channel, maps, single, own.channel_logits)
    positions = own.each(op, "spatial", spatial, maps, single, own.spatial_logits)
    if full is not None:
        if channels or positions:
            raise ValueError(check.message(op, "full", "full beside channel or spatial", "one kind of gate"))
        if len(maps) > 1:
            raise ValueError(check.message(op, "full", f"{len(maps)} maps", "one map"))
        full = own.full_logits(op, "full", full, maps[0])
    elif not channels and not positions:
        raise ValueError(check.message(op, "channel", "no logits", "channel, spatial or full"))
    elif channels and positions and len(maps) > 1:
        raise ValueError(check.message(op, "spatial", f"channel and spatial for {len(maps)} maps", "one map"))
    if shift is not None:
        if not (channels and positions):
            raise ValueError(check.message(op, "shift", "a shift", "None without both channel and spatial"))
        shift = own.shift_logits(op, "shift", shift, maps[0])
    own.activation(op, activation)
    check.flag(op, "relu", relu)
    if residual is not None:
        residual = own.like(op, "residual", residual, maps[0])
    run = _attention_autograd.gate if _native(maps[0]) else plain.gate
    if link is not None:
        run = link.gate
    return run(maps, channels, positions, shift, full, residual, activation, relu)


def channel_attention(
    x: Maps,
    weight1: Tensor,
    bias1: Tensor | None = None,
    weight2: Tensor | None = None,
    bias2: Tensor | None = None,
    *,
    statistics: Sequence[str] = ("avg",),
    shared: bool = False,
    ties: str = "first",
    activation: str = "sigmoid",
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """A feature map times one gate a channel, made by a network of one or two linear layers from the map's own
    statistics: ``relu(x * activation(logits) + residual)``.

    With s the statistics of a channel's positions, the mean before the maximum, the logits are
    ``weight2 @ relu(weight1 @ s + bias1) + bias2``, or ``weight1 @ s + bias1`` without ``weight2``. ``shared=True``
    puts mean and maximum through the same network and adds the two (CBAM, Woo et al., ECCV 2018) instead of
    concatenating them. With ("avg",) this is squeeze and excitation (Hu et al., CVPR 2018).

    A sequence of maps shares the network, and the result is the sum of the gated maps (OSNet, Zhou et al., ICCV
    2019). On a CPU the statistics, the network and the gate of a few samples follow each other while their maps are in
    the cache: the map is read from memory once.

    *Shapes*: x (B, C, H, W) or up to 8 of them, as in `attention_gate`; weight1 (h, C) or (h, 2 C) for two statistics
    that are not shared, (C, ..) without weight2; bias1 (h,), weight2 (C, h), bias2 (C,). Weights may have any floating
    dtype; the network is computed in float32 (float64 for float64), under autocast too. The result is like x.

    *NaN*: goes through.

    *Ties*: as in `attention_pool`.

    *Determinism*: the same bits for any number of threads; AVX2 and AVX-512 agree. First derivatives only.

    *Memory*: the result and some floats a channel. Backward: the gradients, nothing of the map's size beside them.

    Raises:
        TypeError: an argument of the wrong type, dtype or layout.
        ValueError: wrong shapes, devices that differ, ``shared`` without both statistics.
    """
    op = "channel_attention"
    maps, single = own.branches(op, x)
    statistics = own.statistics(op, "statistics", statistics, needed=True)
    check.flag(op, "shared", shared)
    check.flag(op, "relu", relu)
    check.choice(op, "ties", ties, own.TIES)
    own.activation(op, activation)
    if shared and len(statistics) < 2:
        raise ValueError(check.message(op, "shared", f"True with {statistics}", "both avg and max"))
    inputs = maps[0].shape[1] * (1 if shared else len(statistics))
    weights = own.weights(op, (weight1, bias1, weight2, bias2), maps[0], inputs)
    if residual is not None:
        residual = own.like(op, "residual", residual, maps[0])
    if _native(maps[0]) and not maps[0].is_cuda:
        return _attention_autograd.channel(
            maps, weights, statistics, shared, ties, residual, activation, relu
        )

    def network(values: Statistics) -> Gate:
        parts = [v.to(weights[0].dtype) for v in (values.channel_avg, values.channel_max) if v is not None]
        return Gate(channel=plain.network(parts, *weights, shared))

    return spatial_channel_attention(
        maps[0] if single else maps,
        network,
        channel=statistics,
        ties=ties,
        activation=activation,
        residual=residual,
        relu=relu,
    )


def spatial_channel_attention(
    x: Maps,
    network: Callable[[Statistics], Gate],
    *,
    channel: Sequence[str] = ("avg", "max"),
    spatial: Sequence[str] = (),
    ties: str = "first",
    activation: str = "sigmoid",
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """A feature map times the gates that any network makes of its statistics: `attention_pool`, ``network``,
    `attention_gate`, with one backward pass.

    ``network`` takes `Statistics` and returns a `Gate`; it may have parameters, batch normalisation, several stages.
    It is called once for each map of a sequence. The gradient of x is made in one place from what comes through the
    gate and what comes through the statistics, instead of being written twice and added; while compiling or exporting
    the three ops stand in the graph on their own.

    *Shapes*: x (B, C, H, W) or up to 8 of them, as in `attention_gate`; the result is like x.

    *NaN*: goes through.

    *Ties*: as in `attention_pool`.

    *Determinism*: that of the three ops and of ``network``. First derivatives only.

    *Memory*: the result and what ``network`` needs. Backward: the gradients, nothing of the map's size beside them.

    Raises:
        TypeError: an argument of the wrong type, dtype or layout, or a network that does not return a `Gate`.
        ValueError: wrong shapes, devices that differ, nothing asked for.
    """
    op = "spatial_channel_attention"
    maps, single = own.branches(op, x)
    if not callable(network):
        raise TypeError(check.message(op, "network", type(network).__name__, "a callable"))
    channel = own.statistics(op, "channel", channel)
    spatial = own.statistics(op, "spatial", spatial)
    # Tracing cannot follow the two linked nodes; without a gradient there is nothing to join.
    records = torch.is_grad_enabled() and any(one.requires_grad for one in maps)
    link = _attention_whole.Link() if records and _native(maps[0]) and check.has_values(maps[0]) else None
    gates = []
    for one in maps:
        gate = network(_pool(op, one, channel, spatial, ties, link))
        if not isinstance(gate, Gate):
            raise TypeError(check.message(op, "network", f"a {type(gate).__name__} from it", "a Gate"))
        gates.append(gate)
    if not single:
        # What some maps have and others lack stays in, to be refused by name.
        columns = [
            None if all(v is None for v in values) else list(values) for values in zip(*gates, strict=True)
        ]
        shift, full = (next((v for v in values or () if v is not None), None) for values in columns[2:])
        gates = [Gate(columns[0], columns[1], shift, full)]
    return _gate(op, maps, single, gates[0], activation, residual, relu, link)
