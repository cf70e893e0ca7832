# SPDX-License-Identifier: Apache-2.0
"""Weights from elsewhere: read them without running anything, find their places, say what became of every entry.

`read` opens files, `sources` and `places` are tables of names (of other projects' files, of our models), `load` tries
them and copies, `report` and `notes` say what was done and what to know about it.
"""

from fastreid_ops.models.weights.load import load_weights
from fastreid_ops.models.weights.read import read_weights
from fastreid_ops.models.weights.report import LoadReport

__all__ = ["LoadReport", "load_weights", "read_weights"]
