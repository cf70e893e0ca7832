# SPDX-License-Identifier: Apache-2.0
"""Labels for unlabelled pictures from a trained system: a gallery picture takes its nearest query as its identity."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fastreid_ops.ops import _checks
from fastreid_ops.ops.nearest import nearest


class PseudoLabels(NamedTuple):
    """What may be trained on.

    Attributes:
        gallery: (n,) int64, gallery rows that have a label, ascending.
        gallery_pids: (n,) int64, their labels.
        query: (q,) int64, query rows that some gallery row has as its identity, ascending.
        query_pids: (q,) int64, their labels, ``known`` and on.
        classes: ``known`` + q.
    """

    gallery: Tensor
    gallery_pids: Tensor
    query: Tensor
    query_pids: Tensor
    classes: int


def pseudo_labels(
    query: Tensor, gallery: Tensor, threshold: float, *, known: int = 0, metric: str = "arccos"
) -> PseudoLabels:
    """NAIC's rule (its train_UDA): a gallery picture belongs to its nearest query if it is nearer than ``threshold``.

    Args:
        query, gallery: (Q, D) and (G, D) features.
        threshold: strictly below it; for "arccos" in radians. The originals take 0.3 and 0.45.
        known: identities that are labelled already; new labels follow them.
        metric: as `fastreid_ops.nearest`. The originals take the angle of the features, without re-ranking, with
            cosines clipped at 1 - 1e-5, so that queries within 0.0045 rad of a picture tie; here they do not.

    Ties go to the first query. Queries are labelled in ascending order; the originals enumerate a set, whose order is
    not theirs to say. Memory: as `nearest` with one neighbour.

    Raises:
        TypeError, ValueError: as `nearest`; a threshold that is no number; ``known`` below 0.
    """
    _check("pseudo_labels", threshold, known)
    found = nearest(gallery, query, 1, metric=metric)
    return _labelled(found.distances[:, 0], found.indices[:, 0], threshold, known)


def pseudo_labels_from_distances(distance: Tensor, threshold: float, *, known: int = 0) -> PseudoLabels:
    """As `pseudo_labels`, from a (Q, G) matrix of distances."""
    op = "pseudo_labels_from_distances"
    _check(op, threshold, known)
    _checks.floating(op, "distance", _checks.tensor(op, "distance", distance))
    _checks.rank(op, "distance", distance, 2, "(Q, G)")
    _checks.not_empty(op, "distance", distance, 0, "there is no query to be nearest to")
    _checks.finite(op, "distance", distance)
    least = distance.amin(0)
    # argmax of a mask is free to take any of several equal ones; the first row index is not.
    row = torch.arange(distance.shape[0], device=distance.device)[:, None]
    first = torch.where(distance == least, row, distance.shape[0]).amin(0)
    return _labelled(least, first, threshold, known)


def _check(op: str, threshold: object, known: object) -> None:
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not math.isfinite(threshold):
        raise ValueError(_checks.message(op, "threshold", repr(threshold), "a finite number"))
    if isinstance(known, bool) or not isinstance(known, int) or known < 0:
        raise ValueError(_checks.message(op, "known", repr(known), "an int of at least 0"))


def _labelled(distance: Tensor, nearest_query: Tensor, threshold: float, known: int) -> PseudoLabels:
    gallery = (distance < threshold).nonzero().flatten()
    query, label = torch.unique(nearest_query[gallery], sorted=True, return_inverse=True)
    pids = torch.arange(known, known + len(query), device=query.device)
    return PseudoLabels(gallery, known + label, query, pids, known + len(query))
