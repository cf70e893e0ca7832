# SPDX-License-Identifier: Apache-2.0
"""The contract, over every OpSpec: accuracy in every dtype and layout, refusals, equal bits, torch's
opcheck."""

import pytest
import torch
from opspec import ISAS, LAYOUTS, Sample, relayout
from specs import SPECS

from fastreid_ops import _C

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
by_name = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)


def largest_error(value, reference):
    """Largest absolute difference; equal infinities differ by nothing, NaN must meet NaN."""
    value, reference = value.double(), reference.double()
    assert value.shape == reference.shape
    assert torch.equal(value.isnan(), reference.isnan())
    difference = torch.where((value == reference) | value.isnan(), 0.0, value - reference)
    return difference.abs().max().item() if difference.numel() else 0.0


def check_outputs(spec, sample, dtype):
    got = spec.outputs(spec.fn(*sample.args, **sample.kwargs))
    reference = spec.reference64(*sample.args, **sample.kwargs)
    naive = spec.naive(*sample.args, **sample.kwargs) if spec.naive else {}
    assert got.keys() == reference.keys()
    for name, value in got.items():
        want, where = reference[name], f"{sample.name}: {name}"
        if not value.dtype.is_floating_point:
            assert torch.equal(value, want), where
            continue
        finite = want.double()[want.isfinite()].abs()
        scale = finite.max().item() if finite.numel() else 1.0
        floor = spec.ulps * torch.finfo(value.dtype).eps * scale
        limit = 2 * largest_error(naive[name], want) if name in naive else 0.0
        error = largest_error(value, want)
        assert error <= limit + floor, f"{where}: error {error:.3g}, allowed {limit:.3g} + {floor:.3g}"


@by_name
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: str(d).removeprefix("torch."))
def test_accuracy(spec, dtype, layout, count):
    if dtype not in spec.dtypes or layout not in spec.layouts:
        return
    cells = set()
    for sample in spec.sample_inputs(dtype, "cpu", 0):
        laid_out = sample.map(lambda value: relayout(value, layout))
        changed = [a.stride() != b.stride() or a.storage_offset() != b.storage_offset()
                   for a, b in zip(sample.tensors(), laid_out.tensors(), strict=True)]  # fmt: skip
        if layout != "contiguous" and not any(changed):
            continue
        check_outputs(spec, laid_out, dtype)
        cells.add(sample.name.split("/")[0])
        count("contract comparisons")
    assert cells, "no sample has this layout"
    count("contract cells", len(cells))


ERRORS = [(spec, sample) for spec in SPECS for sample in spec.error_samples()]


@pytest.mark.parametrize(("spec", "sample"), ERRORS, ids=[f"{s.name}-{e.name}" for s, e in ERRORS])
def test_refusal(spec, sample, count):
    with pytest.raises((ValueError, TypeError), match=sample.pattern or None) as caught:
        sample.call()
    text = str(caught.value)
    assert type(caught.value) is sample.error, text
    assert text.startswith(f"{spec.name}: {sample.argument}: got "), text
    assert ", expected " in text, text
    count("malformed inputs")


def bits(spec, sample: Sample):
    def raw(value):
        return value.contiguous().view(torch.uint8) if value.dim() else value.reshape(1).view(torch.uint8)

    return {k: raw(v) for k, v in spec.outputs(spec.fn(*sample.args, **sample.kwargs)).items()}


def assert_same_bits(spec, sample, expected, setting):
    got = bits(spec, sample)
    assert all(torch.equal(got[name], expected[name]) for name in expected), f"{sample.name} with {setting}"


@by_name
def test_same_bits_for_any_thread_count(spec, count, restore_threads):
    for dtype in spec.dtypes:
        for sample in spec.sample_inputs(dtype, "cpu", 1):
            torch.set_num_threads(1)
            expected = bits(spec, sample)
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                assert_same_bits(spec, sample, expected, f"{threads} threads")
                count("determinism comparisons")


@by_name
def test_same_bits_for_instruction_sets(spec, count, restore_isa):
    best = ISAS.index(_C.best_isa().name)
    for group in spec.same_bits:
        here = [isa for isa in group if ISAS.index(isa) <= best]
        for dtype in spec.dtypes:
            for sample in spec.sample_inputs(dtype, "cpu", 2):
                for isa in here:
                    _C.set_isa(isa)
                    if isa == here[0]:
                        expected = bits(spec, sample)
                    assert_same_bits(spec, sample, expected, isa)
                    count("determinism comparisons")


@by_name
@pytest.mark.parametrize("isa", ISAS)
def test_accuracy_of_every_instruction_set(spec, isa, restore_isa):
    if ISAS.index(isa) > ISAS.index(_C.best_isa().name):
        return
    _C.set_isa(isa)
    for dtype in spec.dtypes:
        for sample in spec.sample_inputs(dtype, "cpu", 3):
            check_outputs(spec, sample, dtype)


@by_name
def test_samples_are_left_alone(spec):
    for dtype in spec.dtypes:
        for sample in spec.sample_inputs(dtype, "cpu", 4):
            before = [value.clone() for value in sample.tensors()]
            spec.fn(*sample.args, **sample.kwargs)
            for value, copy in zip(sample.tensors(), before, strict=True):
                torch.testing.assert_close(value, copy, rtol=0, atol=0, equal_nan=True)


@by_name
def test_opcheck(spec, count):
    for op, args in spec.opcheck_calls():
        assert set(torch.library.opcheck(op, args).values()) == {"SUCCESS"}
        count("opcheck samples")
