# SPDX-License-Identifier: Apache-2.0
"""Prints at the end of a run how much of the operators' contract was tried: here and not beside their tests, since of
several test processes the one that prints reads no other conftest.

Set before torch is imported: its threads sleep while they wait for each other instead of spinning. Where two
processes with torch share few cores, spinning makes small operators up to a hundred times slower.
"""

import os
from collections import Counter

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

COUNTS = (
    "contract cells",
    "contract comparisons",
    "malformed inputs",
    "opcheck samples",
    "determinism comparisons",
)


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
