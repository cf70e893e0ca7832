# SPDX-License-Identifier: Apache-2.0
"""OpSpec: what one op promises, as data. ``specs.py`` lists one per op, ``test_contract.py`` runs over the
list.

The idea (samples, error samples and layouts next to the op, generic suites over all ops) is PyTorch's
OpInfo.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Outputs = dict[str, Tensor]
LAYOUTS = ("contiguous", "transposed", "sliced", "expanded", "offset", "channels_last")
ISAS = ("baseline", "avx2", "avx512", "avx512_bf16")


@dataclass(frozen=True)
class Sample:
    """One valid call: ``fn(*args, **kwargs)``. ``name`` is "variant/case"; a variant x dtype x layout is
    one cell."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)

    def map(self, change: Callable[[Tensor], Tensor]) -> Sample:
        """The same call with every tensor argument changed, those in lists too."""

        def one(value: Any) -> Any:
            if isinstance(value, list):
                return [one(entry) for entry in value]
            return change(value) if isinstance(value, Tensor) else value

        return Sample(self.name, tuple(map(one, self.args)), {k: one(v) for k, v in self.kwargs.items()})

    def tensors(self) -> list[Tensor]:
        found: list[Tensor] = []
        self.map(lambda value: found.append(value) or value)
        return found


@dataclass(frozen=True)
class ErrorSample:
    """A malformed call: ``call()`` must raise ``error``, the message naming ``argument``, what came and
    what was expected.
    ``pattern`` (a regular expression) must match too."""

    name: str
    call: Callable[[], object]
    error: type[Exception]
    argument: str
    pattern: str = ""


@dataclass(frozen=True)
class OpSpec:
    """``outputs`` turns the op's result into named tensors. Integer outputs must equal the oracle's,
    floating ones be within twice the naive implementation's largest error (in the same dtype) plus ``ulps``
    units in the last place of the largest value; without ``naive`` only the floor counts."""

    name: str
    fn: Callable[..., Any]
    dtypes: tuple[torch.dtype, ...]
    sample_inputs: Callable[[torch.dtype, str, int], list[Sample]]  # (dtype, device, seed)
    error_samples: Callable[[], list[ErrorSample]]
    reference64: Callable[
        ..., Outputs
    ]  # the oracle, called like fn: float64 (or better) arithmetic, independent of fn
    naive: Callable[..., Outputs] | None = (
        None  # called like fn: what people write, in the dtype of its inputs
    )
    outputs: Callable[[Any], Outputs] = lambda result: {"result": result}
    layouts: tuple[str, ...] = LAYOUTS
    ulps: float = 1.0
    same_bits: tuple[tuple[str, ...], ...] = (ISAS,)  # groups of instruction sets that give equal bits
    opcheck_calls: Callable[[], list[tuple[Any, tuple[Any, ...]]]] = list  # (torch.ops overload, args)


def relayout(value: Tensor, layout: str) -> Tensor:
    """The same values behind other strides. ``expanded`` changes the values (it repeats the first row); a
    tensor that cannot have the layout (too few dimensions) comes back as it is."""
    if layout == "transposed" and value.dim() >= 2:
        return value.mT.contiguous().mT
    if layout == "sliced" and value.dim() >= 1:
        wide = value.new_zeros(*value.shape[:-1], 2 * value.shape[-1] + 3)
        view = wide[..., 1 : 2 * value.shape[-1] + 1 : 2]
        return view.copy_(value)
    if layout == "expanded" and value.dim() >= 2:
        return value[..., :1, :].contiguous().expand(value.shape)
    if layout == "offset":
        flat = value.new_zeros(value.numel() + 3)
        return flat[3:].copy_(value.reshape(-1)).view(value.shape)
    if layout == "channels_last" and value.dim() == 4:
        return value.contiguous(memory_format=torch.channels_last)
    return value
