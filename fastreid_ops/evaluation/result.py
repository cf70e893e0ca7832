# SPDX-License-Identifier: Apache-2.0
"""What an evaluation found, with the protocol it was found under."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from fastreid_ops._atomic import write_atomic
from fastreid_ops.evaluation.protocols import Protocol

# By RankMetrics.status.
_STATUS = ("valid", "absent_pid", "same_camera_only")
_PER_QUERY = ("ap", "inp", "first_rank", "num_relevant", "status", "cmc_rank")


@dataclass(frozen=True)
class Result:
    """Figures are fractions of 1, means over the valid queries (or all of them, if the protocol says so); lists
    have one entry for each query.

    Attributes:
        protocol: the rules they were found under.
        gallery: number of gallery images.
        mAP, mINP: mean average precision, mean inverse negative penalty.
        cmc: cmc[k - 1] is the fraction of valid queries with a match among the first k, or what else the
            protocol's ``cmc`` says.
        ap, inp: of each query; 0 for an invalid one.
        first_rank: 1-based rank of the first match; 0 for an invalid query.
        num_relevant: matches that the rules keep.
        status: 0 valid, 1 the pid is not in the gallery, 2 it is there but the rules drop every match (in most
            protocols: all are under the query's own camera).
        cmc_rank: the rank that the CMC counts: among distinct pids where the protocol says so, else first_rank.
    """

    protocol: Protocol
    gallery: int
    mAP: float
    mINP: float
    cmc: list[float]
    ap: list[float]
    inp: list[float]
    first_rank: list[int]
    num_relevant: list[int]
    status: list[int]
    cmc_rank: list[int]

    @property
    def counts(self) -> dict[str, int]:
        """Queries, gallery, and queries by status: valid, absent_pid, same_camera_only (or dropped by another
        rule of the protocol)."""
        by_status = {name: self.status.count(code) for code, name in enumerate(_STATUS)}
        return {"queries": len(self.status), "gallery": self.gallery, **by_status}

    def rank(self, k: int) -> float:
        """Rank-k accuracy: cmc[k - 1]; k counts from 1 to the protocol's max_rank."""
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= len(self.cmc):
            raise ValueError(
                f"Result.rank: k: got {k!r}, expected an int from 1 to {len(self.cmc)}, the protocol's max_rank"
            )
        return self.cmc[k - 1]

    def table(self, ranks: tuple[int, ...] = (1, 5, 10)) -> str:
        """The figures in percent, the queries left out and why, and the protocol, as aligned text. Ranks
        beyond max_rank are left out."""
        names = ["mAP", "mINP"] + [f"Rank-{k}" for k in ranks if k <= len(self.cmc)]
        values = [self.mAP, self.mINP] + [self.rank(k) for k in ranks if k <= len(self.cmc)]
        widths = [max(len(name), 6) for name in names]
        head = "  ".join(name.rjust(width) for name, width in zip(names, widths, strict=True))
        line = "  ".join(
            f"{100 * value:.2f}".rjust(width) for value, width in zip(values, widths, strict=True)
        )
        counts = self.counts
        words = {"absent_pid": "absent pid", "same_camera_only": "same camera only"}
        if self.protocol.needs_clothes or self.protocol.junk_pids or not self.protocol.needs_cameras:
            words["same_camera_only"] = "dropped by the rules"
        unmatched = [f"{counts[name]} {word}" for name, word in words.items() if counts[name]]
        zero = self.protocol.invalid == "zero"
        counted = counts["queries" if zero else "valid"]
        size = f"{counted} of {counts['queries']} queries counted, {self.gallery} gallery images"
        if unmatched:
            size += f"; {'as 0' if zero else 'left out'}: {', '.join(unmatched)}"
        return "\n".join((head, line, size, self.protocol.describe()))

    __str__ = table

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings; `counts` comes along for readers and is ignored by
        `from_dict`."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**values, "protocol": self.protocol.to_dict(), "counts": self.counts}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Result:
        """The inverse of `to_dict`, to the last bit.

        Raises:
            ValueError: missing or unknown fields, lists of different lengths, an unknown status.
        """
        names = [field.name for field in fields(cls)]
        given = {name: value for name, value in values.items() if name != "counts"}
        if "cmc_rank" not in given and "first_rank" in given:  # files older than the field knew no other
            given["cmc_rank"] = list(given["first_rank"])
        if set(given) != set(names):
            wrong = sorted(set(given) ^ set(names))
            raise ValueError(
                f"Result: fields: got a difference in {', '.join(wrong)}, expected {', '.join(names)}"
            )
        made = cls(**{**given, "protocol": Protocol.from_dict(given["protocol"])})
        lengths = {name: len(getattr(made, name)) for name in _PER_QUERY}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"Result: per-query lists: got lengths {lengths}, expected equal ones")
        if len(made.cmc) != made.protocol.max_rank:
            raise ValueError(
                f"Result: cmc: got {len(made.cmc)} entries, expected max_rank = {made.protocol.max_rank}"
            )
        if not set(made.status) <= set(range(len(_STATUS))):
            raise ValueError(
                f"Result: status: got {sorted(set(made.status))}, expected codes from 0 to {len(_STATUS) - 1}"
            )
        return made

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes JSON; after a crash there is the old file or the new one, never a part of one."""
        path = Path(path)
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"
        write_atomic(path, text.encode())
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Result:
        """Reads what `save` wrote.

        Raises:
            ValueError: the file is not such a result; the message names it.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
            if not isinstance(values, dict):
                raise ValueError(f"Result: file: got a JSON {type(values).__name__}, expected an object")
            return cls.from_dict(values)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
