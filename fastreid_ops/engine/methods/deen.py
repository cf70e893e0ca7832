# SPDX-License-Identifier: Apache-2.0
"""DEEN (Zhang and Wang, "Diverse embedding expansion network and low-light cross-modality benchmark for
visible-infrared person re-identification", CVPR 2023), and EmbedNet, the same around a vision transformer.

DEEN has three rows of each image, f1 its own, f2 and f3 generated, and its public code adds

    cross entropy and batch-hard triplet of all 3 T rows + cpm * (CPM(f1, f2) + CPM(f1, f3))
    + orthogonality * <f2, f3>

with weights 1, 1, 0.8 and 0.01 (the paper prints 0.1 for the last). Which rows EmbedNet has depends on its
`dee`, and so do the terms:

    expand                id, triplet, cpm, orthogonality: DEEN's
    fuse                  id, triplet: one tensor leaves the expansion, nothing is there to compare
    tmhee, cmatm          id, triplet, branch_orthogonality: cosines between the branches
    ssdec                 the same and contrastive, between the visible and the infrared features

The weights of the last two terms and that the contrast sees the pooled features are not fixed by the source.
"""

import torch
from torch import Tensor, nn

from fastreid_ops.engine.methods.context import Context
from fastreid_ops.engine.methods.two_modalities import floats, halves, identity_terms, margin
from fastreid_ops.losses import (
    BatchHardTripletLoss,
    CPMLoss,
    CrossModalContrastiveLoss,
    OrthogonalityLoss,
)

WITH_BRANCHES = ("tmhee", "cmatm", "ssdec")


def losses(context: Context) -> nn.ModuleDict:
    """The terms above that the network has rows for, those whose weight is above 0.

    Errors: ConfigError for a network of one modality.
    """
    config = context.config.loss.cross_modal
    terms = identity_terms(context, BatchHardTripletLoss(margin(context), check_inputs=False))
    expansion = context.config.model.options.get("dee", "expand")
    if getattr(context.model, "groups", 1) == 3:
        if config.cpm > 0:
            terms["cpm"] = CPMLoss(config.cpm_margin, form=config.cpm_form, check_inputs=False)
        if config.orthogonality > 0:
            terms["orthogonality"] = OrthogonalityLoss(config.orthogonality_form)
    if expansion in WITH_BRANCHES and config.branch_orthogonality > 0:
        terms["branch_orthogonality"] = OrthogonalityLoss("cosine")
    if expansion == "ssdec" and config.contrastive > 0:
        terms["contrastive"] = CrossModalContrastiveLoss(config.temperature, check_inputs=False)
    return nn.ModuleDict(terms)


def step(state, batch) -> dict[str, Tensor]:
    """Weighted losses of one batch: `batch.images` (2 N, 3, H, W), the visible half first, `batch.pids` (2 N,)
    int64 class indices.
    """
    output, loss, pids = state.model(batch.images), state.config.loss, batch.pids
    features = floats(output.features)
    labels = pids.repeat(len(features))
    weights = {"id": loss.cross_entropy, "triplet": loss.triplet, **vars(loss.cross_modal)}
    values = {
        "id": lambda term: term(torch.cat(floats(output.logits)), labels),
        "triplet": lambda term: term(torch.cat(features), labels),
        "cpm": lambda term: sum(term(features[0], generated, pids) for generated in features[1:]),
        "orthogonality": lambda term: term(features[1:]),
        "branch_orthogonality": lambda term: term(output.auxiliary["branches"].float().unbind()),
        "contrastive": lambda term: term(*halves(features[0]), *halves(pids)),
    }
    return {name: weights[name] * values[name](term) for name, term in state.criteria.items()}
