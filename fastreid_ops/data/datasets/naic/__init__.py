# SPDX-License-Identifier: Apache-2.0
"""NAIC 2019 and 2020, the person re-identification competitions: training lists of four rounds, unlabelled pictures,
and a test set in two lighting halves whose identities are not published.

An identity is the round's name and the label within it, so that label 7 of two rounds is two people. The order of the
classes is that of the names as text. Identities with fewer than two pictures are dropped, after duplicates are.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from fastreid_ops.data.checks import Finding, finding
from fastreid_ops.data.datasets._layout import Row, Tree, choice, find_root
from fastreid_ops.data.datasets.naic.equal_files import equal_files
from fastreid_ops.data.datasets.naic.lighting import HALVES, halves
from fastreid_ops.data.datasets.naic.lists import SOURCES, Picture, read_names, read_source
from fastreid_ops.data.manifest import Manifest, ManifestError

__all__ = ["HALVES", "PUBLISHED", "SOURCES", "equal_files", "halves", "missing_lists", "read", "scan"]

NAME = "naic"
LAYOUTS = ("MyDataSet", "naic", "NAIC", ".")
DEFAULT = ("2020_preliminary", "2020_final", "2019_preliminary", "2019_final")
# Where test sets lie: folder, and what follows "query" and "gallery" in its names.
TESTS = (("image_B_v1_1", ""), ("test", "_a"))
EXPECTED = "list lines like 'NAME.png:LABEL' or 'train/NAME.png LABEL'"
UNKNOWN = "unknown"
# No counts of these lists are published beside some 880,000 pictures in all.
PUBLISHED: dict[str, dict[str, int]] = {}


def read(
    root: str | os.PathLike[str],
    *,
    sources: Sequence[str] | None = None,
    unlabelled: bool = False,
    duplicates: str = "listed",
    test: str | None = None,
    half: str = "both",
    lists: str | os.PathLike[str] | None = None,
) -> Manifest:
    """Read NAIC from `root`/MyDataSet or `root` itself.

    Args:
        sources: names of `SOURCES` in reading order; None: of the four labelled rounds those whose folder is there,
            otherwise "single", the one folder train/ of other copies.
        unlabelled: the unlabelled pictures with their pseudo-identities as well.
        duplicates: "listed" takes the lists from which duplicates are removed already (new_*.txt) where they are, and
            leaves out what cs_2020equal_path.txt names where they are not; "sha256" compares all listed files and
            keeps the first of equal ones in the order 2020 final, 2020 preliminary, 2019 final, 2019 preliminary
            (every file is read once: minutes); "keep" leaves out nothing. Both take the list before the removal.
        test: folder of the test set, with ":_a" behind it for query_a and gallery_a; None: image_B_v1_1 or test:_a
            where they are, else no query and no gallery.
        half: "green", "normal" or "both", by the lists query_green.txt and so on. Each half is ranked on its own; with
            "both" the column modality holds the half of test rows and "unsorted" in training rows.
        lists: folder of these lists; None: the test set's own. `halves` makes them.

    Returns:
        camera 0 everywhere; identity "unknown" in query and gallery.

    Raises:
        ManifestError: when no layout fits, a list is missing or a line is of another form, a picture is listed twice,
            or a listed file is missing.
    """
    tree = scan(
        root,
        sources=sources,
        unlabelled=unlabelled,
        duplicates=duplicates,
        test=test,
        half=half,
        lists=lists,
    )
    return tree.checked({"train", *(row.split for row in tree.rows)})


def scan(
    root: str | os.PathLike[str],
    *,
    sources: Sequence[str] | None = None,
    unlabelled: bool = False,
    duplicates: str = "listed",
    test: str | None = None,
    half: str = "both",
    lists: str | os.PathLike[str] | None = None,
) -> Tree:
    """Everything the lists name and what is wrong with it; arguments as `read`."""
    choice(NAME, "duplicates", duplicates, ("listed", "sha256", "keep"))
    choice(NAME, "half", half, ("both", *HALVES))
    folder = _home(root, sources)
    tree = Tree(NAME, folder, EXPECTED)
    if sources is None:
        sources = [name for name in DEFAULT if (folder / SOURCES[name].folder).is_dir()] or ["single"]
    names = [*sources, *(["unlabelled"] if unlabelled and "unlabelled" not in sources else [])]
    pictures = [
        picture for name in names for picture in read_source(tree, name, cleaned=duplicates == "listed")
    ]
    if duplicates == "sha256":
        pictures = _without_duplicates(tree, pictures)
    wanted = _test_rows(tree, test, half, Path(lists) if lists is not None else None)
    marked = half == "both" and bool(wanted)
    tree.rows = [*_train_rows(tree, pictures, "unsorted" if marked else None), *wanted]
    return tree


def missing_lists(
    root: str | os.PathLike[str],
    *,
    sources: Sequence[str] | None = None,
    test: str | None = None,
    half: str = "both",
    lists: str | os.PathLike[str] | None = None,
) -> dict[Path, tuple[Path, str]]:
    """The lists of the test set's halves that `read` with these arguments asks for and that are not there:
    file -> (folder of the pictures that are to be sorted, half). Empty where there is no test set.

    Raises:
        ManifestError: when no layout fits.
    """
    choice(NAME, "half", half, ("both", *HALVES))
    folder = _home(root, sources)
    found = _test_folder(folder, test)
    if found is None:
        return {}
    home, suffix = found
    place = folder / home if lists is None else Path(lists)
    wanted = {
        place / f"{split}{suffix}_{kind}.txt": (folder / home / f"{split}{suffix}", kind)
        for split in ("query", "gallery")
        for kind in (HALVES if half == "both" else (half,))
    }
    return {file: value for file, value in wanted.items() if not file.is_file()}


def _home(root: str | os.PathLike[str], sources: Sequence[str] | None) -> Path:
    """The folder that the rounds lie in."""
    for source in sources or ():
        choice(NAME, "sources", source, list(SOURCES))
    folders = tuple(source.folder for source in SOURCES.values())
    return find_root(NAME, root, LAYOUTS, [SOURCES[name].folder for name in sources or ()] or [folders])


def _train_rows(tree: Tree, pictures: list[Picture], modality: str | None) -> list[Row]:
    """Rows grouped by identity, in the order in which the identities are first read."""
    people: dict[str, list[str]] = {}
    for picture in pictures:
        people.setdefault(picture.person, []).append(picture.path)
    single = [person for person, paths in people.items() if len(paths) < 2]
    tree.found += finding("note", "single_pictures", "identities have one picture and are left out", single)
    return [
        Row(path, person, 0, "train", modality)
        for person, paths in people.items()
        if len(paths) > 1
        for path in paths
    ]


def _without_duplicates(tree: Tree, pictures: list[Picture]) -> list[Picture]:
    missing = set(tree.missing)
    order = {name: place for place, name in enumerate(("2020_final", "2020_preliminary", "2019_final"))}
    there = [picture for picture in pictures if picture.path not in missing]
    ranked = sorted(there, key=lambda picture: order.get(picture.source, len(order)))
    equal = set(equal_files(tree.root, [picture.path for picture in ranked]))
    text = "pictures are left out, equal byte for byte to one of a later round"
    tree.found += finding("note", "duplicates", text, sorted(equal))
    return [picture for picture in pictures if picture.path not in equal]


def _test_rows(tree: Tree, test: str | None, half: str, lists: Path | None) -> list[Row]:
    """Query and gallery of one test set, or nothing where none is there and none was asked for."""
    found = _test_folder(tree.root, test)
    if found is None:
        tree.found.append(Finding("note", "no_test_set", "no folder of a test set: training rows only", 0))
        return []
    home, suffix = found
    rows = []
    for split in ("query", "gallery"):
        for kind in HALVES if half == "both" else (half,):
            file = (lists or tree.root / home) / f"{split}{suffix}_{kind}.txt"
            if not file.is_file():
                raise ManifestError(
                    f"{NAME}: {file}: got no such file, expected the names of the {kind} half; "
                    "fastreid_ops.data.datasets.naic.halves sorts a folder into both"
                )
            names = read_names(tree, file, f"{home}/{split}{suffix}")
            rows += [Row(path, UNKNOWN, 0, split, kind if half == "both" else None) for path in names]
    return rows


def _test_folder(root: Path, test: str | None) -> tuple[str, str] | None:
    if test is None:
        there = [one for one in TESTS if (root / one[0] / f"query{one[1]}").is_dir()]
        return there[0] if there else None
    home, _, suffix = test.partition(":")
    for split in ("query", "gallery"):
        if not (root / home / f"{split}{suffix}").is_dir():
            raise ManifestError(
                f"{NAME}: test: got {test!r}, expected a folder {home}/{split}{suffix} in {root}"
            )
    return home, suffix
