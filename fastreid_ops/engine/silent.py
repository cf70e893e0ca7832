# SPDX-License-Identifier: Apache-2.0
"""The run folder, log and metrics of ranks that do not write: same calls, nothing on disk."""

import sys
from pathlib import Path
from typing import Any

from fastreid_ops.engine.log import Log, Metrics
from fastreid_ops.engine.run_folder import RunFolder


class SilentFolder(RunFolder):
    """The folder that another rank holds: it may be read from, writes are left out."""

    writes = False

    def write_text(self, name: str, text: str) -> Path:
        return self.path / name

    def lock(self) -> str | None:
        return None

    def release(self) -> None:
        pass


class SilentLog(Log):
    """Says warnings only, with the number of the rank."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self._rank = rank

    def say(self, text: str = "") -> None:
        pass

    def warn(self, text: str) -> None:
        print(f"rank {self._rank}: warning: {text}", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        print(f"rank {self._rank}: {text}", file=sys.stderr, flush=True)


class SilentMetrics(Metrics):
    """Takes records and forgets them."""

    def __init__(self) -> None:
        pass

    def append(self, record: dict[str, Any]) -> None:
        pass

    def position(self) -> int:
        return 0

    def truncate(self, position: int) -> int:
        return 0

    def close(self) -> None:
        pass
