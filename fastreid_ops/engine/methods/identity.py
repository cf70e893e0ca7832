# SPDX-License-Identifier: Apache-2.0
"""Identity classification with a metric loss: label-smoothed cross entropy on the logits, batch-hard triplet
on the features.

Luo et al., "Bag of Tricks and a Strong Baseline for Deep Person Re-Identification" (2019), equation 3. A
model with several heads gets the mean over its heads, the `DeepSupervision` of the deep-person-reid
repository.
"""

from torch import Tensor, nn

from fastreid_ops.engine.methods.context import Context
from fastreid_ops.losses import BatchHardTripletLoss, LabelSmoothedCrossEntropy, mean_over_heads


def losses(context: Context) -> nn.ModuleDict:
    """The terms of the `loss` section whose weight is above 0.

    Without their input checks, which wait for a GPU on every call: labels come from the label map, batches
    hold several ids, and the loop refuses losses that are not finite with the names of the files.
    """
    config, terms = context.config.loss, {}
    if config.cross_entropy > 0:
        terms["id"] = LabelSmoothedCrossEntropy(config.label_smoothing, check_inputs=False)
    if config.triplet > 0:
        terms["triplet"] = BatchHardTripletLoss(
            "soft" if config.margin is None else config.margin, check_inputs=False
        )
    return nn.ModuleDict(terms)


def step(state, batch) -> dict[str, Tensor]:
    """Weighted losses of one batch: `batch.images` (B, 3, H, W) floating, `batch.pids` (B,) int64 class
    indices.
    """
    output = state.model(batch.images)
    weights = {"id": state.config.loss.cross_entropy, "triplet": state.config.loss.triplet}
    heads = {"id": output.logits, "triplet": output.features}
    return {
        name: weights[name] * mean_over_heads(criterion, [head.float() for head in heads[name]], batch.pids)
        for name, criterion in state.criteria.items()
    }
