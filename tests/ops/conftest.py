# SPDX-License-Identifier: Apache-2.0
"""Prints at the end of a run how much of the contract was tried."""

from collections import Counter

import pytest
import torch

COUNTS = (
    "contract cells",
    "contract comparisons",
    "malformed inputs",
    "opcheck samples",
    "determinism comparisons",
)


@pytest.fixture
def count(record_property):
    """count("malformed inputs") adds one to that line of the summary (also from xdist's workers)."""
    return lambda what, n=1: record_property(f"contract:{what}", n)


@pytest.fixture
def restore_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def restore_isa():
    from fastreid_ops import _C

    active = _C.active_isa().name
    yield
    _C.set_isa(active)


@pytest.fixture
def in_plain_torch(monkeypatch):
    """in_plain_torch(function, ...): what an attention op in that call gives in plain torch."""
    from fastreid_ops.ops import attention

    def call(function, *args, **kwargs):
        with monkeypatch.context() as patch:
            patch.setattr(attention, "_STATUS", attention._STATUS._replace(native=False, cuda=False))
            return function(*args, **kwargs)

    return call


def pytest_terminal_summary(terminalreporter):
    totals = Counter()
    for report in terminalreporter.stats.get("passed", []):
        for name, value in getattr(report, "user_properties", []):
            if name.startswith("contract:") and report.when == "call":
                totals[name.removeprefix("contract:")] += value
    if totals:
        terminalreporter.section("op contract")
        for name in COUNTS:
            terminalreporter.line(f"{totals[name]:6d} {name}")
