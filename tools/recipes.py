# SPDX-License-Identifier: Apache-2.0
"""python tools/recipes.py [RECIPE.yaml ...]: write every option into the recipes that lack it, with its default.

A recipe is complete, so that a reader sees all that a run depends on, and a changed default changes no recipe. After
options were added, this brings all of them (or those named) up to date; the comments on top stay.
"""

import sys
from pathlib import Path

from fastreid_ops.config import from_dict, to_dict
from fastreid_ops.config.read import RECIPES, dump_yaml, read_yaml


def complete(path: Path) -> bool:
    """Rewrite one recipe; True if that changed it. Errors: ConfigError for a key or value it must not have."""
    before = path.read_text(encoding="utf-8")
    head = "".join(line for line in before.splitlines(keepends=True) if line.startswith("#"))
    after = head + dump_yaml(to_dict(from_dict(read_yaml(path), str(path))))
    path.write_text(after, encoding="utf-8")
    return after != before


if __name__ == "__main__":
    for each in map(Path, sys.argv[1:] or sorted(map(str, RECIPES.glob("*.yaml")))):
        if complete(each):
            print(each)
