# SPDX-License-Identifier: Apache-2.0
"""The README keeps its word: its first screen holds the two commands, its code runs, its paths and links exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def _blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


def test_the_first_screen_holds_exactly_two_commands():
    first = _blocks("bash")[0].strip().splitlines()
    assert first == ["pip install -e . && python -m fastreid_ops.train", "pip install -e '.[test]' && pytest"]
    assert README.index(first[1]) < README.index("\n## ")


def test_python_blocks_run(capsys):
    blocks = _blocks("python")
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
    numbers = [float(word) for word in capsys.readouterr().out.split()]
    assert len(numbers) == 2
    assert all(0 <= number <= 1 for number in numbers)


def test_every_verb_named_is_there():
    verbs = set(re.findall(r"python -m fastreid_ops\.(\w+)", README))
    assert {"train", "evaluate", "check_data", "doctor"} <= verbs
    assert all((ROOT / f"fastreid_ops/{verb}.py").is_file() for verb in verbs)


def test_every_recipe_named_is_there():
    names = set(re.findall(r"--config (\w+)", README))
    assert names
    assert all((ROOT / f"fastreid_ops/recipes/{name}.yaml").is_file() for name in names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert "://" in target or (page.parent / target).exists(), target
