# SPDX-License-Identifier: Apache-2.0
"""Re-ranking under memory limits, at sizes where N x N does not fit, interrupted, and without the native library."""

from __future__ import annotations

import re

import pytest
import torch
from rerank_oracle import euclidean_matrices, features

from fastreid_ops import gnn_rerank, jaccard, k_reciprocal, k_reciprocal_ensemble, k_reciprocal_from_distances
from fastreid_ops._library import LibraryStatus
from fastreid_ops.ops import _rerank_blocks, _rerank_graph, _rerank_sparse, rerank


def least(call) -> int:
    """What the error says is needed at least."""
    with pytest.raises(ValueError, match=r"memory_limit: got \d+, expected at least \d+ bytes: ") as caught:
        call()
    return int(re.search(r"at least (\d+) bytes", str(caught.value))[1])


def smallest_limit(run) -> int:
    """The limit that works: the error of too small a one names the next."""
    limit = 1
    for _ in range(3):
        try:
            run(limit)
        except ValueError:
            limit = least(lambda limit=limit: run(limit))
        else:
            return limit
    raise AssertionError("three errors in a row")


def equal(got, want):
    pairs = zip(got, want, strict=True) if isinstance(want, tuple) else [(got, want)]
    return all(torch.equal(a, b) for a, b in pairs)


query, gallery = features(40, 130, 12)
matrices = euclidean_matrices(query, gallery)
CALLS = {
    "k_reciprocal": lambda **limits: k_reciprocal(query, gallery, **limits),
    "top": lambda **limits: k_reciprocal(query, gallery, top=9, **limits),
    "from distances": lambda **limits: k_reciprocal_from_distances(*matrices, **limits),
    "from distances, top": lambda **limits: k_reciprocal_from_distances(*matrices, top=5, **limits),
    "ensemble": lambda **limits: k_reciprocal_ensemble([(query, gallery)] * 2, **limits),
    "ensemble, top": lambda **limits: k_reciprocal_ensemble([(query, gallery)] * 3, top=3, **limits),
    "jaccard": lambda **limits: jaccard(gallery, **limits),
    "gnn": lambda **limits: gnn_rerank(query, gallery, **limits),
    "gnn, top": lambda **limits: gnn_rerank(query, gallery, top=4, **limits),
}


@pytest.mark.parametrize("name", CALLS)
def test_memory_limit_changes_the_blocks_and_no_bit(name):
    run = CALLS[name]
    want = run()
    limit = smallest_limit(lambda limit: run(memory_limit=limit))
    for more in (0, 4 * 130 * 2, 4 * 130 * 7, 10**9):
        assert equal(run(memory_limit=limit + more), want)
    with pytest.raises(ValueError, match="memory_limit"):
        run(memory_limit=limit - 1)


@pytest.mark.parametrize("name", CALLS)
def test_threads_change_no_bit(name, restore_threads):
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        results.append(CALLS[name]())
    assert all(equal(other, results[0]) for other in results[1:])


@pytest.mark.parametrize("name", CALLS)
def test_progress_is_told(name, capsys):
    assert equal(CALLS[name](progress=True), CALLS[name]())
    told = capsys.readouterr().err
    rows = 130 if name == "jaccard" else 40
    assert f"{rows}/{rows}" in told


def test_ctrl_c_is_heard_between_blocks(monkeypatch):
    """After it, the same call works: no state is left behind."""
    blocks = []

    def block(self, first, last, result=None):
        blocks.append(first)
        if len(blocks) == 3:
            raise KeyboardInterrupt
        return real(self, first, last, result)

    real = _rerank_sparse.Encoded.block
    want = k_reciprocal(query, gallery)
    monkeypatch.setattr(_rerank_blocks, "BLOCK_BYTES", 4 * 130 * 3)
    monkeypatch.setattr(_rerank_sparse.Encoded, "block", block)
    with pytest.raises(KeyboardInterrupt):
        k_reciprocal(query, gallery)
    assert len(blocks) == 3
    monkeypatch.setattr(_rerank_sparse.Encoded, "block", real)
    assert torch.equal(k_reciprocal(query, gallery), want)


