# SPDX-License-Identifier: Apache-2.0
"""Features by several ranks, bit for bit those of one, each row on the rank that read its image."""

from collections.abc import Callable

import torch
from torch import nn

from fastreid_ops.data.loader import EvalLoader
from fastreid_ops.engine.extract import Features, extract
from fastreid_ops.engine.ranks import Ranks
from fastreid_ops.ops import _shards


def extract_shared(
    ranks: Ranks,
    name: str,
    model: nn.Module,
    loader: EvalLoader,
    device: torch.device,
    check: Callable[[], None],
    **how: bool,
) -> Features:
    """`extract`, the batches shared out over the ranks; every rank keeps the features of its own part, none where
    there are fewer batches than ranks.

    A batch has the same images whoever reads it, so the bits do not depend on the number of ranks. Memory: a rank's
    part of the features, 4 N D bytes by the number of ranks; images and activations are those of one batch. `name`
    says in errors which set it is. `check` is called equally often on every rank, so that it may be a collective call.
    Errors: as `extract`, on every rank: where one fails, all raise its error, or a ValueError with its words.
    """
    if ranks.group is None:
        return extract(model, loader, device, check=check, **how)
    calls = 0

    def counted() -> None:
        nonlocal calls
        calls += 1
        check()

    most = -(-len(loader) // ranks.world)
    found, failed = None, None
    try:
        batches = loader.part(ranks.rank, ranks.world)
        first = next(batches, None)
        if first is not None:
            found = extract(model, _chain(first, batches), device, check=counted, **how)
    except (ArithmeticError, OSError, RuntimeError, ValueError) as error:
        failed = error  # the others are still at work: told below, where all meet
    while calls < most:
        counted()
    ranks.meet(f"features of {name}")
    _shards.all_raise(failed, ranks.group)
    width = max(ranks.everyone(0 if found is None else found.values.shape[1]))
    if width == 0:
        raise ValueError("extract: loader: got no image, expected at least one")
    if found is None:
        found = Features(torch.empty(0, width), torch.empty(0, dtype=torch.int64))
    return found


def _chain(first, rest):
    yield first
    yield from rest
