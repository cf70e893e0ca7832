# SPDX-License-Identifier: Apache-2.0
"""How good rankings are, where it is known who the test people are: procedural people, or rows kept back from
training. Nobody is told apart by cameras: no gallery picture is left out (protocol no_camera).
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from fastreid_ops.data.datasets.naic import UNKNOWN
from fastreid_ops.engine.assess import table_row
from fastreid_ops.engine.competition.features import TestPictures
from fastreid_ops.evaluation import Labels, evaluate

PROTOCOL = "no_camera"
RANKS = (1, 5, 10)


def are_known(pictures: TestPictures) -> bool:
    """Whether each half has a query whose person stands in its gallery, and no query of nobody knows whom."""
    pids = pictures.files.pid
    for query, gallery in pictures.halves.values():
        people = {pids[row] for row in gallery}
        if any(pids[row] == UNKNOWN for row in query) or not any(pids[row] in people for row in query):
            return False
    return True


def score(system: str, pictures: TestPictures, half: str, blocks: Iterable[Tensor]) -> dict[str, Any]:
    """A row of a table: mAP, mINP, Rank-1, -5 and -10 of one half, means over the queries whose person stands in the
    gallery. `blocks` (q, G) floating are the distances, from the first query on; none is kept.
    """
    numbers = {pid: number for number, pid in enumerate(dict.fromkeys(pictures.files.pid))}
    query, gallery = (
        torch.tensor([numbers[pictures.files.pid[row]] for row in side]) for side in pictures.halves[half]
    )
    there = torch.isin(query, gallery)
    found: dict[str, list[Any]] = {"ap": [], "inp": [], "first_rank": []}
    first = 0
    for block in blocks:
        mine = slice(first, first + len(block))
        first += len(block)
        if there[mine].any():
            kept = block.cpu()[there[mine]]
            result = evaluate(kept, Labels(query[mine][there[mine]]), Labels(gallery), PROTOCOL)
            for name, values in found.items():
                values += getattr(result, name)
    ranks = torch.tensor(found["first_rank"])
    figures = {
        "mAP": torch.tensor(found["ap"], dtype=torch.float64).mean().item(),
        "mINP": torch.tensor(found["inp"], dtype=torch.float64).mean().item(),
        **{f"rank{k}": (ranks <= k).double().mean().item() for k in RANKS},
    }
    return table_row(system, half, "", figures)
