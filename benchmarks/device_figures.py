# SPDX-License-Identifier: Apache-2.0
"""Measures one group of figures on a device and writes each, as soon as it is there, as a line of JSON to the file that
FASTREID_FIGURES names (to standard output where it names none):

    python benchmarks/device_figures.py rerank --device cuda

What is timed was compared with something independent before. ``--tiny`` is for trying this very way on a CPU. A figure
that fails is written with its error, and the others follow.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from device_timing import Call, Timing, peak_bytes
from roofline import Work

T = TypeVar("T")
# part -> (module, its functions); each takes a Bench.
PARTS = {
    "ceilings": ("ceilings", ("report",)),
    "ranking": ("device_scenarios", ("ranking",)),
    "rerank": ("device_scenarios", ("market_rerank", "msmt17_rerank")),
    "naic": ("device_scenarios", ("naic_rerank",)),
    "training": ("device_training", ("resnet50", "mdinet", "osnet")),
    "attention": ("device_attention", ("kernels", "layers")),
    "compiled": ("device_attention", ("compiled",)),
    "ops": ("device_ops", ("nearest", "distance", "distance_step", "rank", "matrices", "clusters", "graph")),
}
# What a measurement may end with; out of memory is a RuntimeError.
FAILURES = (RuntimeError, ValueError, TypeError, AssertionError, ImportError, AttributeError)


class Bench:
    """What every part is given: the device, the sizes to take, and where figures go."""

    def __init__(self, device: str, *, tiny: bool, file: Path | None) -> None:
        self.device, self.tiny, self.file = device, tiny, file
        self.failed = False

    def pick(self, full: T, tiny: T) -> T:
        return tiny if self.tiny else full

    @property
    def rounds(self) -> int:
        return self.pick(10, 2)

    def record(self, name: str, **facts: Any) -> None:
        """One figure. ``seconds``, ``rival_seconds``, ``bytes``, ``operations`` and ``unit`` are what the results
        file's floors and ratios are made of."""
        line = json.dumps({"name": name, **{key: value for key, value in facts.items() if value is not None}})
        if self.file is None:
            print(line, flush=True)
            return
        with self.file.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def compare(
        self,
        name: str,
        timing: Timing,
        *,
        work: Work | None = None,
        rival: str | None = None,
        rival_timing: Timing | None = None,
        target: str | None = None,
        met: bool | None = None,
        **facts: Any,
    ) -> None:
        """A timed figure. Whether a target is met is said of full sizes alone."""
        self.record(
            name,
            **timing.facts(),
            **(work.facts() if work else {}),
            rival=rival,
            rival_seconds=rival_timing.seconds if rival_timing else None,
            rival_fastest=rival_timing.fastest if rival_timing else None,
            target=target,
            met=None if self.tiny else met,
            **facts,
        )

    def peak(self, call: Call) -> int | None:
        return peak_bytes(call, self.device)

    def attempt(self, name: str, part: Callable[[Bench], None]) -> None:
        try:
            part(self)
        except FAILURES as error:
            self.failed = True
            self.record(name, error=f"{type(error).__name__}: {error}"[:500])


def main(given: list[str] | None = None) -> int:
    """0 where every figure was measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args(given)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("device: got cuda, expected a machine that has it")
    file = os.environ.get("FASTREID_FIGURES")
    bench = Bench(options.device, tiny=options.tiny, file=Path(file) if file else None)
    # float32 means float32, for both sides; ceilings.py says where it does not.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    module, functions = PARTS[options.part]
    for function in functions:
        bench.attempt(function, getattr(importlib.import_module(module), function))
    return 1 if bench.failed else 0


if __name__ == "__main__":
    sys.exit(main())
