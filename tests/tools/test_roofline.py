# SPDX-License-Identifier: Apache-2.0
"""Bytes, operations and floors, against sums written out; the log of predictions shows what the script prints; the
ceilings are measured on any device."""

from __future__ import annotations

from pathlib import Path

import ceilings
import pytest
import roofline
import torch
from bandwidth import copy_bandwidth
from device_figures import Bench
from device_timing import in_graph, measure, peak_bytes
from torch.utils.flop_counter import FlopCounterMode

LOG = Path(__file__).resolve().parents[2] / "docs/decisions/0008-roofline-of-the-gpu-targets.md"


def test_the_log_shows_what_the_script_prints():
    text = LOG.read_text(encoding="utf-8")
    for table in (roofline.table(), roofline.predictions(), roofline.peaks()):
        assert table in text


@pytest.mark.parametrize(("queries", "gallery", "depth"), [(3, 5, 7), (40, 9, 16)])
def test_operations_of_a_product_are_those_that_torch_counts(queries, gallery, depth):
    with FlopCounterMode(display=False) as counter:
        product = torch.randn(queries, depth) @ torch.randn(depth, gallery)
    work = roofline.product(queries, gallery, depth, item=4, out=4, unit="fp32")
    assert work.operations == counter.get_total_flops()
    assert work.bytes == 4 * (queries * depth + gallery * depth) + product.nbytes
    assert roofline.ranking(queries, gallery, depth).operations == work.operations
    # Among all, a pair once: half of the whole product.
    assert 2 * roofline.nearest(gallery, depth, 1).operations == 2 * gallery * gallery * depth


def test_bytes_of_attention_are_those_of_the_tensors():
    x = torch.randn(2, 3, 4, 5, dtype=torch.bfloat16)
    above, result, gradient = (torch.empty_like(x) for _ in range(3))
    forward = x.nbytes + result.nbytes
    backward = x.nbytes + above.nbytes + gradient.nbytes
    ways = roofline.ATTENTION
    assert roofline.attention(x.shape, 2, *ways["gate, forward"]).bytes == forward
    assert roofline.attention(x.shape, 2, *ways["gate, forward and backward"]).bytes == forward + backward
    assert roofline.attention(x.shape, 2, *ways["pool, forward"]).bytes == x.nbytes


def test_the_larger_time_is_the_floor():
    ceiling = {"copy": 10.0, "bf16": 100.0}
    assert roofline.Work(50, 200).seconds(ceiling) == 5.0
    assert roofline.Work(50, 800).seconds(ceiling) == 8.0
    assert roofline.Work(50).facts() == {"bytes": 50}


def test_ceilings_of_this_processor():
    """The rate is that of the time which is given beside it, and a copy moves its bytes twice."""
    for unit in ceilings.units("cpu"):
        rate, timing = ceilings.product_rate(unit, "cpu", 64, rounds=3)
        assert rate == pytest.approx(2 * 64**3 / timing.seconds)
        assert 0 < timing.fastest <= timing.seconds <= timing.slowest
    assert 1e8 < copy_bandwidth("cpu", 2**22) < 1e13
    with ceilings.tf32(True):
        assert torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


def test_timing_takes_every_call_in_turn():
    calls = []
    several = [lambda: calls.append("a"), lambda: calls.append("b")]
    found = measure(several, "cpu", rounds=3, warm=1)
    assert calls == ["a", "b"] * 4
    assert (found.rounds, found.timer) == (3, "clock")
    assert in_graph(several, "cpu", rounds=2).rounds == 2
    assert peak_bytes(several[0], "cpu") is None
    assert calls[-1] == "a"


def test_a_figure_that_fails_is_written_and_the_next_follows(tmp_path):
    bench = Bench("cpu", tiny=True, file=tmp_path / "f")

    def bad(bench: Bench) -> None:
        raise AssertionError("not the same")

    bench.attempt("bad", bad)
    bench.attempt("good", lambda bench: bench.record("good", seconds=1.0, peak_bytes=None))
    assert (tmp_path / "f").read_text().splitlines() == [
        '{"name": "bad", "error": "AssertionError: not the same"}',
        '{"name": "good", "seconds": 1.0}',
    ]
    assert bench.failed
