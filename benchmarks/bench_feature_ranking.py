# SPDX-License-Identifier: Apache-2.0
"""rank_features against a distance matrix and the evaluators people use. The floor is a bare bfloat16 product of the
features."""

from __future__ import annotations

import pytest
import torch
from memory import peak
from rivals import distance as distances
from rivals import ranking as evaluators
from shapes import FULL, MARKET, Retrieval, retrieval

from fastreid_ops import rank_features

SPREADS = {"trained": 0.6, "untrained": 4.0}
by_network = pytest.mark.parametrize("network", SPREADS)


def title(data: Retrieval, network: str) -> str:
    queries, gallery = len(data.query), len(data.gallery)
    return f"features to CMC and mAP, {queries:,} x {gallery:,}, D {data.query.shape[1]}, {network}"


@by_network
@pytest.mark.parametrize("depth", [2048, 512])
def test_bare_product(versus, benchmark, depth, network):
    """torch.mm of the features in bfloat16 does nothing else; a ratio below 1 is how much longer all of it takes."""
    data = retrieval(*MARKET, depth, spread=SPREADS[network])
    benchmark.group = title(data, network)
    rows = data.query.bfloat16(), data.gallery.bfloat16().T
    target = {"target": 1 / 1.3} if (depth, network) == (2048, "trained") else {}
    if FULL and network == "trained":
        target["peak"] = peak("rank_features", *MARKET, depth)
    versus(
        lambda: rank_features(*data),
        lambda: torch.mm(*rows),
        lambda ours, theirs: None,  # a product has no figures; the rows below compare them
        rival="torch.mm, bfloat16, alone",
        rounds=5,
        **target,
    )


def evaluator():
    """fast-reid's Cython evaluator (torchreid's is the same loop), with torchreid's distances where both are there."""
    found = {rival.name: rival for rival in evaluators.available()}
    cython = found.get("fast-reid Cython") or found["torchreid Python"]
    matrix = {r.name: r for r in distances.available() if r.metric == "sqeuclidean"}
    distance = matrix.get("torchreid") or matrix["torch.mm and norms"]
    return f"{distance.name} distance and {cython.name}", distance.run, cython.run


@by_network
@pytest.mark.parametrize("depth", [2048, 512])
def test_distance_and_cython(versus, benchmark, depth, network):
    data = retrieval(*MARKET, depth, spread=SPREADS[network])
    benchmark.group = title(data, network)
    name, distance, evaluate = evaluator()

    def check(ours, theirs) -> None:
        """Theirs are float32 distances and sums."""
        torch.testing.assert_close(torch.as_tensor(theirs[0]).double(), ours.cmc, rtol=0, atol=2e-3)
        torch.testing.assert_close(torch.as_tensor(theirs[1]).double(), ours.mAP, rtol=0, atol=1e-4)

    versus(
        lambda: rank_features(*data),
        lambda: evaluate(distance(data.query, data.gallery), *data[2:]),
        check,
        rival=name,
        target=6.0 if (depth, network) == (2048, "trained") else None,
    )
