# SPDX-License-Identifier: Apache-2.0
"""Attention on a device: the ops against the copy bandwidth, whole layers against eager torch and torch.compile.
Several maps in turn, so that none is found in the cache; graphs, so that the host is not timed where it is slower."""

from __future__ import annotations

from collections.abc import Callable

import torch
from attention_layers import Case, case, ours, same
from device_timing import in_graph, measure
from rivals.attention import RIVALS
from roofline import ATTENTION, MAPS, Work, attention
from torch import Tensor

from fastreid_ops.ops.attention import attention_gate, attention_pool

TINY = ((2, 16, 8, 4),)
CACHE = 4 * 60 * 2**20  # bytes that one round should go through
COPIES = 0.85
LAYERS = ("pool and gate", "SE", "197", "CBAM")


def maps(bench, shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    one = torch.Size(shape).numel() * dtype.itemsize
    count = bench.pick(min(8, max(2, -(-CACHE // one))), 2)
    generator = torch.Generator(bench.device).manual_seed(0)
    return [torch.randn(shape, generator=generator, device=bench.device).to(dtype) for _ in range(count)]


def _pool(x: Tensor) -> Tensor:
    found = attention_pool(x)
    return found.channel_avg + found.channel_max


def _gate(x: Tensor) -> Tensor:
    return attention_gate(x, channel=x[:, :, 0, 0])


def _step(call: Callable[[Tensor], Tensor], x: Tensor, above: Tensor) -> tuple[Tensor, ...]:
    leaf = x.detach().requires_grad_()
    return torch.autograd.grad(call(leaf), leaf, above)


def kernels(bench) -> None:
    """Pool and gate alone: what they must read and write over what they take, against copies."""
    for shape in bench.pick(MAPS, TINY):
        for dtype in (torch.float32, torch.bfloat16):
            xs = maps(bench, shape, dtype)
            for name, call in (("pool", _pool), ("gate", _gate)):
                above = [torch.randn_like(call(x)) for x in xs]
                for direction in ("forward", "forward and backward"):
                    work = attention(shape, dtype.itemsize, *ATTENTION[f"{name}, {direction}"])
                    if direction == "forward":
                        calls = [lambda x=x, c=call: c(x.detach()) for x in xs]
                    else:
                        pairs = zip(xs, above, strict=True)
                        calls = [lambda x=x, a=a, c=call: _step(c, x, a) for x, a in pairs]
                    title = f"{name} {'x'.join(map(str, shape))} {str(dtype)[6:]}, {direction}"
                    with torch.enable_grad():
                        called = measure(calls, bench.device, rounds=bench.rounds)
                        bench.compare(f"{title}, as called", called, work=work)
                        found = in_graph(calls, bench.device, rounds=bench.rounds)
                    # Whether it is met is said where the ceilings are known.
                    bench.compare(
                        title, found, work=work, target=f"{COPIES:.0%} of copies", least_of_floor=COPIES
                    )


def _layer(bench, name: str, shape: tuple[int, ...], rival: str, target: float) -> None:
    found: Case = case(name, shape, bench.device)
    torch._dynamo.reset()  # else all layers' compiled versions count against one limit
    own, theirs = ours(name, found.layer), RIVALS[rival](found.layer)
    same(found.step(own), found.step(theirs))
    wanted = (*found.maps, *found.layer.parameters())

    # Without the waits of Case, which are for the clock.
    def forward(run: Callable[..., Tensor]) -> Tensor:
        with torch.no_grad():
            return run(*found.maps)

    def step(run: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(run(*found.maps), wanted, found.grad)

    for direction, way in (("forward", forward), ("forward and backward", step)):
        timings = [
            measure(lambda w=way, r=run: w(r), bench.device, rounds=bench.pick(30, 2), warm=bench.pick(5, 1))
            for run in (own, theirs)
        ]
        work = Work(found.floor_bytes(backward=way is step))
        bench.compare(
            f"{name} {'x'.join(map(str, shape))}, {direction}",
            timings[0],
            work=work,
            rival=rival,
            rival_timing=timings[1],
            target=f"at least {target} times as fast as {rival}",
            met=timings[1].seconds >= target * timings[0].seconds,
        )


def layers(bench) -> None:
    """Layers as networks have them, in eager torch."""
    for name in bench.pick(LAYERS, LAYERS[:1]):
        for shape in bench.pick(MAPS, TINY):
            _layer(bench, name, shape, "eager", 2.0)


def compiled(bench) -> None:
    """The same under torch.compile, which takes seconds for each. In a dry run the rival stays eager: compiling on a
    CPU takes a compiler and half a minute."""
    for name in bench.pick(LAYERS, LAYERS[:1]):
        for shape in bench.pick(MAPS[:2], TINY):
            _layer(bench, name, shape, bench.pick("torch.compile", "eager"), 1.2)
