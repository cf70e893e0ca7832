# SPDX-License-Identifier: Apache-2.0
"""The cloth-changing system of HuangYin0514/cloth_changing_person_ReID.

A classifier of clothes finds where in the feature map an image's clothes are; a second branch sees the map without
them and teaches the first. With g the global branch and u the one without clothes (`models.cloth_changing`):

    id + triplet                                  of g
    clothes                                       cross entropy of the classifier, which steps before it is used
    correction                                    smoothed cross entropy over the clothes on the map of clothes
    unclothed_id + unclothed_triplet              of u
    distillation                                  KL(softmax(u / T) || softmax(g / T)), a gradient into u as well

From `loss.clothes.from_epoch` on; before it only the first line. The original's run 208 meant such a beginning but
compared the number of the batch instead of the epoch's.
"""

from torch import Tensor, nn

from fastreid_ops.config import ConfigError
from fastreid_ops.engine.methods import clothes, identity
from fastreid_ops.engine.methods.clothes import CLASSIFIER
from fastreid_ops.engine.methods.context import Context
from fastreid_ops.losses import ClothesCrossEntropy, KnowledgeDistillationLoss
from fastreid_ops.models.cloth_changing import ClothChangingNet, ClothesClassifier


def losses(context: Context) -> nn.ModuleDict:
    """The terms whose weight is above 0, and the clothes classifier.

    Errors: ConfigError for another network or one without its second branch, a data set without clothes, or a
    classifier without an optimizer of its own.
    """
    model, config = context.model, context.config.loss
    if not (
        isinstance(model, ClothChangingNet) and model.clothes_branch and model.clothes_classifier is None
    ):
        raise ConfigError(
            f"model: got {context.config.model.name} with {context.config.model.options}, expected cc_resnet50 or "
            "cc_resnet50_ibn_a with their clothes_branch and without num_clothes (the classifier is the method's) for "
            "train.method cloth_changing"
        )
    count = max(clothes.clothes_labels(context)) + 1
    clothes.check_own_optimizer(context)
    terms = identity.losses(context)
    terms[CLASSIFIER] = ClothesClassifier(count, model.feature_dim)
    terms["clothes"] = nn.CrossEntropyLoss(label_smoothing=config.clothes.classifier_smoothing)
    if config.clothes.correction > 0:
        terms["correction"] = ClothesCrossEntropy(
            count, config.label_smoothing, smoothing=config.smoothing, check_inputs=False
        )
    if config.clothes.distillation > 0:
        terms["distillation"] = KnowledgeDistillationLoss(
            config.clothes.temperature, detach_teacher=config.clothes.detach_teacher
        )
    return terms


def step(state, batch) -> dict[str, Tensor]:
    """Weighted losses of one batch with `images`, `pids` and `clothes`; `clothes` among them is detached, its step is
    done.
    """
    config, terms = state.config.loss, state.criteria
    weights = {"id": config.cross_entropy, "triplet": config.triplet}
    if state.epoch < config.clothes.from_epoch:
        output = state.model(batch.images)
        return _branch(terms, weights, output, 0, batch.pids)

    found = {}

    def train_classifier(feature_map: Tensor) -> None:
        found["clothes"] = clothes.train_alone(
            state, terms[CLASSIFIER], feature_map, lambda logits: terms["clothes"](logits, batch.clothes)
        )

    output = state.model(batch.images, batch.clothes, terms[CLASSIFIER], train_classifier)
    found |= _branch(terms, weights, output, 0, batch.pids)
    if "correction" in terms:
        logits = output.auxiliary["correction_logits"].float()
        found["correction"] = config.clothes.correction * terms["correction"](logits, batch.clothes)
    if config.clothes.unclothed > 0:
        weights = {name: config.clothes.unclothed * weight for name, weight in weights.items()}
        second = _branch(terms, weights, output, 1, batch.pids)
        found |= {f"unclothed_{name}": value for name, value in second.items()}
    if "distillation" in terms:
        student, teacher = (logits.float() for logits in output.logits)
        found["distillation"] = config.clothes.distillation * terms["distillation"](student, teacher)
    return found


def _branch(terms, weights: dict[str, float], output, branch: int, pids: Tensor) -> dict[str, Tensor]:
    heads = {"id": output.logits[branch].float(), "triplet": output.features[branch].float()}
    return {
        name: weight * terms[name](heads[name], pids) for name, weight in weights.items() if name in terms
    }
