# SPDX-License-Identifier: Apache-2.0
"""One rank of test_sharded: python sharded.py RANK RANKS RENDEZVOUS RESULT. Writes what this
rank got, by the number of ranks."""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
from shard_cases import everything

from fastreid_ops import k_reciprocal, nearest, rank_features
from fastreid_ops.evaluation import Labels, evaluate_features


def data() -> tuple[torch.Tensor, ...]:
    """Sides that no number of ranks divides; some rows twice, so that order falls to the index."""
    generator = torch.Generator().manual_seed(3)
    people = torch.randn(9, 24, generator=generator)
    who = torch.randint(9, (31,), generator=generator), torch.randint(9, (101,), generator=generator)
    query, gallery = (people[w] + 0.8 * torch.randn(len(w), 24, generator=generator) for w in who)
    gallery[50:60] = gallery[:10]
    cameras = (torch.randint(3, (len(w),), generator=generator) for w in who)
    return query, gallery, *who, *cameras


def results(group: dist.ProcessGroup | None) -> dict[str, torch.Tensor]:
    """Everything that can be shared among ranks, by name."""
    query, gallery, query_pids, gallery_pids, query_camids, gallery_camids = data()
    found: dict[str, torch.Tensor] = {}

    def keep(name: str, parts: tuple[torch.Tensor, ...] | torch.Tensor) -> None:
        for i, part in enumerate([parts] if isinstance(parts, torch.Tensor) else parts):
            found[f"{name}[{i}]"] = part

    keep("nearest", nearest(query, gallery, 7, group=group))
    keep("nearest of itself", nearest(gallery, gallery, 7, exclude_self=True, metric="cosine", group=group))
    keep("two queries", nearest(query[:2], gallery, 5, group=group))  # fewer than ranks
    labels = query_pids, gallery_pids, query_camids, gallery_camids
    for cmc in ("first_hit", "unique_pid", "all_hits", "single_gallery_shot"):
        keep(cmc, rank_features(query, gallery, *labels, cmc=cmc, group=group))
    repeats = {"cmc": "single_gallery_shot", "repeats": 5, "seed": 7}
    keep("random galleries", rank_features(query, gallery, *labels, **repeats, group=group))
    keep("k_reciprocal", k_reciprocal(query, gallery, k1=8, k2=3, group=group))
    keep("k_reciprocal top", k_reciprocal(query, gallery, k1=8, k2=3, top=9, group=group))
    keep("k_reciprocal of two", k_reciprocal(query[:2], gallery, k1=8, k2=3, top=9, group=group))
    sides = Labels(query_pids, query_camids), Labels(gallery_pids, gallery_camids)
    result = evaluate_features(query, gallery, *sides, group=group)
    keep(
        "evaluate_features",
        torch.tensor([result.mAP, result.mINP, *result.cmc, *result.ap], dtype=torch.float64),
    )
    return found


if __name__ == "__main__":
    rank, ranks, rendezvous, target = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=ranks)
    found = {}
    for size in range(1, ranks + 1):  # the first one alone, the first two, all
        group = dist.new_group(list(range(size)))
        if rank < size:
            found[size] = results(group), everything(group)
    torch.save(found, target)
    dist.destroy_process_group()
