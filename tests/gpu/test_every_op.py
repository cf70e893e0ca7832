# SPDX-License-Identifier: Apache-2.0
"""Every op of tests/ops/specs.py on a GPU, against the oracles on the CPU: values, equal bits in every call, and the
gradients of attention. Where there is no GPU the same harness runs on the CPU, in float32 alone."""

from __future__ import annotations

import pytest
import torch
from specs import SPECS
from test_contract import largest_error

from fastreid_ops import _library
from fastreid_ops.ops.attention import Gate, attention_gate, spatial_channel_attention

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = (
    (torch.float32, torch.float64, torch.bfloat16, torch.float16) if DEVICE == "cuda" else (torch.float32,)
)


def there(value: object) -> object:
    return value.to(DEVICE) if isinstance(value, torch.Tensor) else value


def outputs(spec, sample) -> dict[str, torch.Tensor]:
    return {k: v.cpu() for k, v in spec.outputs(spec.fn(*sample.args, **sample.kwargs)).items()}


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_values_and_bits(spec):
    for dtype in (d for d in spec.dtypes if d in DTYPES):
        for sample in spec.sample_inputs(dtype, "cpu", 6):
            moved = sample.map(there)
            got, again = outputs(spec, moved), outputs(spec, moved)
            want = spec.reference64(*sample.args, **sample.kwargs)
            naive = spec.naive(*sample.args, **sample.kwargs) if spec.naive else {}
            assert got.keys() == want.keys()
            for name, value in got.items():
                where = f"{sample.name}: {name}"
                torch.testing.assert_close(value, again[name], rtol=0, atol=0, equal_nan=True, msg=where)
                if not value.dtype.is_floating_point:
                    assert torch.equal(value, want[name]), where
                    continue
                finite = want[name].double()[want[name].isfinite()].abs()
                scale = finite.max().item() if finite.numel() else 1.0
                limit = 2 * largest_error(naive[name], want[name]) if name in naive else 0.0
                # An order of sums of its own: twice the units that the CPU is given.
                floor = 2 * spec.ulps * torch.finfo(value.dtype).eps * scale
                assert largest_error(value, want[name]) <= limit + floor, where


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", [(2, 64, 24, 12), (3, 37, 7, 5), (1, 512, 24, 8)])
def test_gradients_of_attention(shape, channels_last):
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).relu().contiguous(memory_format=layout)
    spatial = torch.randn(shape[0], 1, *shape[2:], generator=torch.Generator().manual_seed(1))

    def step(device: str, dtype: torch.dtype) -> list[torch.Tensor]:
        leaves = [t.to(device, dtype).detach().requires_grad_() for t in (x, spatial)]
        gated = spatial_channel_attention(leaves[0], lambda s: Gate(channel=s.channel_avg - s.channel_max))
        result = attention_gate(gated, spatial=leaves[1], residual=leaves[0], relu=True)
        return [t.cpu().double() for t in (result, *torch.autograd.grad(result.square().sum(), leaves))]

    for got, want in zip(step(DEVICE, torch.float32), step("cpu", torch.float64), strict=True):
        assert largest_error(got, want) <= 1e-5 * want.abs().max().item()


def test_the_kernels_of_this_device_are_there():
    status = _library.status()
    assert status.cuda if DEVICE == "cuda" else status.native
