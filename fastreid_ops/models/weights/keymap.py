# SPDX-License-Identifier: Apache-2.0
"""A table of name patterns."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

# A pattern for the whole name, and what it becomes: one or more templates with its groups as \1, \2 ...
Rule = tuple[str, ...]
Table = tuple[Rule, ...]

_compiled = cache(re.compile)


@dataclass(frozen=True)
class KeyMap:
    r"""Renames entries of a state dict.

    Attributes:
        name: for the report.
        tables: applied one after the other; within a table the first rule whose pattern is the whole name counts, and
            a name that none knows stays.
        mark: a pattern at the start of some name without which the map is not for a file or model; empty for any.
    """

    name: str
    tables: tuple[Table, ...] = ()
    mark: str = ""

    def is_for(self, names: list[str]) -> bool:
        """Whether one of the names bears the mark."""
        mark = _compiled(self.mark)
        return any(mark.match(name) for name in names)

    def apply(self, name: str) -> tuple[str, ...]:
        """The new name, or several."""
        names = (name,)
        for table in self.tables:
            names = tuple(new for old in names for new in _rename(table, old))
        return names


def _rename(table: Table, name: str) -> tuple[str, ...]:
    for pattern, *templates in table:
        match = _compiled(pattern).fullmatch(name)
        if match:
            return tuple(match.expand(template) for template in templates)
    return (name,)
