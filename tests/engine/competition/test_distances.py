# SPDX-License-Identifier: Apache-2.0
"""Re-ranked distances of a model beside the definition, spelt out in float64 with N x N matrices."""

import numpy as np
import pytest
import torch

from fastreid_ops.config.plan import RerankEntry
from fastreid_ops.engine.competition.arrays import ArrayRows
from fastreid_ops.engine.competition.distances import write_distances


def by_definition(query, gallery, k1, k2, lambda_value):
    """NAIC_ReID's form: 2 - 2 cos divided by the largest of its row, k1 + 1 neighbours, sets grown by neighbours'
    sets of half the size, the mean of k2 encodings kept in float16.
    """
    rows = np.concatenate([query, gallery]).astype(np.float64)
    rows /= np.sqrt((rows**2).sum(1, keepdims=True))
    count = len(rows)
    d = np.maximum(2 - 2 * rows @ rows.T, 0)
    np.fill_diagonal(d, 0)
    d /= d.max(1, keepdims=True)
    order = [sorted(range(count), key=lambda j, i=i: (d[i, j], j)) for i in range(count)]

    def mutual(i, k):
        return {j for j in order[i][: k + 1] if i in order[j][: k + 1]}

    v = np.zeros((count, count))
    for i in range(count):
        core = mutual(i, k1)
        grown = set(core)
        for j in core:
            theirs = mutual(j, round(k1 / 2))
            if 3 * len(theirs & core) > 2 * len(theirs):
                grown |= theirs
        for j in grown:
            v[i, j] = np.exp(-d[i, j])
        v[i] /= v[i].sum()
    if k2 != 1:
        v = np.stack([v[order[i][:k2]].mean(0) for i in range(count)]).astype(np.float16).astype(np.float64)
    found = np.empty((len(query), len(gallery)))
    for i in range(len(query)):
        for j in range(len(gallery)):
            common = np.minimum(v[i], v[len(query) + j]).sum()
            own = (1 - lambda_value) * (1 - common / (2 - common))
            found[i, j] = own + lambda_value * d[i, len(query) + j]
    return found


def people(queries, gallery, depth, seed):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(9, depth, generator=generator)
    return tuple(
        centres[torch.arange(count) % 9] + 0.7 * torch.randn(count, depth, generator=generator)
        for count in (queries, gallery)
    )


@pytest.fixture(scope="module")
def pairs():
    """Two pieces of 17 queries and 75 gallery pictures."""
    return [people(17, 75, 12, 0), people(17, 75, 20, 1)]


@pytest.mark.parametrize(("k1", "k2", "lambda_value"), [(30, 2, 0.8), (7, 1, 0.3)])
def test_exact(pairs, tmp_path, k1, k2, lambda_value):
    rerank = RerankEntry(k1=k1, k2=k2, lambda_value=lambda_value)
    write_distances(pairs, rerank, 6, tmp_path / "d.npy", lambda: None)
    want = sum(by_definition(*(side.numpy() for side in pair), k1, k2, lambda_value) for pair in pairs)
    got = ArrayRows(tmp_path / "d.npy")[:].double().numpy()
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-4)
    # As good as one order: the first ten of each query, where the definition tells them apart.
    for row, mine in zip(want, got, strict=True):
        first = np.argsort(row, kind="stable")[:10]
        assert np.all(np.diff(mine[first]) > -4e-4)


def test_chunked_is_the_definition_of_each_block(pairs, tmp_path):
    """Blocks of 5 queries and 40 pictures, the last of either smaller; and far from the exact result."""
    rerank = RerankEntry(method="chunked", k1=9, k2=2, lambda_value=0.4, chunk=[5, 40])
    write_distances(pairs, rerank, 6, tmp_path / "d.npy", lambda: None)
    want = np.zeros((17, 75))
    for pair in pairs:
        query, gallery = (side.numpy() for side in pair)
        for q in range(0, 17, 5):
            for g in range(0, 75, 40):
                want[q : q + 5, g : g + 40] += by_definition(query[q : q + 5], gallery[g : g + 40], 9, 2, 0.4)
    got = ArrayRows(tmp_path / "d.npy")[:].double().numpy()
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-4)
    exact = sum(by_definition(*(side.numpy() for side in pair), 9, 2, 0.4) for pair in pairs)
    assert np.abs(got - exact).max() > 0.1


def test_angles(pairs, tmp_path):
    write_distances(pairs, RerankEntry(method="none"), 6, tmp_path / "d.npy", lambda: None)
    want = 0
    for query, gallery in pairs:
        unit = [side.double().numpy() for side in (query, gallery)]
        unit = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in unit]
        want = want + np.arccos(np.clip(unit[0] @ unit[1].T, -1, 1))
    np.testing.assert_allclose(ArrayRows(tmp_path / "d.npy")[:].numpy(), want, rtol=0, atol=5e-4)
