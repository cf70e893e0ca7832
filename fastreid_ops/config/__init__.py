# SPDX-License-Identifier: Apache-2.0
"""The configuration of a run: schema.py (every option), values.py (plain values), check.py, read.py (recipes,
command line).
"""

from fastreid_ops.config.check import validate
from fastreid_ops.config.schema import Config, EvalSet
from fastreid_ops.config.values import ConfigError, difference, digest, flatten, from_dict, to_dict

__all__ = [
    "Config",
    "ConfigError",
    "EvalSet",
    "difference",
    "digest",
    "flatten",
    "from_dict",
    "to_dict",
    "validate",
]
