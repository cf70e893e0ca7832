# SPDX-License-Identifier: Apache-2.0
"""Refuse patterns that this project does not allow, file by file: `python tools/check_patterns.py FILE...`.

Each rule names the folders it guards and says in its message what to write instead. Exit status 1 if anything is found.
"""

import re
import sys
from pathlib import Path
from typing import NamedTuple

SOURCE = r"\.(py|pyx|cpp|cu|cuh|h|inl|sh)$"


class Rule(NamedTuple):
    """One forbidden pattern: `files` is matched against the path, `pattern` against each line."""

    files: str
    pattern: str
    instead: str


RULES = (
    Rule(
        r"^fastreid_ops/.*\.pyx?$",
        r"\bexcept( Exception| BaseException)?\s*:",
        "name the exception that is expected",
    ),
    Rule(
        r"^fastreid_ops/.*\.py$",
        r"^\s*assert\b",
        "raise ValueError or TypeError: python -O removes assertions",
    ),
    Rule(
        r"^fastreid_ops/.*\.py$",
        r"\bimport pickle\b|\bpickle\.",
        "checkpoints hold tensors and plain types only",
    ),
    Rule(r"^(fastreid_ops|tools)/.*\.py$", r"(?<![.\w])(eval|exec)\(", "no code is run from text"),
    Rule(r"\.py$", r"yaml\.load\(", "yaml.safe_load"),
    Rule(r"\.py$", r"weights_only\s*=\s*False", "weights_only=True"),
    Rule(
        r"^fastreid_ops/(?!models/backbones/timm\.py$).*\.py$",
        r"\bimport (torchvision|timm)\b|\bfrom (torchvision|timm)\b",
        "the lazy bridge, models/backbones/timm.py",
    ),
    Rule(
        r"^(fastreid_ops|csrc|tools|benchmarks)/.*" + SOURCE,
        r"\b(TODO|FIXME|XXX)\b",
        "finish it or open an issue",
    ),
    Rule(r"^csrc/.*\.(cu|cuh)$", r"<<<", "fastreid::launch of csrc/common/launch.cuh"),
    Rule(
        r"^(csrc|tools/new_op_template)/",
        r"\bSTABLE_TORCH_ERROR_CODE_CHECK\b",
        "TORCH_ERROR_CODE_CHECK: torch 2.11, the oldest that is supported, has no other",
    ),
    Rule(
        r"^csrc/.*" + SOURCE,
        r"#\s*pragma\s+omp|<omp\.h>",
        "torch::stable::parallel_for: one thread pool in the process",
    ),
)


def problems(path: str, text: str) -> list[str]:
    """The broken rules of one file as `path:line: ...` messages; `path` is relative to the repository root."""
    found = []
    rules = [(rule, re.compile(rule.pattern)) for rule in RULES if re.search(rule.files, path)]
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        for rule, pattern in rules:
            if pattern.search(line):
                found.append(f"{path}:{number}: {line.strip()!r} is not allowed; instead: {rule.instead}")
    if re.search(SOURCE, path) and "SPDX-License-Identifier" not in "\n".join(lines[:3]):
        found.append(
            f"{path}:1: no licence line; instead: SPDX-License-Identifier: Apache-2.0 in the first three lines"
        )
    return found


def main(arguments: list[str]) -> int:
    """Check the named files; a file that is not UTF-8 text is passed over."""
    here = Path(__file__).resolve()
    root = here.parent.parent
    found = []
    for name in arguments:
        file = Path(name).resolve()
        if file == here or not file.is_file():
            continue
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += problems(file.relative_to(root).as_posix(), text)
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
