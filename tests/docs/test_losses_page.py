# SPDX-License-Identifier: Apache-2.0
"""docs/losses.md has one row for every loss, and the defaults in it are those of the code."""

import inspect
import re
from pathlib import Path

import pytest

from fastreid_ops import losses

PAGE = (Path(__file__).resolve().parents[2] / "docs/losses.md").read_text(encoding="utf-8")
ROWS = {name: row for row, name in re.findall(r"^(\| `(\w+)` \|.*)$", PAGE, flags=re.MULTILINE)}
BOLD = {name: " ; ".join(re.findall(r"\*\*(.*?)\*\*", row)) for name, row in ROWS.items()}  # the defaults


def test_every_loss_has_a_row():
    assert set(ROWS) == set(losses.__all__) - {"ENSEMBLE_SCALES"}
    assert all(row.count(" | ") == 4 for row in ROWS.values())


@pytest.mark.parametrize(
    ("name", "defaults"),
    [
        (name, {"scale": s, "margin": m})
        for name in ROWS
        for s, m in re.findall(r"\bs = ([\d.]+), m = ([\d.]+)", BOLD[name])
    ]
    + [
        (name, {argument: value})
        for name, argument, word in (
            ("LabelSmoothedCrossEntropy", "epsilon", "eps"),
            ("ClothesAdversarialLoss", "epsilon", "eps ="),
            ("CenterOptimizer", "lr", "lr"),
            ("KnowledgeDistillationLoss", "temperature", "T ="),
            ("CMKICLoss", "k", "k ="),
            ("CMKICLoss", "temperature", "tau ="),
        )
        for value in re.findall(rf"\b{word} ([\d.]*\d)", BOLD[name])
    ],
)
def test_defaults_are_those_of_the_code(name, defaults):
    signature = inspect.signature(getattr(losses, name))
    for argument, value in defaults.items():
        assert signature.parameters[argument].default == float(value)
