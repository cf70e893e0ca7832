# SPDX-License-Identifier: Apache-2.0
"""The report of a run: one HTML page that needs nothing else, made from the run folder without torch."""

from __future__ import annotations

import os
from pathlib import Path

from fastreid_ops._atomic import write_atomic


def write_report(run_folder: str | os.PathLike[str]) -> Path:
    """Write ``report.html`` into a run folder, replacing an earlier one as a whole; returns its path.

    The page holds styles, charts and pictures itself: no script, no request, can be sent as it is. Whatever the
    folder lacks (a run that was stopped, a picture that is gone, a damaged file) is said on the page.

    Raises:
        FileNotFoundError: no such folder. OSError: the folder cannot be written.
    """
    from fastreid_ops.report.page import render
    from fastreid_ops.report.read import read_run

    folder = Path(run_folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"write_report: run_folder: got {folder}, expected an existing folder")
    path = folder / "report.html"
    write_atomic(path, render(read_run(folder)).encode())
    return path


__all__ = ["write_report"]
