# SPDX-License-Identifier: Apache-2.0
"""The training of NAIC_ReID (github.com/ly-wenli/NAIC_ReID, NAIC 2020) for the networks `naic_*`.

Cross entropy on a linear classifier or a margin head behind the neck, a triplet loss on the pooled feature before it,
where asked for a centre loss on the same feature, and the seven classifiers of a part-based head where the network has
one:

    cross_entropy * id + triplet * triplet + naic.center * center + naic.part * mean(parts) + naic.merge * merge

The original multiplies the gradient of the centres by 1 / weight before a step of their own optimiser. Here it is
done where the gradient comes in, so that `optim.groups` can give the centres ("criteria.center.*") the original's plain
SGD of rate 0.5; with mixed precision the scaler takes its scale out of it, which the original forgot.
"""

from torch import Tensor, nn

from fastreid_ops.config import ConfigError
from fastreid_ops.engine.methods.context import Context
from fastreid_ops.losses import (
    AMSoftmaxHead,
    ArcFaceHead,
    BatchHardTripletLoss,
    CenterLoss,
    CircleHead,
    CosFaceHead,
    LabelSmoothedCrossEntropy,
    PartLoss,
    WeightedTripletLoss,
)
from fastreid_ops.models.naic import NAICNet

HEADS = {"arcface": ArcFaceHead, "cosface": CosFaceHead, "amsoftmax": AMSoftmaxHead, "circle": CircleHead}
MINING = {"weighted": WeightedTripletLoss, "hard": BatchHardTripletLoss}


def losses(context: Context) -> nn.ModuleDict:
    """The terms whose weight is above 0, without input checks (see `identity.losses`), and the margin head.

    Errors: ConfigError for another network, or one whose classifier is not what `loss.naic.head` needs.
    """
    config, model, classes = context.config.loss, context.model, context.num_classes
    own = config.naic
    _check_network(context)
    width = model.piece_dims[0]
    terms: dict[str, nn.Module] = {}
    if config.cross_entropy > 0:
        terms["id"] = LabelSmoothedCrossEntropy(
            config.label_smoothing, smoothing=config.smoothing, check_inputs=False
        )
        if own.head != "linear":
            terms["head"] = HEADS[own.head](
                width, classes, scale=own.scale, margin=own.margin, check_inputs=False
            )
    if config.triplet > 0:
        margin = "soft" if config.margin is None else config.margin
        terms["triplet"] = MINING[own.mining](margin, check_inputs=False)
    if own.center > 0:
        terms["center"] = CenterLoss(classes, width, check_inputs=False)
        terms["center"].centers.register_hook(lambda gradient: gradient * (1 / own.center))
    if model.pcb is not None and (own.part > 0 or own.merge > 0):
        plain = LabelSmoothedCrossEntropy(0.0, check_inputs=False)
        terms["parts"] = PartLoss(plain, part_weight=own.part, merge_weight=own.merge)
    return nn.ModuleDict(terms)


def _check_network(context: Context) -> None:
    model, head = context.model, context.config.loss.naic.head
    if not isinstance(model, NAICNet):
        raise ConfigError(
            f"model.name: got {context.config.model.name}, expected one of the networks naic_* for train.method naic"
        )
    wanted = "linear" if head == "linear" else "none"
    if (model.classifier is None) != (wanted == "none"):
        got = "none" if model.classifier is None else "linear"
        raise ConfigError(
            f"model.options.classifier: got {got}, expected {wanted} with loss.naic.head {head}"
        )


def step(state, batch) -> dict[str, Tensor]:
    """Weighted losses of one batch: `batch.images` (B, 3, H, W) floating, `batch.pids` (B,) int64 class
    indices.
    """
    config, terms, pids = state.config.loss, state.criteria, batch.pids
    output = state.model(batch.images)
    feature, auxiliary = output.features[0].float(), output.auxiliary
    found = {}
    if "id" in terms:
        logits = terms["head"](auxiliary["neck"], pids) if "head" in terms else output.logits[0]
        found["id"] = config.cross_entropy * terms["id"](logits.float(), pids)
    if "triplet" in terms:
        found["triplet"] = config.triplet * terms["triplet"](feature, pids)
    if "center" in terms:
        found["center"] = config.naic.center * terms["center"](feature, pids)
    if "parts" in terms:
        parts = [auxiliary[f"part_logits_{i}"].float() for i in range(len(output.parts))]
        merge = auxiliary.get("merge_logits")
        found["parts"] = terms["parts"](parts, pids, None if merge is None else merge.float())
    return found
