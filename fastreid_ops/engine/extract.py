# SPDX-License-Identifier: Apache-2.0
"""Features of images by a model: batched, in the manifest's order, the model's modes put back afterwards."""

from collections.abc import Callable, Iterable
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Features(NamedTuple):
    """`values` (N, D) float32 on the CPU; `rows` (N,) int64, rising: the manifest row of each feature (bad
    files are missing).
    """

    values: Tensor
    rows: Tensor


@contextmanager
def evaluating(model: nn.Module):
    """Eval mode and no gradients inside; afterwards every single module has the mode it had before."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode():
            yield model
    finally:
        for module, training in modes:
            module.training = training


def extract(
    model: nn.Module,
    loader: Iterable,
    device: torch.device,
    *,
    flip: bool = False,
    channels_last: bool = False,
    check: Callable[[], None] = lambda: None,
) -> Features:
    """Features of everything a loader yields.

    Shapes: batches with `images` (B, 3, H, W) float32 and `index` (B,) int64, the row numbers. With `flip`,
    the mean of the features of the image and of its mirror image. Always in float32, whatever training used,
    so that a figure does not depend on it. `check` is called between batches and may raise. Errors:
    ValueError when the loader yields nothing or a feature is not finite, naming the first row.
    """
    layout = torch.channels_last if channels_last else torch.contiguous_format
    values, rows = [], []
    with evaluating(model):
        for batch in loader:
            check()
            images = batch.images.to(device, memory_format=layout, non_blocking=True)
            feature = model(images)
            if flip:
                feature = (feature + model(images.flip(3))) / 2
            values.append(feature.float().cpu())
            rows.append(batch.index)
    if not values:
        raise ValueError("extract: loader: got no image, expected at least one")
    features = Features(torch.cat(values), torch.cat(rows))
    finite = features.values.isfinite().all(dim=1)
    if not finite.all():
        bad = features.rows[~finite]
        raise ValueError(
            f"extract: model: got {len(bad)} features with NaN or Inf (first: row {int(bad[0])}), expected "
            "finite features"
        )
    return features
