# SPDX-License-Identifier: Apache-2.0
"""Every architecture learns: gradients reach what is trainable, and a few steps lower the loss of a tiny batch."""

from __future__ import annotations

import pytest
import torch
from model_cases import HEAVY, make, random_images
from torch import nn
from torch.nn import functional as F

from fastreid_ops.models import MODELS

STEPS = 4
# Of Adam. A narrow transformer with its initial values of 0.02 and the six heads of PCB move slower than the others.
RATE = {"embednet": 1e-2, "pcb_p4": 1e-3}
USUAL_RATE = 3e-4


def loss_of(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Cross-entropy over all heads, and enough of every other output that its parameters have a gradient."""
    output = model(images)
    others = (*output.features, *output.auxiliary.values())
    logits = sum(F.cross_entropy(x, torch.arange(len(images))) for x in output.logits)
    return logits + 1e-3 * sum(x.square().mean() for x in others)


@pytest.fixture(scope="module", params=sorted(set(MODELS) - HEAVY))
def trained(request, need_timm):
    """Losses of one batch before, between and after the steps, and what the first backward pass left: key of each
    parameter -> (whether it is trainable, whether its gradient is finite or None without one)."""
    name = request.param
    need_timm(name)
    model, images = make(name).train(), random_images(name)
    optimizer = torch.optim.Adam(
        [p for p in model.parameters() if p.requires_grad], lr=RATE.get(name, USUAL_RATE)
    )
    losses, first = [], {}
    for step in range(STEPS):
        loss = loss_of(model, images)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            first = {
                key: (p.requires_grad, None if p.grad is None else bool(p.grad.isfinite().all()))
                for key, p in model.named_parameters()
            }
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        losses.append(loss_of(model, images).item())
    return losses, first


def test_every_trainable_parameter_gets_a_finite_gradient(trained):
    for key, (trainable, finite) in trained[1].items():
        assert finite is (True if trainable else None), key


def test_a_few_steps_lower_the_loss(trained):
    losses, _ = trained
    assert losses[-1] < 0.8 * losses[0], losses
