# SPDX-License-Identifier: Apache-2.0
"""Write a new op from the template: `python tools/new_op.py NAME [--folder FOLDER]`.

The template (tools/new_op_template) is a small op, rows scaled to length 1, that builds and passes its tests
as it comes out. Replace its arithmetic, keep its shape. Written are the op's own files and one entry each in
CMakeLists.txt, fastreid_ops/__init__.py and tests/ops/specs.py. Either all of it is written or nothing.
"""

from __future__ import annotations

import argparse
import keyword
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = Path(__file__).resolve().parent / "new_op_template"

# Template file -> where it goes. `{name}` is the op and the stem of its files, `{folder}` its folder in csrc.
FILES = {
    "op.h.in": "csrc/{folder}/{name}.h",
    "op_cpu.cpp.in": "csrc/{folder}/{name}_cpu.cpp",
    "op_cuda.cu.in": "csrc/{folder}/{name}_cuda.cu",
    "op_ops.h.in": "csrc/{folder}/{name}_ops.h",
    "op_ops.cpp.in": "csrc/{folder}/{name}_ops.cpp",
    "op_ops_cuda.cpp.in": "csrc/{folder}/{name}_ops_cuda.cpp",
    "test_op.cpp.in": "csrc/tests/test_{name}.cpp",
    "op.py.in": "fastreid_ops/ops/{name}.py",
    "spec_op.py.in": "tests/ops/spec_{name}.py",
    "test_op.py.in": "tests/ops/test_{name}.py",
    "bench_op.py.in": "benchmarks/bench_{name}.py",
}
# Folders of csrc that hold no op, and C++ words that Python does not keep.
TAKEN_FOLDERS = ("common", "python", "tests")
CPP_WORDS = (
    r"alignas|alignof|asm|auto|bool|case|catch|char|class|concept|const|constexpr|default|delete|"
    r"do|double|enum|explicit|export|extern|float|friend|goto|inline|int|long|mutable|namespace|"
    r"new|operator|private|protected|public|register|requires|short|signed|sizeof|static|struct|"
    r"switch|template|this|throw|typedef|typeid|typename|union|unsigned|using|virtual|void|"
    r"volatile|wchar_t|main|fastreid|baseline|avx2|avx512|cuda"
)


class Refused(SystemExit):
    """Nothing has been written; the sentence says why."""

    def __init__(self, sentence: str) -> None:
        super().__init__(f"new_op: {sentence}")


