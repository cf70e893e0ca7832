# SPDX-License-Identifier: Apache-2.0
"""Features by several ranks, bit for bit those of one."""

from collections.abc import Callable

import torch
from torch import nn

from fastreid_ops.data.loader import EvalLoader
from fastreid_ops.engine.extract import Features, extract
from fastreid_ops.engine.ranks import Ranks


def extract_shared(
    ranks: Ranks,
    name: str,
    model: nn.Module,
    loader: EvalLoader,
    device: torch.device,
    check: Callable[[], None],
    **how: bool,
) -> Features:
    """`extract`, the batches shared out over the ranks; every rank gets the features of all rows, in order.

    A batch has the same images whoever reads it, so the bits do not depend on the number of ranks. Memory: all
    features on every rank, 4 N D bytes, as the ops that share queries among ranks ask for; images and activations
    are those of one batch. `name` says in errors which set it is. `check` is called equally often on every rank, so
    that it may be a collective call.
    """
    if ranks.group is None:
        return extract(model, loader, device, check=check, **how)
    calls = 0

    def counted() -> None:
        nonlocal calls
        calls += 1
        check()

    most = -(-len(loader) // ranks.world)
    batches = loader.part(ranks.rank, ranks.world)
    first = next(batches, None)
    found = None
    if first is not None:
        found = extract(model, _chain(first, batches), device, check=counted, **how)
    while calls < most:
        counted()
    ranks.meet(f"features of {name}")
    width = max(ranks.everyone(0 if found is None else found.values.shape[1]))
    if width == 0:
        raise ValueError("extract: loader: got no image, expected at least one")
    if found is None:  # fewer batches than ranks
        found = Features(torch.empty(0, width), torch.empty(0, dtype=torch.int64))
    return Features(ranks.gather_rows(found.values), ranks.gather_rows(found.rows))


def _chain(first, rest):
    yield first
    yield from rest
