# SPDX-License-Identifier: Apache-2.0
"""AGW for visible and infrared images (Ye et al., "Deep learning for person re-identification: a survey and
outlook", TPAMI 2022): cross entropy and the weighted regularised triplet loss, which has no margin.
"""

from torch import Tensor, nn

from fastreid_ops.engine.methods.context import Context
from fastreid_ops.engine.methods.two_modalities import floats, identity_terms
from fastreid_ops.losses import WeightedRegularizedTripletLoss, mean_over_heads


def losses(context: Context) -> nn.ModuleDict:
    """`id` and `triplet`, those whose weight is above 0. Errors: ConfigError for a network of one modality."""
    legacy = context.config.loss.cross_modal.legacy_weights
    return nn.ModuleDict(
        identity_terms(context, WeightedRegularizedTripletLoss(legacy=legacy, check_inputs=False))
    )


def step(state, batch) -> dict[str, Tensor]:
    """Weighted losses of one batch: `batch.images` (2 N, 3, H, W), the visible half first, `batch.pids` (2 N,)
    int64 class indices.
    """
    output, loss = state.model(batch.images), state.config.loss
    weights = {"id": loss.cross_entropy, "triplet": loss.triplet}
    heads = {"id": output.logits, "triplet": output.features}
    return {
        name: weights[name] * mean_over_heads(criterion, floats(heads[name]), batch.pids)
        for name, criterion in state.criteria.items()
    }
