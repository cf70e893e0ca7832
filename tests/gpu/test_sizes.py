# SPDX-License-Identifier: Apache-2.0
"""Sizes at which 32-bit arithmetic would end: 46,340 and 46,341 rows, whose squares lie on both sides of 2^31, and
tensors of more than 2^31 elements. Where there is no GPU the same runs at small sizes."""

from __future__ import annotations

import pytest
import torch

from fastreid_ops import (
    gnn_rerank,
    jaccard,
    k_reciprocal,
    nearest,
    pairwise_distance,
    rank_features,
    rank_metrics,
)
from fastreid_ops.ops.attention import attention_gate, attention_pool
from fastreid_ops.ops.nearest import neighbours, squared_rows

by_rows = pytest.mark.parametrize("full", [46_340, 46_341])


def rows_of(count: int, depth: int, device: str) -> torch.Tensor:
    return torch.randn(count, depth, generator=torch.Generator().manual_seed(count)).to(device)


def some(count: int, device: str) -> torch.Tensor:
    """The first, the last and the one in the middle."""
    return torch.tensor([0, 1, count // 2, count - 2, count - 1], device=device)


@by_rows
def test_nearest(device, pick, room, full):
    room(4)
    count = pick(full, full // 100)
    x = rows_of(count, 5, device)
    found = neighbours(x, x, 9, farthest=True)
    chosen = some(count, device)
    exact = torch.sort(squared_rows(x[chosen], x, "sqeuclidean"), dim=1, stable=True)
    assert torch.equal(found.indices[chosen], exact.indices[:, :9])
    torch.testing.assert_close(found.squared[chosen], exact.values[:, :9], rtol=1e-13, atol=0)
    torch.testing.assert_close(found.farthest[chosen], exact.values[:, -1], rtol=1e-13, atol=0)


@by_rows
def test_matrix(device, pick, room, full):
    """pairwise_distance and rank_metrics of one matrix of as many rows as columns, 8.6 GB of it."""
    room(22)
    count = pick(full, full // 100)
    x = torch.arange(count, dtype=torch.float32, device=device).remainder(64).unsqueeze(1)
    matrix = pairwise_distance(x, x, metric="sqeuclidean", check_finite=False)
    for row in some(count, device).tolist():
        assert torch.equal(matrix[row], (x[:, 0] - x[row, 0]).square())
    # Every image is its own person: its rank follows from how many are as near and come before.
    pids = torch.arange(count, device=device)
    found = rank_metrics(matrix, pids, pids, camera_rule="none", check_finite=False)
    assert torch.equal(found.first_rank, pids // 64 + 1)


@by_rows
def test_rank_features(device, pick, room, full):
    room(4)
    count = pick(full, full // 100)
    x = rows_of(count, 6, device)
    pids = torch.arange(count, device=device)
    found = rank_features(x, x, pids, pids, camera_rule="none")
    assert (found.first_rank == 1).all()
    assert found.mAP.item() == 1
    shifted = rank_features(x[:7], x, pids[:7] + count - 7, pids, camera_rule="none")
    squared = squared_rows(x[:7], x, "sqeuclidean")
    own = squared[torch.arange(7, device=device), count - 7 + torch.arange(7, device=device)]
    assert torch.equal(shifted.first_rank, (squared < own[:, None]).sum(1) + 1)


@by_rows
def test_rerank(device, pick, room, full):
    """Pairs of copies, far from all others: each is first for the other, after re-ranking too."""
    room(12)
    count = pick(full, full // 100) // 2
    x = 50 * rows_of(count, 8, device)
    query, gallery = x, x + 1e-3 * rows_of(count + pick(full, full // 100) % 2, 8, device)[:count]
    for found in (k_reciprocal(query, gallery, top=3), gnn_rerank(query, gallery, top=3)):
        assert found.indices.shape == (count, 3)
        assert (found.indices[:, 0] == torch.arange(count, device=device)).double().mean() > 0.99
    both = torch.cat([query, gallery, gallery[: pick(full, full // 100) - 2 * count]])
    entries = jaccard(both, k1=6, k2=2)
    assert entries.indptr.shape == (len(both) + 1,)
    assert entries.indices.max().item() == len(both) - 1
    assert ((entries.values >= 0) & (entries.values <= 1)).all()


@pytest.mark.parametrize("channels_last", [False, True])
def test_maps_of_more_than_2_to_the_31_elements(device, pick, room, channels_last):
    room(22)
    shape = pick((3, 1024, 840, 835), (3, 16, 9, 7))
    assert device == "cpu" or torch.Size(shape).numel() > 2**31
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.empty(shape, dtype=torch.float16, device=device).contiguous(memory_format=layout).normal_()
    logits = torch.randn(shape[:2], device=device)
    found = attention_pool(x, channel=("avg", "max"), spatial=("avg", "max"))
    gated = attention_gate(x, channel=logits)
    for sample in (0, shape[0] - 1):
        for channel in (0, shape[1] - 1):
            plane = x[sample, channel].double()
            assert found.channel_max[sample, channel].item() == plane.max().item()
            assert abs(found.channel_avg[sample, channel].item() - plane.mean().item()) < 1e-3
            want = plane * logits[sample, channel].double().sigmoid()
            torch.testing.assert_close(gated[sample, channel].double(), want, rtol=2e-3, atol=1e-4)
        for place in ((0, 0), (shape[2] - 1, shape[3] - 1)):
            column = x[(sample, slice(None), *place)].double()
            assert found.spatial_max[(sample, 0, *place)].item() == column.max().item()
            assert abs(found.spatial_avg[(sample, 0, *place)].item() - column.mean().item()) < 1e-3


def test_features_of_more_than_2_to_the_31_elements(device, pick, room):
    """The nearest of the last row is the last row, whichever way the search goes: 5 queries are compared exactly, 200
    by products."""
    room(16)
    count, depth = pick((1_050_000, 2_048), (2_100, 32))
    assert device == "cpu" or count * depth > 2**31
    generator = torch.Generator(device).manual_seed(0)
    y = torch.empty(count, depth, dtype=torch.bfloat16, device=device).normal_(generator=generator)
    for queries in (5, 200):
        rows = torch.linspace(0, count - 1, queries, device=device).long()
        found = nearest(y[rows], y, 2, check_finite=False)
        assert torch.equal(found.indices[:, 0], rows)
        assert (found.distances[:, 0] == 0).all()
