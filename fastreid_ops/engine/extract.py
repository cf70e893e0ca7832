# SPDX-License-Identifier: Apache-2.0
"""Features of images by a model: batched, in the manifest's order, the model's modes put back afterwards."""

import inspect
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Features(NamedTuple):
    """`values` (N, D) float32 on the CPU; `rows` (N,) int64, rising: the manifest row of each feature (bad
    files are missing).
    """

    values: Tensor
    rows: Tensor


def takes_mode(model: nn.Module) -> bool:
    """Whether `forward` has a parameter `mode`: a network for two modalities."""
    return "mode" in inspect.signature(model.forward).parameters


def _by_modality(model: nn.Module) -> Callable[[Tensor, Any], Tensor]:
    def forward(images: Tensor, batch: Any) -> Tensor:
        codes = getattr(batch, "modality", None)
        if codes is None:
            raise ValueError(
                f"extract: batch.modality: got None, expected 0 (visible) or 1 (infrared) for each image: "
                f"{type(model).__name__} has a half for either"
            )
        feature = None
        for code in (0, 1):
            rows = (codes == code).nonzero().flatten().to(images.device)
            if not len(rows):
                continue
            if len(rows) == len(codes):
                return model(images, mode=code + 1)
            part = model(images[rows], mode=code + 1)
            feature = part.new_empty(len(codes), part.shape[1]) if feature is None else feature
            feature[rows] = part
        return feature

    return forward


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
    unit_length: bool = False,
    channels_last: bool = False,
    check: Callable[[], None] = lambda: None,
) -> Features:
    """Features of everything a loader yields.

    A network whose `forward` takes `mode` (0 both halves, 1 visible, 2 infrared) is called for the images of either
    modality apart, by the `modality` of the batch: 0 visible, 1 infrared.

    Shapes: batches with `images` (B, 3, H, W) float32 and `index` (B,) int64, the row numbers. With `flip`,
    the mean of the features of the image and of its mirror image. With `unit_length` they are divided by their
    lengths last of all (a feature of zeros stays one). Always in float32, whatever training used,
    so that a figure does not depend on it. `check` is called between batches and may raise. Errors:
    ValueError when the loader yields nothing, when a feature is not finite, naming the first row, or when modalities
    are needed and missing.
    """
    layout = torch.channels_last if channels_last else torch.contiguous_format
    values, rows = [], []
    forward = _by_modality(model) if takes_mode(model) else lambda images, batch: model(images)
    with evaluating(model):
        for batch in loader:
            check()
            images = batch.images.to(device, memory_format=layout, non_blocking=True)
            feature = forward(images, batch)
            if flip:
                feature = (feature + forward(images.flip(3), batch)) / 2
            feature = feature.float()
            values.append((F.normalize(feature) if unit_length else feature).cpu())
            rows.append(batch.index)
    if not values:
        raise ValueError("extract: loader: got no image, expected at least one")
    features = Features(torch.cat(values), torch.cat(rows))
    low, high = torch.aminmax(features.values)  # one read, no temporary; NaN wins over every number
    if not bool(low.isfinite() & high.isfinite()):
        bad = features.rows[~features.values.isfinite().all(dim=1)]
        raise ValueError(
            f"extract: model: got {len(bad)} features with NaN or Inf (first: row {int(bad[0])}), expected "
            "finite features"
        )
    return features
