# SPDX-License-Identifier: Apache-2.0
"""A manifest as large as a competition's, without its images."""

from __future__ import annotations

import tempfile
from pathlib import Path


def large_manifest(rows: int) -> Path:
    """A CSV of that many training images, nine of each identity, from six cameras."""
    file = Path(tempfile.mkdtemp(prefix="bench_manifest_")) / "large.csv"
    with file.open("w", encoding="utf-8") as out:
        out.write("path,pid,camid,split\n")
        out.writelines(f"train/{row:08d}.png,{row // 9},{row % 6},train\n" for row in range(rows))
    return file
