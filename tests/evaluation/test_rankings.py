# SPDX-License-Identifier: Apache-2.0
"""NAIC: ranking files, ensembles of distance matrices and pseudo-labels, against recorded results of the original and
plain loops."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from fastreid_ops import k_reciprocal
from fastreid_ops.evaluation import (
    mean_distances,
    pseudo_labels,
    pseudo_labels_from_distances,
    ranking_from_distances,
    ranking_from_features,
    ranking_from_indices,
    write_ranking,
)

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "naic_and_cloth_changing"


def rows(count, seed, depth=6):
    return torch.randn(count, depth, generator=torch.Generator().manual_seed(seed))


def names(word, count):
    return [f"folder/{word}{n:04d}.png" for n in range(count)]


@pytest.mark.parametrize("size", [7, 200, 201, 450])
def test_the_first_200_or_all(size):
    query, gallery = rows(9, 1), rows(size, 2)
    found = ranking_from_features(query, gallery, names("q", 9), names("g", size))
    assert list(found) == [f"q{n:04d}.png" for n in range(9)]
    unit = [torch.nn.functional.normalize(side.double()) for side in (query, gallery)]
    for n, listed in enumerate(found.values()):
        order = np.argsort((1 - unit[0][n] @ unit[1].T).numpy(), kind="stable")[:200]
        assert listed == [f"g{g:04d}.png" for g in order]
        assert len(listed) == min(size, 200)


def test_distances_blocks_and_indices_are_one():
    distance = torch.rand(23, 60, generator=torch.Generator().manual_seed(3)).mul(9).round()  # ties
    sides = names("q", 23), names("g", 60)
    whole = ranking_from_distances(distance, *sides, 11)
    for n, listed in enumerate(whole.values()):
        order = sorted(range(60), key=lambda g, n=n: (float(distance[n, g]), g))[:11]
        assert listed == [f"g{g:04d}.png" for g in order]
    assert ranking_from_distances(distance.split(5), *sides, 11) == whole
    query, gallery = rows(23, 4), rows(60, 5)
    ranked = k_reciprocal(query, gallery, k1=6, k2=2, top=11)
    dense = k_reciprocal(query, gallery, k1=6, k2=2)
    assert ranking_from_indices(ranked.indices, *sides) == ranking_from_distances(dense, *sides, 11)


def test_the_ensemble_of_the_original(tmp_path):
    data = np.load(GOLDEN / "naic_ensemble.npz")
    mats, order = data["mats"], data["order"]
    sides = names("q", 6), names("g", 30)
    wanted = {f"q{n:04d}.png": [f"g{g:04d}.png" for g in row] for n, row in enumerate(order)}
    assert ranking_from_distances(mean_distances(list(torch.from_numpy(mats)), rows=4), *sides) == wanted
    files = []
    for number, matrix in enumerate(mats):
        files.append(tmp_path / f"{number}.npy")
        np.save(files[-1], matrix)
    opened = [np.load(file, mmap_mode="r") for file in files]
    blocks = list(mean_distances(opened, rows=4))
    assert [block.shape for block in blocks] == [(4, 30), (2, 30)]
    np.testing.assert_allclose(torch.cat(blocks).numpy(), mats.astype(np.float64).mean(0), rtol=1e-15)


def test_both_halves_of_a_small_test_set(tmp_path):
    """The lists of the recorded fixture: galleries of three and of one, each query within its half."""
    lists = json.loads((GOLDEN / "naic_dataset_fixture.json").read_text())
    parts = []
    for half in ("green", "normal"):
        sides = [[path for path, *_ in lists[f"{side}_{half}"]] for side in ("query", "gallery")]
        parts.append(ranking_from_features(*(rows(len(side), len(side)) for side in sides), *sides))
    found = json.loads(write_ranking(tmp_path / "x.json", *parts).read_text())
    assert {query: sorted(listed) for query, listed in found.items()} == {
        "q1.png": ["g1.png", "g2.png", "g3.png"],
        "q2.png": ["g1.png", "g2.png", "g3.png"],
        "q3.png": ["g4.png"],
    }


def test_an_ensemble_reads_one_block_at_a_time():
    read = []

    class Matrix:
        shape = (10, 4)

        def __init__(self, name):
            self.name = name

        def __getitem__(self, rows):
            read.append((self.name, rows.start, rows.stop))
            return torch.ones(min(rows.stop, 10) - rows.start, 4)

    blocks = mean_distances([Matrix("a"), Matrix("b")], rows=5)
    assert read == []
    assert next(blocks).shape == (5, 4)
    assert read == [("a", 0, 5), ("b", 0, 5)]


def test_the_pseudo_labels_of_the_original():
    data = np.load(GOLDEN / "naic_pseudo.npz")
    distance = torch.from_numpy(data["dist"])
    found = pseudo_labels_from_distances(distance, data["thresh"].item(), known=100)
    assert found.gallery.tolist() == data["gallery"].tolist()
    assert found.query[found.gallery_pids - 100].tolist() == data["query"].tolist()
    assert found.query.tolist() == sorted(set(data["query"].tolist()))
    assert found.query_pids.tolist() == list(range(100, 100 + len(found.query)))
    assert found.classes == 100 + len(found.query)


def test_pseudo_labels_on_random_cases():
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        distance = torch.randint(5, (4, 9), generator=generator).float()
        found = pseudo_labels_from_distances(distance, 1, known=seed)
        wanted = {}
        for g in range(9):
            column = distance[:, g].tolist()
            if min(column) < 1:
                wanted[g] = column.index(min(column))
        used = sorted(set(wanted.values()))
        assert found.gallery.tolist() == list(wanted)
        assert found.gallery_pids.tolist() == [seed + used.index(q) for q in wanted.values()]
        assert found.query.tolist() == used
        assert found.classes == seed + len(used)


def test_pseudo_labels_from_features():
    query, gallery = rows(8, 6), rows(50, 7)
    unit = [torch.nn.functional.normalize(side.double()) for side in (query, gallery)]
    angle = torch.arccos((unit[0] @ unit[1].T).clamp(-1, 1))
    found, wanted = (
        pseudo_labels(query, gallery, 0.8, known=3),
        pseudo_labels_from_distances(angle, 0.8, known=3),
    )
    assert 0 < len(found.gallery) < 50
    for a, b in zip(found, wanted, strict=True):
        assert torch.equal(torch.as_tensor(a), torch.as_tensor(b))
    none = pseudo_labels(query, gallery, 1e-6)
    assert (len(none.gallery), len(none.query), none.classes) == (0, 0, 0)
    assert len(pseudo_labels(query, query[:2], 1e-9).gallery) == 2  # distance 0
    assert len(pseudo_labels(query, query[:2], 0).gallery) == 0  # strictly below


def test_written_as_one_object_as_a_whole(tmp_path, monkeypatch):
    path = tmp_path / "ranking.json"
    green, normal = {"a.png": ["x.png", "y.png"]}, {"b.png": ["z.png"]}
    assert write_ranking(path, green, normal) == path
    assert json.loads(path.read_text()) == {**green, **normal}
    with pytest.raises(ValueError, match=r"got query 'a\.png' in two of them"):
        write_ranking(path, green, green)
    with pytest.raises(ValueError, match="got none"):
        write_ranking(path)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_ranking(path, normal)
    assert json.loads(path.read_text()) == {**green, **normal}
    assert os.listdir(tmp_path) == ["ranking.json"]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda: ranking_from_features(rows(2, 0), rows(3, 0), ["a"], names("g", 3)),
            ValueError,
            "query_names: got 1",
        ),
        (
            lambda: ranking_from_features(rows(2, 0), rows(3, 0), ["a/x", "b/x"], names("g", 3)),
            ValueError,
            "query_names: got the file name 'x' twice",
        ),
        (
            lambda: ranking_from_features(rows(2, 0), rows(0, 0), ["a", "b"], []),
            ValueError,
            "gallery_features: got",
        ),
        (lambda: ranking_from_features(rows(1, 0), rows(1, 0), ["a"], ["b"], 0), ValueError, "top: got 0"),
        (
            lambda: ranking_from_distances(torch.rand(2, 3), ["a"], names("g", 3)),
            ValueError,
            "rows of more than 1",
        ),
        (
            lambda: ranking_from_distances(torch.rand(1, 3), ["a", "b"], names("g", 3)),
            ValueError,
            "rows of 1 queries",
        ),
        (
            lambda: ranking_from_distances(torch.rand(1, 2), ["a"], names("g", 3)),
            ValueError,
            "distances: got",
        ),
        (
            lambda: ranking_from_distances(torch.full((1, 3), torch.nan), ["a"], names("g", 3)),
            ValueError,
            "got 3 NaN",
        ),
        (lambda: mean_distances([]), ValueError, "matrices: got none"),
        (lambda: mean_distances([torch.rand(2, 3), torch.rand(2, 4)]), ValueError, "matrices: got shapes"),
        (lambda: list(mean_distances([torch.ones(2, 3).long()])), TypeError, r"matrices\[0\]: got int64"),
        (lambda: mean_distances([torch.rand(2, 3)], rows=0), ValueError, "rows: got 0"),
        (lambda: pseudo_labels(rows(2, 0), rows(2, 1), float("nan")), ValueError, "threshold: got nan"),
        (lambda: pseudo_labels(rows(2, 0), rows(2, 1), 0.3, known=-1), ValueError, "known: got -1"),
        (lambda: pseudo_labels_from_distances(torch.rand(0, 3), 0.3), ValueError, "distance: got"),
    ],
)
def test_refuses(call, error, words):
    with pytest.raises(error, match=words):
        call()
