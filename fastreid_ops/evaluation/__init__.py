# SPDX-License-Identifier: Apache-2.0
"""From distances to figures: protocols as data, CMC, mAP, mINP, ranked lists. Tensors in, numbers out; no
model, no file format but the result's own JSON."""

from fastreid_ops.evaluation.by_protocol import evaluate_protocol
from fastreid_ops.evaluation.columns import Columns
from fastreid_ops.evaluation.draws import Draws, draw
from fastreid_ops.evaluation.ensembles import mean_distances
from fastreid_ops.evaluation.evaluate import Labels, evaluate, evaluate_trials, ranked_lists
from fastreid_ops.evaluation.features import RankedList, evaluate_features, ranked_lists_from_features
from fastreid_ops.evaluation.protocols import FAMILIES, PROTOCOLS, Protocol, protocol, protocols
from fastreid_ops.evaluation.pseudo_labels import PseudoLabels, pseudo_labels, pseudo_labels_from_distances
from fastreid_ops.evaluation.rankings import (
    ranking_from_distances,
    ranking_from_features,
    ranking_from_indices,
    write_ranking,
)
from fastreid_ops.evaluation.result import Result
from fastreid_ops.evaluation.shards import Shard, evaluate_shards
from fastreid_ops.evaluation.tracklets import pool_tracklets
from fastreid_ops.evaluation.trials import Trials
from fastreid_ops.evaluation.verification import Verification, tpr_at_fpr

__all__ = [
    "FAMILIES",
    "PROTOCOLS",
    "Columns",
    "Draws",
    "Labels",
    "Protocol",
    "PseudoLabels",
    "RankedList",
    "Result",
    "Shard",
    "Trials",
    "Verification",
    "draw",
    "evaluate",
    "evaluate_features",
    "evaluate_protocol",
    "evaluate_shards",
    "evaluate_trials",
    "mean_distances",
    "pool_tracklets",
    "protocol",
    "protocols",
    "pseudo_labels",
    "pseudo_labels_from_distances",
    "ranked_lists",
    "ranked_lists_from_features",
    "ranking_from_distances",
    "ranking_from_features",
    "ranking_from_indices",
    "tpr_at_fpr",
    "write_ranking",
]