def test_queries_do_not_influence_the_blocks_of_others(restore_threads):
    """A sparse entry of one row that was left in the scratch memory would show in the next."""
    every = k_reciprocal_from_distances(*matrices)
    for threads in (1, 3):
        torch.set_num_threads(threads)
        assert torch.equal(k_reciprocal_from_distances(*matrices), every)
        assert torch.equal(k_reciprocal_from_distances(*matrices, memory_limit=10**6), every)


# Sizes at which N x N has more than 2^31 entries, and 60,000 x 60,000 float32 are 14 GB.

POINTS = 60_000
REACH = 12


def on_a_line(x, y, k, *, metric="sqeuclidean", farthest=False, **told):
    """The exact neighbours of ascending numbers (or of angles in a circle), found within reach of each."""
    place = torch.arange(len(x))[:, None] + torch.arange(-REACH, REACH + 1)
    if metric == "cosine":
        place = place % len(x)
        squared = (x.double()[:, None] - x.double()[place]).square().sum(-1)
    else:
        inside = (place >= 0) & (place < len(x))
        place = place.clamp(0, len(x) - 1)
        squared = (x.double() - x.double()[place, 0]).square().masked_fill(~inside, torch.inf)
    by_index = place.argsort(dim=1, stable=True)
    squared, place = squared.gather(1, by_index), place.gather(1, by_index)
    order = squared.argsort(dim=1, stable=True)[:, :k]
    largest = torch.maximum(x - x[0], x[-1] - x).double().square()[:, 0] if farthest else torch.empty(0)
    return squared.gather(1, order), place.gather(1, order), largest


@pytest.fixture
def line(monkeypatch):
    monkeypatch.setattr(_rerank_sparse, "neighbours", on_a_line)
    monkeypatch.setattr(_rerank_graph, "neighbours", on_a_line)


def inner(found, first, last):
    """Columns relative to the row, and values, of rows [first, last)."""
    begin, end = found.indptr[first], found.indptr[last]
    row = torch.repeat_interleave(torch.arange(first, last), found.indptr.diff()[first:last])
    return found.indices[begin:end] - row, found.values[begin:end]


def test_jaccard_of_more_points_than_a_matrix_could_hold(line):
    """Far from the ends every point sees the same; what it sees does not depend on how many there are."""
    few, many = (jaccard(torch.arange(n).float()[:, None] / 8, k1=10, k2=3) for n in (400, POINTS))
    want = inner(few, 150, 250)
    assert len(want[0]) > 1000
    for first in (1000, 46_300, POINTS - 300):
        got = inner(many, first, first + 100)
        assert torch.equal(got[0], want[0])
        torch.testing.assert_close(got[1], want[1], rtol=0, atol=1e-6)


@pytest.mark.timeout(900)  # a minute of both cores of a small machine, shared with another test process
def test_k_reciprocal_of_more_points_than_a_matrix_could_hold(line):
    x = torch.arange(POINTS).float()[:, None] / 64
    found = k_reciprocal(x[:100], x[100:], k1=8, k2=3, top=20, lambda_value=0.1)
    assert found.distances.shape == (100, 20)
    # The neighbours of the last queries are the first gallery entries; the first queries overlap with none.
    assert torch.equal(found.indices[99].sort().values, torch.arange(20))
    assert found.distances[99, 0] < 0.5 < found.distances[0, 0]
    dense = k_reciprocal(x[:100], x[100:], k1=8, k2=3, lambda_value=0.1)
    assert dense.shape == (100, POINTS - 100)
    assert torch.equal(dense.gather(1, found.indices), found.distances)


def test_graph_of_more_points_than_the_original_can_hold(line):
    def circle(points):
        angle = torch.arange(points).double() / points * 2 * torch.pi
        return torch.stack([angle.cos(), angle.sin()], dim=1)

    found = []
    for points in (500, POINTS):
        x = circle(points)
        distance = gnn_rerank(x[:40], x[40:], k1=9, k2=5)
        found.append(distance[39, :30])
        assert bool((distance[20, 100:-100] == 1).all())
    # A small circle's neighbours are a little less similar, which changes weights in the fourth place.
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=2e-3)
    assert 0 < found[1][0] < 0.5


# Without the native library


