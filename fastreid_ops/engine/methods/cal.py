# SPDX-License-Identifier: Apache-2.0
"""Clothes-based adversarial learning: Gu et al., "Clothes-changing person re-identification with RGB modality only",
CVPR 2022, in the order of its released code.

A cosine classifier of clothes steps first, on features without gradient; the network then makes all outfits of a
person as likely to it as the one worn:

    id                       smoothed cross entropy, from the first epoch on
    pairs                    a pairwise loss, where loss.triplet is above 0
    clothes                  scaled cross entropy of the classifier, from `loss.clothes.from_epoch` on
    adversarial              ClothesAdversarialLoss, from the same epoch on

With `loss.clothes.memory` the classifier is a bank of the last features of each outfit, which needs no step.
"""

import torch
from torch import Tensor, nn

from fastreid_ops.config import ConfigError
from fastreid_ops.data import columns
from fastreid_ops.engine.methods import clothes
from fastreid_ops.engine.methods.clothes import CLASSIFIER
from fastreid_ops.engine.methods.context import Context
from fastreid_ops.engine.ranks import rows_of_ranks
from fastreid_ops.losses import (
    BatchHardTripletLoss,
    ClothesAdversarialLoss,
    ClothesAdversarialMemoryLoss,
    ContrastiveLoss,
    CosineClassificationLoss,
    LabelSmoothedCrossEntropy,
    PairwiseCircleLoss,
    PairwiseCosFaceLoss,
)
from fastreid_ops.models.cal import CosineClassifier
from fastreid_ops.models.classifier import as_fixed

PAIRS = {"cosface": PairwiseCosFaceLoss, "circle": PairwiseCircleLoss, "contrastive": ContrastiveLoss}


class Outfits(nn.Module):
    """Whose clothes are whose: pids (B,) -> (B, outfits) bool. Follows from the data, so it is not saved."""

    def __init__(self, of_ids: Tensor) -> None:
        super().__init__()
        self.register_buffer("of_ids", of_ids, persistent=False)

    def forward(self, pids: Tensor) -> Tensor:
        return self.of_ids[pids]


def losses(context: Context) -> nn.ModuleDict:
    """The terms whose weight is above 0, and the clothes classifier or the bank.

    Errors: ConfigError for a network without `feature_dim`, a data set without clothes, or a classifier without an
    optimizer of its own.
    """
    config = context.config.loss
    width = getattr(context.model, "feature_dim", None)
    if width is None:
        raise ConfigError(
            f"model.name: got {context.config.model.name}, expected a network that knows its feature_dim for "
            "train.method cal"
        )
    terms = nn.ModuleDict()
    if config.cross_entropy > 0:
        terms["id"] = LabelSmoothedCrossEntropy(
            config.label_smoothing, smoothing=config.smoothing, check_inputs=False
        )
    if config.triplet > 0:
        terms["pairs"] = _pairs(config)
    if config.clothes.adversarial > 0:
        labels = clothes.clothes_labels(context)
        count, options = max(labels) + 1, {"scale": config.clothes.scale, "epsilon": config.clothes.epsilon}
        rows = context.training.labels(context.training.label_map())
        terms["outfits"] = Outfits(torch.from_numpy(columns.clothes_of_ids(rows, labels)))
        if config.clothes.memory:
            terms["adversarial"] = ClothesAdversarialMemoryLoss(
                count, width, momentum=config.clothes.momentum, check_inputs=False, **options
            )
        else:
            clothes.check_own_optimizer(context)
            terms[CLASSIFIER] = CosineClassifier(width, count)
            terms["clothes"] = CosineClassificationLoss(
                "cosface", scale=config.clothes.scale, margin=0.0, check_inputs=False
            )
            terms["adversarial"] = ClothesAdversarialLoss(check_inputs=False, **options)
    return terms


def _pairs(config) -> nn.Module:
    if config.clothes.pairs == "triplet":
        margin = "soft" if config.margin is None else config.margin
        return BatchHardTripletLoss(margin, metric="cosine", check_inputs=False)
    return PAIRS[config.clothes.pairs](check_inputs=False)


def step(state, batch) -> dict[str, Tensor]:
    """Weighted losses of one batch with `images`, `pids` and `clothes`; `clothes` among them is detached, its step is
    done.
    """
    config, terms = state.config.loss, state.criteria
    output = state.model(batch.images)
    feature = output.features[0].float()
    found = {}
    if "id" in terms:
        found["id"] = config.cross_entropy * terms["id"](output.logits[0].float(), batch.pids)
    if "pairs" in terms:
        found["pairs"] = config.triplet * terms["pairs"](feature, batch.pids)
    if "adversarial" in terms and state.epoch >= config.clothes.from_epoch:
        positives = terms["outfits"](batch.pids)
        if config.clothes.memory:
            # Of several processes each has a part of the batch; the bank of all takes in the whole of it.
            terms["adversarial"].remember(rows_of_ranks(feature), rows_of_ranks(batch.clothes))
            value = terms["adversarial"](feature, batch.clothes, positives, remember=False)
        else:
            found["clothes"] = clothes.train_alone(
                state,
                terms[CLASSIFIER],
                feature.detach(),
                lambda cosine: terms["clothes"](cosine, batch.clothes),
            )
            with torch.autocast(feature.device.type, enabled=False):
                value = terms["adversarial"](as_fixed(terms[CLASSIFIER], feature), batch.clothes, positives)
        found["adversarial"] = config.clothes.adversarial * value
    return found
