# SPDX-License-Identifier: Apache-2.0
"""Model and losses together in true training mode, against one recorded step of deep-person-reid."""

from __future__ import annotations

import pytest
import torch

from fastreid_ops.losses import BatchHardTripletLoss, LabelSmoothedCrossEntropy, mean_over_heads
from fastreid_ops.models import create_model


@pytest.mark.parametrize("name", ["osnet_x0_25", "hacnn"])
def test_golden(golden, name):
    want = golden.read(f"trainstep_{name}")
    meta = want["meta"]
    model = golden.fill(create_model(name, meta["num_classes"]), meta["gain"]).train()
    labels = torch.tensor(meta["labels"])
    output = model(golden.images(meta["batch"], *meta["size"]))
    assert golden.relative(torch.stack(output.logits).detach(), want["logits"]) < 1e-4
    identity = mean_over_heads(LabelSmoothedCrossEntropy(0.1), output.logits, labels)
    triplet = mean_over_heads(BatchHardTripletLoss(0.3), output.features, labels)
    assert golden.relative(identity.detach(), want["loss_x"]) < 1e-4
    assert golden.relative(triplet.detach(), want["loss_t"]) < 1e-4
    state = model.state_dict()
    assert golden.relative(state[meta["bn_first"]], want["bn_first"]) < 1e-4
    assert golden.relative(state[meta["bn_last"]], want["bn_last"]) < 1e-4


def test_heads_are_averaged():
    loss = LabelSmoothedCrossEntropy(0.0)
    heads = (torch.zeros(2, 4), torch.tensor([[9.0, 0, 0, 0], [0, 9.0, 0, 0]]))
    labels = torch.tensor([0, 1])
    want = (loss(heads[0], labels) + loss(heads[1], labels)) / 2
    torch.testing.assert_close(mean_over_heads(loss, heads, labels), want)
    with pytest.raises(ValueError, match="mean_over_heads: heads: got none"):
        mean_over_heads(loss, (), labels)
