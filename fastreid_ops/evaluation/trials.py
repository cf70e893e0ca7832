# SPDX-License-Identifier: Apache-2.0
"""Several results of one protocol, and their means."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastreid_ops._atomic import write_atomic
from fastreid_ops.evaluation.protocols import Protocol
from fastreid_ops.evaluation.result import Result


@dataclass(frozen=True)
class Trials:
    """The results of several trials under one protocol; every figure is the arithmetic mean over them.

    Raises:
        ValueError: no result, or results of different protocols.
    """

    results: tuple[Result, ...]

    def __post_init__(self) -> None:
        protocols = {result.protocol for result in self.results}
        if len(protocols) != 1:
            names = ", ".join(sorted(made.describe() for made in protocols)) or "no result"
            raise ValueError(f"Trials: results: got {names}, expected results of one protocol")

    @property
    def protocol(self) -> Protocol:
        return self.results[0].protocol

    @property
    def mAP(self) -> float:
        return _mean([result.mAP for result in self.results])

    @property
    def mINP(self) -> float:
        return _mean([result.mINP for result in self.results])

    @property
    def cmc(self) -> list[float]:
        return [_mean(list(values)) for values in zip(*(result.cmc for result in self.results), strict=True)]

    def rank(self, k: int) -> float:
        """Rank-k accuracy, the mean over the trials; k counts from 1 to the protocol's max_rank."""
        return _mean([result.rank(k) for result in self.results])

    def table(self, ranks: tuple[int, ...] = (1, 5, 10)) -> str:
        """Means and standard deviations over the trials in percent, and the protocol, as aligned text."""
        ranks = tuple(k for k in ranks if k <= self.protocol.max_rank)
        names = ["", "mAP", "mINP"] + [f"Rank-{k}" for k in ranks]
        columns = [[r.mAP for r in self.results], [r.mINP for r in self.results]]
        columns += [[r.rank(k) for r in self.results] for k in ranks]
        rows = [names]
        for label, figure in (("mean", _mean), ("deviation", _deviation)):
            rows.append([label] + [f"{100 * figure(values):.2f}" for values in columns])
        lines = ["  ".join(cell.rjust(9 if i == 0 else 7) for i, cell in enumerate(row)) for row in rows]
        valid = {result.counts["valid"] for result in self.results}
        queries = {result.counts["queries"] for result in self.results}
        sizes = {result.gallery for result in self.results}
        lines.append(
            f"{len(self.results)} trials; {_span(valid)} of {_span(queries)} queries with a match, "
            f"{_span(sizes)} gallery images"
        )
        return "\n".join([*lines, self.protocol.describe()])

    __str__ = table

    def to_dict(self) -> dict[str, Any]:
        """Every trial; the means come along for readers and are ignored by `from_dict`."""
        means = {"mAP": self.mAP, "mINP": self.mINP, "cmc": self.cmc}
        return {"means": means, "trials": [result.to_dict() for result in self.results]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Trials:
        """The inverse of `to_dict`, to the last bit.

        Raises:
            ValueError: not the trials of one protocol.
        """
        trials = values.get("trials")
        if not isinstance(trials, list) or not all(isinstance(trial, dict) for trial in trials):
            raise ValueError(f"Trials: trials: got {type(trials).__name__}, expected a list of results")
        return cls(tuple(Result.from_dict(trial) for trial in trials))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes JSON; after a crash there is the old file or the new one, never a part of one."""
        path = Path(path)
        write_atomic(path, (json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n").encode())
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Trials:
        """Reads what `save` wrote.

        Raises:
            ValueError: the file is not such a record; the message names it.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
            if not isinstance(values, dict):
                raise ValueError(f"Trials: file: got a JSON {type(values).__name__}, expected an object")
            return cls.from_dict(values)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def _deviation(values: list[float]) -> float:
    """Of the trials themselves, not an estimate for more of them."""
    mean = _mean(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))


def _span(values: set[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"
