# SPDX-License-Identifier: Apache-2.0
"""From distances to figures: protocols as data, CMC, mAP, mINP, ranked lists. Tensors in, numbers out; no
model, no file format but the result's own JSON."""

from fastreid_ops.evaluation.evaluate import Labels, evaluate, ranked_lists
from fastreid_ops.evaluation.protocols import PROTOCOLS, Protocol, protocol
from fastreid_ops.evaluation.result import Result

__all__ = ["PROTOCOLS", "Labels", "Protocol", "Result", "evaluate", "protocol", "ranked_lists"]
