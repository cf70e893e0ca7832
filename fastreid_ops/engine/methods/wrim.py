# SPDX-License-Identifier: Apache-2.0
"""WRIM-Net (Wu et al., "WRIM-Net: wide-ranging information mining network for visible-infrared person
re-identification", 2024): identity, triplet and cross-modality key-instance contrastive terms of four heads.

    mean over b1, b11, b12, b2 of cross entropy
    + triplet * mean over b1, b11 | b12 side by side, b2 of the batch-hard triplet loss before the neck
    + cmkic * mean over the four heads of CMKIC on their projections

The paper's abstract and name of the term give the three terms, k = 5 and the sum of both directions. What is
averaged, the weights (1 in the recipes), and the halves b11 and b12 in one triplet term as in fast-reid's MGN
are not fixed by the source.
"""

from torch import Tensor, nn

from fastreid_ops.config import ConfigError
from fastreid_ops.engine.methods.context import Context
from fastreid_ops.engine.methods.two_modalities import floats, halves, identity_terms, margin
from fastreid_ops.losses import BatchHardTripletLoss, CMKICLoss, mean_over_heads


def losses(context: Context) -> nn.ModuleDict:
    """`id`, `triplet` and `cmkic`, those whose weight is above 0.

    Errors: ConfigError for a network of one modality, and for `cmkic` with one that has no projections.
    """
    config = context.config.loss.cross_modal
    terms = identity_terms(context, BatchHardTripletLoss(margin(context), check_inputs=False))
    if config.cmkic > 0:
        if not any(name.endswith("con_head") for name, _ in context.model.named_modules()):
            raise ConfigError(
                f"loss.cross_modal.cmkic: got {config.cmkic} for model {context.config.model.name}, expected 0, "
                "or a network with projections (mdinet)"
            )
        terms["cmkic"] = CMKICLoss(
            config.cmkic_k,
            temperature=config.temperature,
            other_positives=config.other_positives,
            check_inputs=False,
        )
    return nn.ModuleDict(terms)


def step(state, batch) -> dict[str, Tensor]:
    """Weighted losses of one batch: `batch.images` (2 N, 3, H, W), the visible half first, `batch.pids` (2 N,)
    int64 class indices.
    """
    output, loss, found = state.model(batch.images), state.config.loss, {}
    for name, criterion in state.criteria.items():
        if name == "id":
            found[name] = loss.cross_entropy * mean_over_heads(criterion, floats(output.logits), batch.pids)
        elif name == "triplet":
            found[name] = loss.triplet * mean_over_heads(criterion, floats(output.features), batch.pids)
        else:
            projections = [v for key, v in output.auxiliary.items() if key.startswith("projection_")]
            visible, infrared = halves(batch.pids)
            terms = [criterion(*halves(p.float()), visible, infrared) for p in projections]
            found[name] = loss.cross_modal.cmkic * sum(terms) / len(terms)
    return found
