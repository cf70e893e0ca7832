# SPDX-License-Identifier: Apache-2.0
"""Progress bars for long work. tqdm starts a thread with its first bar, shown or not, so it is only asked for bars that
are shown."""

from __future__ import annotations

from typing import Any


class _Silent:
    def __enter__(self) -> _Silent:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def update(self, n: int = 1) -> None:
        return None


def bar(show: bool, total: int, op: str, unit: str = "part") -> Any:
    """A context manager with ``update(n)``."""
    if not show:
        return _Silent()
    from tqdm import tqdm

    return tqdm(total=total, desc=op, unit=unit)
