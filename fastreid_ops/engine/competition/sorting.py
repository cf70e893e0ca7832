# SPDX-License-Identifier: Apache-2.0
"""NAIC's test pictures sorted into their two halves, where nobody has done it: the first step of its own script."""

import os
from collections.abc import Callable
from pathlib import Path

from fastreid_ops._atomic import write_atomic
from fastreid_ops.config import ConfigError
from fastreid_ops.config.plan import PlanData
from fastreid_ops.data.datasets import naic

_OPTIONS = ("sources", "test", "half", "lists")


def write_missing_lists(data: PlanData, say: Callable[[str], None]) -> list[Path]:
    """Write the lists that reading NAIC asks for and does not find, and no other; returns them. Every picture of a
    folder that has to be sorted is decoded once.

    Errors: ConfigError where they cannot be written; those of `naic.missing_lists` and `naic.halves`.
    """
    if data.dataset != "naic" or data.root is None:
        return []
    asked = {name: data.options[name] for name in _OPTIONS if name in data.options}
    missing = naic.missing_lists(data.root, **asked)
    for folder in dict.fromkeys(pictures for pictures, _ in missing.values()):
        say(f"sorting {folder} into halves")
        sorted_out = naic.halves(folder)
        for file, (pictures, half) in missing.items():
            if pictures == folder:
                say(f"  {file}: {len(sorted_out[half])} pictures")
                _write(file, "".join(f"{name}\n" for name in sorted_out[half]))
    return list(missing)


def _write(file: Path, text: str) -> None:
    own = file.with_name(f"{file.name}.{os.getpid()}")  # two entries may sort the same pictures at once
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(own, text.encode())
        own.replace(file)
    except OSError as error:
        raise ConfigError(
            f"data: {file}: got {error.strerror}, expected a place for the lists of the halves; name another with "
            "data.options.lists"
        ) from error