def test_plain_torch_where_the_native_library_is_missing(monkeypatch):
    results = {name: call() for name, call in CALLS.items()}
    missing = LibraryStatus(False, False, "never built", "build it", "2", None, None, None)
    monkeypatch.setattr(rerank, "_LIBRARY", missing)
    for name, call in CALLS.items():
        got, want = call(), results[name]
        if name == "jaccard":
            got, want = got.to_scipy().toarray(), want.to_scipy().toarray()
            got, want = torch.from_numpy(got), torch.from_numpy(want)
        elif isinstance(want, tuple):
            got, want = got.distances, want.distances
        # The ensemble's float16 values may be rounded the other way.
        torch.testing.assert_close(got, want, rtol=0, atol=1e-3 if "ensemble" in name else 4e-6)
    bad = gallery.clone()
    bad[0, 0] = torch.nan
    with pytest.raises(ValueError, match="1 NaN"):
        k_reciprocal(query, bad)
    spoilt = matrices[2].clone()
    spoilt[3, 3] = torch.inf
    with pytest.raises(ValueError, match="gallery_gallery: got 0 NaN and 1 Inf"):
        k_reciprocal_from_distances(*matrices[:2], spoilt)


# Direct calls of the operators stay inside their memory


def _sparse(rows=4, columns=4):
    begin = torch.arange(rows + 1)
    return begin, torch.arange(rows, dtype=torch.int32) % columns, torch.ones(rows)


BAD_CALLS = {
    "index beyond": lambda op: op.rerank_encode(
        torch.full((4, 2), 4, dtype=torch.int32), torch.zeros(4, 2).double(), None, torch.zeros(4, 3), None, None,
        None, None, 1, 1, False),
    "no source": lambda op: op.rerank_encode(
        torch.zeros(4, 2, dtype=torch.int32), torch.zeros(4, 2).double(), None, None, None, None, None, None, 1, 1,
        False),
    "half list too long": lambda op: op.rerank_encode(
        torch.zeros(4, 2, dtype=torch.int32), torch.zeros(4, 2).double(), None, torch.zeros(4, 3), None, None, None,
        None, 3, 1, False),
    "power": lambda op: op.rerank_encode(
        torch.zeros(4, 2, dtype=torch.int32), torch.zeros(4, 2).double(), None, torch.zeros(4, 3), None, None, None,
        None, 1, 3, False),
    "offsets": lambda op: op.rerank_invert(torch.tensor([0, 3, 2, 3, 4]), *_sparse()[1:], 0, 4, 4),
    "column beyond": lambda op: op.rerank_invert(*_sparse(), 0, 4, 3),
    "negative column": lambda op: op.rerank_invert(_sparse()[0], -_sparse()[1], _sparse()[2], 0, 4, 4),
    "rows beyond": lambda op: op.rerank_invert(*_sparse(), 0, 5, 4),
    "merge beyond": lambda op: op.rerank_merge(*_sparse(), torch.full((2, 1), 4, dtype=torch.int32), None, 1.0, False),
    "int64 columns": lambda op: op.rerank_invert(_sparse()[0], _sparse()[1].long(), _sparse()[2], 0, 4, 4),
    "result of another shape": lambda op: op.rerank_blend(
        torch.zeros(2, 4), torch.zeros(2, 5), None, *_sparse(), *_sparse(), 0, 0.3, 1, False, False),
    "queries beyond": lambda op: op.rerank_overlap(*_sparse(), *_sparse(), 2, 3, 4, 0, False, False),
    "gallery too small": lambda op: op.rerank_overlap(*_sparse(), *_sparse(), 0, 3, 3, 0, False, False),
    "overlap": lambda op: op.rerank_overlap(*_sparse(), *_sparse(), 0, 3, 4, 2, False, False),
    "k of the head": lambda op: op.rerank_head(torch.zeros(2, 3), 4),
    "k of the selection": lambda op: op.rerank_select(torch.zeros(1, 2), torch.zeros(1, 1), torch.zeros(2, 2), 4),
    "square": lambda op: op.rerank_select(torch.zeros(1, 2), torch.zeros(1, 1), torch.zeros(2, 3), 1),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_CALLS)
def test_operators_refuse_what_would_leave_their_memory(name):
    with pytest.raises((ValueError, RuntimeError), match=r"rerank: .*: got .*, expected "):
        BAD_CALLS[name](torch.ops.fastreid)
