# SPDX-License-Identifier: Apache-2.0
"""What the tests of operators share."""

import pytest
import torch


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
