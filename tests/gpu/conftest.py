# SPDX-License-Identifier: Apache-2.0
"""What the tests on a device share. Those that can run on a CPU do so at small sizes, so that the tests themselves are
tested; the others say what they need."""

from __future__ import annotations

import pytest
import torch

CUDA = torch.cuda.is_available()


@pytest.fixture(scope="session")
def device() -> str:
    return "cuda" if CUDA else "cpu"


@pytest.fixture(scope="session")
def pick():
    """pick(full, small): the size for this device."""
    return lambda full, small: full if CUDA else small


@pytest.fixture
def gpu() -> str:
    """For what a CPU has no counterpart of."""
    if not CUDA:
        pytest.skip("needs a CUDA device, and there is none")
    return "cuda"


@pytest.fixture
def room():
    """room(gib): skips where so much memory is not free on the device. Memory that the test before it held is handed
    back first."""

    def check(gib: float) -> None:
        if CUDA:
            torch.cuda.empty_cache()
            free = torch.cuda.mem_get_info()[0] / 2**30
            if free < gib:
                pytest.skip(f"needs {gib:.0f} GiB on the device, {free:.0f} are free")

    return check


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """After an illegal access nothing works in this process any more: the rest would fail for a reason of its own."""
    report = yield
    if CUDA and report.failed:
        try:
            torch.cuda.synchronize()
        except RuntimeError as error:
            pytest.exit(f"the device is lost after {item.nodeid}: {error}", returncode=3)
    return report
