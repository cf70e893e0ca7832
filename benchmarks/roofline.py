# SPDX-License-Identifier: Apache-2.0
"""The least that a computation has to do, and the time that follows: bytes that must be moved over the copy bandwidth,
operations that must be done over the rate of the unit that does them; the larger is the floor.

Every input is read once and every output written once; a multiplication and an addition are two operations. Run this
file for the table of docs/decisions/0008-roofline-of-the-gpu-targets.md, whose ceilings are assumed, not measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import NamedTuple


class Work(NamedTuple):
    """``operations`` on the unit ``unit``: bf16, fp16, tf32, fp32 or fp64."""

    bytes: int
    operations: int = 0
    unit: str = "bf16"

    def seconds(self, ceilings: Mapping[str, float]) -> float:
        return max(
            self.bytes / ceilings["copy"], self.operations / ceilings[self.unit] if self.operations else 0.0
        )

    def facts(self) -> dict[str, object]:
        """As the results file has them."""
        work: dict[str, object] = {"bytes": self.bytes}
        return work | ({"operations": self.operations, "unit": self.unit} if self.operations else {})


# Images of queries and gallery.
MARKET, MSMT17, NAIC = (3368, 19732), (11659, 82161), (3000, 880_000)
DEPTH = 2048
TOP = 200  # of a ranking that is handed in
MAPS = ((64, 256, 96, 32), (64, 2048, 24, 8), (128, 1024, 24, 8))  # larger than a GPU's cache


def nearest(points: int, depth: int, k: int, item: int = 4) -> Work:
    """All among all: each pair once, since d(i, j) = d(j, i); squared distances in float64 and int64 indices out."""
    return Work(points * depth * item + points * k * 16, points * points * depth)


def product(queries: int, gallery: int, depth: int, item: int = 2, out: int = 2, unit: str = "bf16") -> Work:
    """One matrix product of both sides, the matrix written."""
    read = (queries + gallery) * depth * item
    return Work(read + queries * gallery * out, 2 * queries * gallery * depth, unit)


def ranking(queries: int, gallery: int, depth: int, item: int = 4) -> Work:
    """Features in, ranks out: the products, and no matrix."""
    return Work((queries + gallery) * depth * item, 2 * queries * gallery * depth)


def rerank(queries: int, gallery: int, depth: int, top: int = TOP, item: int = 4) -> Work:
    """Features in, the first ``top`` of each query out: all pairs of all points once, which holds those of queries and
    gallery. The sparse part is left out: some 50 entries a row."""
    points = queries + gallery
    return Work(points * depth * item + queries * top * 12, points * points * depth)


def attention(shape: Sequence[int], item: int, reads: int, writes: int) -> Work:
    """A map read and written so many times; its rows and columns of statistics are small beside it."""
    return Work((reads + writes) * prod(shape) * item)


# What each part of the attention ops must read and write, in maps.
ATTENTION = {
    "pool, forward": (1, 0),
    "gate, forward": (1, 1),
    "pool, forward and backward": (1, 1),  # the gradient is made of the statistics' gradients
    "gate, forward and backward": (3, 2),  # map and gradient from above read, the map's gradient written
    "pool and gate, forward": (1, 1),
    "pool and gate, forward and backward": (3, 2),
}

# An H200's data sheet, less what such a ceiling is usually short of it: 90 % of 4.8 TB/s, 80 % of 989 TFLOP/s and of
# 67. Replaced by what a run measures.
ASSUMED = {"copy": 4.3e12, "bf16": 790e12, "fp32": 53e12}


# What the kernels as they are would reach of that. Guesses, to be found right or wrong: 16 x 16 x 16 fragments in
# shared memory get half of what warpgroup products get, differences 60 % of the fp32 issue rate.
FRAGMENTS, DIFFERENCES = 0.5, 0.6


class Row(NamedTuple):
    target: str
    work: Work
    aim: str


def rows() -> list[Row]:
    """The targets."""
    found = [
        Row(
            f"{name}, {'x'.join(map(str, MAPS[0]))}, float32",
            attention(MAPS[0], 4, *ATTENTION[name]),
            "85 % of copies",
        )
        for name in ("pool and gate, forward", "pool and gate, forward and backward")
    ]
    points = sum(MARKET)
    market, msmt17, naic = (f"{q:,} x {g:,}" for q, g in (MARKET, MSMT17, NAIC))
    return [
        *found,
        Row(
            f"nearest, {points:,} among themselves, k 21",
            nearest(points, DEPTH, 21),
            "a quarter of the rival",
        ),
        Row(
            f"fp32 product, {points:,} squared",
            product(points, points, DEPTH, 4, 4, "fp32"),
            "(the rival, less topk)",
        ),
        Row(f"features to CMC and mAP, {market}", ranking(*MARKET, DEPTH), "1.5 bf16 products"),
        Row(f"bf16 product, {market}", product(*MARKET, DEPTH), "(what 1.5 is of)"),
        Row(f"re-ranking, {market}", rerank(*MARKET, DEPTH), "9.4 ms"),
        Row(f"re-ranking, {msmt17}", rerank(*MSMT17, DEPTH), "500 ms, 8 GiB"),
        Row(f"re-ranking, {naic}", rerank(*NAIC, DEPTH), "to the end"),
    ]


def table(ceilings: Mapping[str, float] = ASSUMED) -> str:
    """Floors, in Markdown."""
    lines = ["| what | GB | 10^12 operations | unit | floor, ms | aim |", "|---|---:|---:|---|---:|---|"]
    for name, work, aim in rows():
        operations = f"{work.operations / 1e12:.4g}" if work.operations else "–"
        unit = work.unit if work.operations else "copies"
        floor = f"{work.seconds(ceilings) * 1e3:.4g}"
        lines.append(f"| {name} | {work.bytes / 1e9:.4g} | {operations} | {unit} | {floor} | {aim} |")
    return "\n".join(lines)


class Parts(NamedTuple):
    """Seconds of a search as it is written: all products, both triangles; the scores written and read again; the
    original distances by differences, where re-ranking blends them in."""

    products: float
    scores: float
    blend: float = 0.0

    @property
    def total(self) -> float:
        return sum(self)


def parts(
    queries: int, gallery: int, depth: int, *, among_all: bool, blend: bool, ceilings: Mapping[str, float]
) -> Parts:
    pairs = (queries + gallery) ** 2 if among_all else queries * gallery
    # A difference and a fused multiply-add for each element; the ceiling counts the latter as two operations.
    instructions = 2 * queries * gallery * depth if blend else 0
    return Parts(
        2 * pairs * depth / (FRAGMENTS * ceilings["bf16"]),
        8 * pairs / ceilings["copy"],
        instructions / (DIFFERENCES * ceilings["fp32"] / 2),
    )


def predictions(ceilings: Mapping[str, float] = ASSUMED) -> str:
    """What the searches are expected to take, in Markdown, milliseconds."""
    cases = (
        ("nearest, Market-1501", MARKET, True, False),
        ("features to CMC and mAP, Market-1501", MARKET, False, False),
        ("re-ranking, Market-1501", MARKET, True, True),
        ("re-ranking, MSMT17", MSMT17, True, True),
        ("re-ranking, NAIC", NAIC, True, True),
    )
    lines = ["| what | products | scores | blend | together, ms |", "|---|---:|---:|---:|---:|"]
    for name, sizes, among_all, blend in cases:
        found = parts(*sizes, DEPTH, among_all=among_all, blend=blend, ceilings=ceilings)
        numbers = [f"{1e3 * value:.3g}" if value else "–" for value in (*found, found.total)]
        lines.append(f"| {name} | {' | '.join(numbers)} |")
    return "\n".join(lines)


def rerank_peak(queries: int, gallery: int, depth: int, k1: int = 20, entries: int = 54) -> int:
    """Bytes beyond features and result that re-ranking says it takes on a device: one copy of the features, the packed
    ones, the lists, the sparse encoding twice, a block of distances."""
    row = 4 * depth + (2 * depth + 28) + (20 * (k1 + 1) + 8) + 2 * 8 * entries
    return (queries + gallery) * row + 320 * 2**20


def peaks() -> str:
    """Memory of the three re-rankings, in Markdown."""
    lines = ["| what | features, GiB | beyond them, GiB |", "|---|---:|---:|"]
    for name, (queries, gallery) in (("Market-1501", MARKET), ("MSMT17", MSMT17), ("NAIC", NAIC)):
        features = (queries + gallery) * DEPTH * 4 / 2**30
        lines.append(f"| {name} | {features:.3g} | {rerank_peak(queries, gallery, DEPTH) / 2**30:.3g} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(f"{table()}\n\n{predictions()}\n\n{peaks()}")
