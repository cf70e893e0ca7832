# SPDX-License-Identifier: Apache-2.0
"""One feature for a tracklet from those of its frames."""

from __future__ import annotations

import torch
from torch import Tensor

from fastreid_ops.evaluation.columns import Columns
from fastreid_ops.ops import _checks

POOLINGS = ("mean", "max")


def grouped(side: str, columns: Columns) -> tuple[Tensor, Tensor]:
    """The tracklets of some frames: (first row of each, (T,); the tracklet of each row, (N,)), int64, in order of
    first appearance. Frames are of one tracklet where pid, camid and tracklet are the same, so that tracklets may be
    numbered in each camera anew.

    Raises:
        ValueError: no tracklet column; frames of one tracklet in different clothes or modalities.
    """
    tracklets = columns.need(side, "tracklets", "the protocol pools the features of a tracklet's frames")
    camids = columns.camids if columns.camids is not None else [0] * len(columns)
    number: dict[tuple, int] = {}
    first: list[int] = []
    entry = []
    for row, key in enumerate(zip(columns.pids, camids, tracklets, strict=True)):
        entry.append(number.setdefault(key, len(first)))
        if entry[-1] == len(first):
            first.append(row)
        for name in ("clothes", "modality"):
            values = getattr(columns, name)
            if values is not None and values[row] != values[first[entry[-1]]]:
                raise ValueError(
                    f"draw: {side}.{name}: got {values[row]!r} after {values[first[entry[-1]]]!r} in tracklet "
                    f"{key[2]!r} of pid {key[0]!r}, expected one value in a tracklet"
                )
    return torch.tensor(first, dtype=torch.int64), torch.tensor(entry, dtype=torch.int64)


def pool_tracklets(
    features: Tensor, entry: Tensor, count: int, how: str = "mean", *, normalise: bool = False
) -> tuple[Tensor, Tensor]:
    """Features of tracklets from those of their frames.

    Args:
        features: (N, D) floating.
        entry: (N,) int64, the tracklet of each frame, 0 to count - 1.
        how: "mean" or "max" over a tracklet's frames. The mean is summed in float64, so that neither the order of
            the frames nor their number moves more than its last bit.
        normalise: scale each to length one (CCVID in Simple-CCReID); a row of zeros stays.

    Returns:
        (count, D) features in the dtype of ``features``, and (count,) bool: whether the tracklet has a frame. Those
        without have zeros.

    Raises:
        TypeError, ValueError: other types or shapes, another ``how``, a tracklet outside 0 to count - 1.
    """
    op = "pool_tracklets"
    _checks.choice(op, "how", how, POOLINGS)
    _checks.floating(op, "features", _checks.tensor(op, "features", features))
    _checks.rank(op, "features", features, 2, "(N, D)")
    _checks.integers(op, "entry", _checks.tensor(op, "entry", entry))
    _checks.rank(op, "entry", entry, 1, "(N,)")
    _checks.size(op, "entry", entry, 0, features.shape[0], "one tracklet for each frame")
    entry = entry.to(features.device, torch.int64)
    if len(entry) and not 0 <= int(entry.min()) <= int(entry.max()) < count:
        got = f"tracklets from {int(entry.min())} to {int(entry.max())}"
        raise ValueError(_checks.message(op, "entry", got, f"0 to {count - 1}"))
    frames = torch.bincount(entry, minlength=count)
    there = frames > 0
    shape = (count, features.shape[1])
    if how == "mean":
        total = torch.zeros(shape, dtype=torch.float64, device=features.device)
        total.index_add_(0, entry, features.double())
        pooled = total / frames.clamp(min=1)[:, None]
    else:
        pooled = features.new_zeros(shape)
        index = entry[:, None].expand(-1, features.shape[1])
        pooled = pooled.scatter_reduce(0, index, features, "amax", include_self=False).double()
    if normalise:
        length = pooled.norm(dim=1, keepdim=True)
        pooled = torch.where(length > 0, pooled / length, pooled)
    return pooled.to(features.dtype), there
