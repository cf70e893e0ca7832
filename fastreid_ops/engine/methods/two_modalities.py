# SPDX-License-Identifier: Apache-2.0
"""What the methods for visible and infrared images share.

Their batches are the paired sampler's: the visible half first, then the infrared one, the same people in the
same places. A network of two modalities takes such a batch as `mode` 0, its default.
"""

from torch import Tensor, nn

from fastreid_ops.config import ConfigError
from fastreid_ops.engine.extract import takes_mode
from fastreid_ops.engine.methods.context import Context
from fastreid_ops.losses import LabelSmoothedCrossEntropy


def identity_terms(context: Context, triplet: nn.Module) -> dict[str, nn.Module]:
    """The cross entropy and the metric loss where their weights are above 0, after a look at the network.

    Errors: ConfigError for a network of one modality.
    """
    config = context.config
    if not takes_mode(context.model):
        raise ConfigError(
            f"model.name: got {config.model.name}, expected a network of two modalities (agw, deen_sysu, "
            f"deen_llcm, deen_regdb, embednet, mdinet) for train.method {config.train.method}"
        )
    loss, terms = config.loss, {}
    if loss.cross_entropy > 0:
        terms["id"] = LabelSmoothedCrossEntropy(
            loss.label_smoothing, smoothing=loss.smoothing, check_inputs=False
        )
    if loss.triplet > 0:
        terms["triplet"] = triplet
    return terms


def margin(context: Context) -> float | str:
    """The margin of a triplet loss as the losses take it."""
    found = context.config.loss.margin
    return "soft" if found is None else found


def halves(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The visible and the infrared rows of (2 N, ...)."""
    visible, infrared = rows.chunk(2)
    return visible, infrared


def floats(heads) -> list[Tensor]:
    """Tensors of a network in float32, whatever mixed precision made of them."""
    return [head.float() for head in heads]