def checked_name(kind: str, name: str) -> str:
    """A snake_case word that can name a C++ function, a Python module and a file."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        raise Refused(
            f"{kind}: got {name!r}, expected snake_case: lower-case letters, digits and single underscores"
        )
    if keyword.iskeyword(name) or keyword.issoftkeyword(name) or re.fullmatch(CPP_WORDS, name):
        raise Refused(f"{kind}: got {name!r}, expected a word that C++ and Python leave free")
    return name


def insert(text: str, pattern: str, line: str, file: str) -> str:
    """`text` with `line` after the last line that matches `pattern`."""
    found = list(re.finditer(rf"^{pattern}.*\n", text, re.MULTILINE))
    if not found:
        raise Refused(f"{file} has no line like {pattern!r} any more: adapt tools/new_op.py")
    at = found[-1].end()
    return text[:at] + line + "\n" + text[at:]


def replace(text: str, pattern: str, new: str, file: str) -> str:
    """`text` with the only match of `pattern` replaced."""
    changed, count = re.subn(pattern, new, text, flags=re.MULTILINE)
    if count != 1:
        raise Refused(f"{file} has {count} places like {pattern!r}, expected one: adapt tools/new_op.py")
    return changed


def edited(root: Path, name: str, folder: str) -> dict[Path, str]:
    """The new texts of the three files that list the ops."""
    cmake, package, specs = (
        root / "CMakeLists.txt",
        root / "fastreid_ops" / "__init__.py",
        root / "tests" / "ops" / "specs.py",
    )
    texts = {file: file.read_text(encoding="utf-8") for file in (cmake, package, specs)}
    texts[cmake] = insert(
        texts[cmake], r"fastreid_op\(\w+ \w+\)", f"fastreid_op({folder} {name})", cmake.name
    )

    text = texts[package]
    imported = f"    from fastreid_ops.ops.{name} import {name}"
    block = re.search(r"^if TYPE_CHECKING:\n(?:    .*\n)+", text, re.MULTILINE)
    if block is None:
        raise Refused(f"{package.name} has no TYPE_CHECKING block any more: adapt tools/new_op.py")
    text = f"{text[: block.end()]}{imported}\n{text[block.end() :]}"
    entry = f'    "{name}": "fastreid_ops.ops.{name}",'
    text = insert(text, r'    "\w+": "fastreid_ops\.ops\.\w+",', entry, package.name)
    public = re.search(r"^__all__ = \[(.*?)\]", text, re.MULTILINE | re.DOTALL)
    if public is None:
        raise Refused(f"{package.name} has no __all__ any more: adapt tools/new_op.py")
    # isort's order, as ruff checks it: CONSTANTS, Classes, the rest.
    names = sorted({*re.findall(r'"(\w+)"', public[1]), name}, key=lambda word: (not word[0].isupper(), word))
    entries = ", ".join(f'"{word}"' for word in names)
    if len(entries) > 95:
        entries = "\n" + "".join(f'    "{word}",\n' for word in names)
    texts[package] = text[: public.start(1)] + entries + text[public.end(1) :]

    text = insert(texts[specs], r"import spec_", f"import spec_{name}", specs.name)
    texts[specs] = replace(text, r"^SPECS = \[(.*)\]$", rf"SPECS = [\1, spec_{name}.SPEC]", specs.name)
    return texts


def rendered(name: str, folder: str) -> dict[str, str]:
    """Path relative to the repository -> text of the new files."""
    words = {
        "@name@": name,
        "@Name@": "".join(part.capitalize() for part in name.split("_")),
        "@folder@": folder,
    }
    files = {}
    for source, target in FILES.items():
        text = (TEMPLATE / source).read_text(encoding="utf-8")
        for mark, word in words.items():
            text = text.replace(mark, word)
        files[target.format(name=name, folder=folder)] = text
    return files


def new_op(root: Path, name: str, folder: str) -> list[str]:
    """Writes the op's files under `root` and returns their paths. Raises Refused, having written nothing."""
    checked_name("NAME", name)
    if checked_name("--folder", folder) in TAKEN_FOLDERS:
        raise Refused(
            f"--folder: got {folder!r}, expected none of {', '.join(TAKEN_FOLDERS)}: those hold no op"
        )
    package = {path.stem for path in (root / "fastreid_ops").iterdir()}
    if name in package:
        raise Refused(f"NAME: got {name!r}, expected a new name: fastreid_ops.{name} is there")
    files = rendered(name, folder)
    existing = [path for path in files if (root / path).exists()]
    if existing:
        raise Refused(f"NAME: got {name!r}, expected a new name: {existing[0]} is there")
    texts = edited(root, name, folder)
    schemas = "".join(file.read_text(encoding="utf-8") for file in sorted(root.glob("csrc/*/*_ops.cpp")))
    registered = re.findall(r'm\.def\(\s*"(\w+)\(', schemas)
    if name in registered or f"{name}_backward" in registered:
        raise Refused(
            f"NAME: got {name!r}, expected a new name: torch.ops.fastreid.{name} is registered already"
        )
    listed = {root / path: text for path, text in files.items()} | texts
    write_all(listed, {file: file.read_text(encoding="utf-8") for file in texts})
    return list(files)


def write_all(files: dict[Path, str], before: dict[Path, str]) -> None:
    """Writes every file, or leaves everything as it was (`before`: the texts of those that were there)."""
    made: list[Path] = []
    folders: set[Path] = set()
    try:
        for file, text in files.items():
            folders.update(folder for folder in file.parents if not folder.exists())
            file.parent.mkdir(parents=True, exist_ok=True)
            beside = file.with_name(file.name + ".new")
            made += [beside, file]
            beside.write_text(text, encoding="utf-8")
            os.replace(beside, file)
    except BaseException:
        for path in made:
            if path in before:
                path.write_text(before[path], encoding="utf-8")
            else:
                path.unlink(missing_ok=True)
        for folder in sorted(folders, key=lambda path: len(path.parts), reverse=True):
            folder.rmdir()
        raise


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="new_op", description=__doc__.splitlines()[0])
    parser.add_argument("name", metavar="NAME", help="snake_case name of the op: its function, its files")
    parser.add_argument(
        "--folder", help="its folder in csrc, NAME unless given; an existing one for a family of ops"
    )
    options = parser.parse_args(arguments)
    for path in new_op(ROOT, options.name, options.folder or options.name):
        print(path)
    print(f"Now: pip install -e . && pytest tests/ops -k {options.name}")


if __name__ == "__main__":
    sys.exit(main())
