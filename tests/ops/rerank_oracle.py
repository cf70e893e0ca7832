# SPDX-License-Identifier: Apache-2.0
"""What the re-ranking functions promise, written from the papers' definitions in NumPy, with N x N matrices."""

from __future__ import annotations

import numpy as np
import torch
from opspec import Outputs

HALF = np.float16


def features(queries, gallery, depth, *, identities=6, noise=0.8, seed=0, dtype=torch.float32):
    """Images of a few identities around directions of their own."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(identities, depth, generator=generator)
    sets = []
    for count in (queries, gallery):
        person = torch.randint(identities, (count,), generator=generator)
        rows = centres[person] + noise * torch.randn(count, depth, generator=generator)
        sets.append((rows / depth**0.5).to(dtype))
    return sets[0], sets[1]


def squared(x, y, metric="euclidean"):
    """float64, by differences; a row of zeros is at cosine distance 1 to every row."""
    x, y = (np.asarray(rows.double(), dtype=np.float64) for rows in (x, y))
    if metric == "cosine":
        lengths = [np.sqrt((rows**2).sum(1)) for rows in (x, y)]
        zero = (lengths[0] == 0)[:, None] | (lengths[1] == 0)
        x, y = (rows / np.where(n > 0, n, 1)[:, None] for rows, n in zip((x, y), lengths, strict=True))
    found = np.stack([((row - y) ** 2).sum(1) for row in x])
    return np.where(zero, 2.0, found) if metric == "cosine" else found


def euclidean_matrices(query, gallery, dtype=torch.float32):
    pairs = ((query, gallery), (query, query), (gallery, gallery))
    return tuple(torch.from_numpy(np.sqrt(squared(x, y))).to(dtype) for x, y in pairs)


# Zhong et al.'s definition


def encoding(d, w, *, k1, k2, itself=1, weights=float, averages=float):
    """V and its local query expansion: d decides the order, w enters the weights; the two float types store them."""
    points = len(d)
    order = np.argsort(d, axis=1, kind="stable")
    entries = min(k1 + itself, points)
    half = min(int(np.around(k1 / 2)) + 1, entries)

    def mutual(i, size):
        return [j for j in order[i, :size] if i in order[j, :size]]

    v = np.zeros((points, points), dtype=weights)
    for i in range(points):
        own = mutual(i, entries)
        kept = set(own)
        for candidate in own:
            theirs = mutual(candidate, half)
            if len(set(own) & set(theirs)) > 2 / 3 * len(theirs):
                kept |= set(theirs)
        columns = sorted(kept)
        weight = np.exp(-(w[i, columns] - (w[i, columns].min() if columns else 0)))
        v[i, columns] = (weight / weight.sum()).astype(np.float32)
    if k2 == 1:
        return v
    first = order[:, : min(k2, points if itself else entries)]
    return np.stack([v[row].mean(0, dtype=np.float32 if averages is HALF else None) for row in first]).astype(
        averages
    )


def jaccard_of(v, rows, columns, clamp=False):
    if v.dtype == HALF:
        minima = np.zeros((len(rows), len(columns)), dtype=HALF)
        for t in range(len(v)):
            minima += np.minimum(v[rows, t][:, None], v[columns, t])
        return HALF(1) - minima / (HALF(2) - minima)
    minima = np.stack([np.minimum(v[i], v[columns]).sum(1, dtype=np.float64) for i in rows])
    found = 1 - minima / (2 - minima)
    return np.maximum(found, 0) if clamp else found


def final(e, queries, *, k1, k2, lambda_value, variant, raw):
    """From what enters squared or not: e (N, N) holds the squared distances."""
    rows, columns = np.arange(queries), np.arange(queries, len(e))
    largest = e.max(1, keepdims=True)
    w = e / np.where(largest > 0, largest, 1)
    options = {}
    if variant == "torchreid":
        w = w**2
    elif variant == "fastreid":
        w = e
        options = {"itself": 0}
    elif variant == "transreid":
        options = {"weights": HALF, "averages": HALF}
    elif variant == "naic":
        options = {"averages": HALF}
    v = encoding(e, w, k1=k1, k2=k2, **options)
    if variant == "naic":
        v = v.astype(np.float32)
    distance = jaccard_of(v, rows, columns, clamp=variant == "fastreid")
    blend = distance * (HALF(1 - lambda_value) if distance.dtype == HALF else 1 - lambda_value)
    return blend + w[:queries, queries:] * lambda_value * (raw if variant == "fastreid" else 1)


def by_definition(
    query,
    gallery,
    *,
    k1=20,
    k2=6,
    lambda_value=0.3,
    variant="zhong2017",
    metric="euclidean",
    top=None,
    memory_limit=None,
) -> Outputs:
    x = torch.cat([query, gallery])
    settings = {"k1": k1, "k2": k2, "lambda_value": lambda_value, "variant": variant}
    dense = final(squared(x, x, metric), len(query), raw=0.5 if metric == "cosine" else 1, **settings)
    return headed(dense, top)


def headed(dense, top) -> Outputs:
    dense = torch.from_numpy(dense.astype(np.float32)).double()
    if top is None:
        return {"result": dense}
    return {"distances": torch.sort(dense, dim=1, stable=True).values[:, :top]}


def from_matrices(
    query_gallery,
    query_query,
    gallery_gallery,
    *,
    k1=20,
    k2=6,
    lambda_value=0.3,
    variant="zhong2017",
    top=None,
) -> Outputs:
    """Column i of the whole matrix is row i here; numbers are squared as they are."""
    a, b, c = (m.float().double().numpy() for m in (query_gallery, query_query, gallery_gallery))
    whole = np.block([[b, a], [a.T, c]]).T
    if variant == "torchreid":
        variant = "zhong2017"
    settings = {"k1": k1, "k2": k2, "lambda_value": lambda_value, "variant": variant}
    return headed(final(whole**2, len(b), raw=1, **settings), top)


def jaccard_by_definition(x, *, k1=20, k2=6, variant="fastreid") -> Outputs:
    e = squared(x, x)
    largest = e.max(1, keepdims=True)
    w = e if variant == "fastreid" else e / np.where(largest > 0, largest, 1)
    v = encoding(e, w, k1=k1, k2=k2, itself=0 if variant == "fastreid" else 1)
    everything = np.arange(len(e))
    found = jaccard_of(v, everything, everything, clamp=variant == "fastreid")
    return {"dense": torch.from_numpy(found).float().double()}


def densified(result) -> Outputs:
    """With distance 1 where nothing is stored."""
    points = len(result.indptr) - 1
    dense = torch.ones(points, points)
    rows = torch.repeat_interleave(torch.arange(points), result.indptr.diff())
    dense[rows, result.indices] = result.values
    return {"dense": dense}


def gnn_by_definition(query, gallery, *, k1=26, k2=7, top=None) -> Outputs:
    x = torch.cat([query, gallery])
    d = squared(x, x, "cosine")
    points, order = len(d), np.argsort(d, axis=1, kind="stable")
    a = np.zeros_like(d)
    np.put_along_axis(a, order[:, :k1], 1.0, axis=1)
    similarity = (1 - np.take_along_axis(d, order, axis=1) / 2) ** 2
    for _ in range(2 if k2 > 1 else 0):
        a = a + a.T
        a = np.stack([similarity[i, :k2] @ a[order[i, :k2]] for i in range(points)])
    length = np.sqrt((a**2).sum(1, keepdims=True))
    a = a / np.where(length > 0, length, 1)
    return headed(1 - a[: len(query)] @ a[len(query) :].T, top)
