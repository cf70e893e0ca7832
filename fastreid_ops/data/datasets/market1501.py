# SPDX-License-Identifier: Apache-2.0
"""Market-1501 (Zheng et al., "Scalable Person Re-identification: A Benchmark", ICCV 2015), and data named
like it.

Three folders of *.jpg files called `<pid>_c<camera>...`: bounding_box_train, query and bounding_box_test.
Identity -1 marks junk boxes and is left out everywhere; identity 0 marks distractors, which stay in the
gallery. Cameras count from 1 in the names and from 0 in the manifest. Files are taken in sorted order.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from fastreid_ops.data.checks import Finding, counts, finding
from fastreid_ops.data.manifest import Manifest, ManifestError

FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
LAYOUTS = ("market1501/Market-1501-v15.09.15", "market1501", "Market-1501-v15.09.15", ".")
# As published with the data set; the gallery's identities include 0.
PUBLISHED = {
    "train": {"images": 12936, "ids": 751, "cameras": 6},
    "query": {"images": 3368, "ids": 750, "cameras": 6},
    "gallery": {"images": 15913, "ids": 751, "cameras": 6},
}
PUBLISHED_JUNK = 3819
LAST_PID, CAMERAS = 1501, 6
_NAME = re.compile(r"([-\d]+)_c(\d)", re.ASCII)


@dataclass
class Tree:
    """What lies in the three folders: usable rows, and everything that was passed over."""

    root: Path
    rows: list[tuple[str, int, int, str]] = field(default_factory=list)
    junk: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    def manifest(self) -> Manifest:
        """The usable rows as a manifest."""
        path, pid, camid, split = map(list, zip(*self.rows, strict=True)) if self.rows else ([], [], [], [])
        return Manifest(root=self.root, path=path, pid=pid, camid=camid, split=split)


def read(root: str | os.PathLike[str]) -> Manifest:
    """Read Market-1501 from `root`/market1501/Market-1501-v15.09.15, any shortening of it, or `root` itself.

    Raises:
        ManifestError: a ValueError that says what was looked for and what is there when no layout fits; when
            a *.jpg name holds no identity and camera (a two-digit camera included); when a split has no
            image.
    """
    tree = scan(find_root(root))
    if tree.unreadable:
        more = f" and {len(tree.unreadable) - 5} more" if len(tree.unreadable) > 5 else ""
        raise ManifestError(
            f"market1501: {tree.root}: got {', '.join(tree.unreadable[:5])}{more}, expected files named like "
            "0002_c1s1_000451_03.jpg (identity, camera of one digit)"
        )
    for split, folder in FOLDERS.items():
        if not any(row[3] == split for row in tree.rows):
            there = _listing(tree.root / folder)
            raise ManifestError(
                f"market1501: {tree.root / folder}: got no image to use, expected *.jpg; it holds {there}"
            )
    return tree.manifest()


def find_root(root: str | os.PathLike[str]) -> Path:
    """The folder with the three image folders: the first layout that fits.

    Raises:
        ManifestError: when none fits, with what each layout lacks and what lies in `root`.
    """
    base = Path(root)
    if not base.is_dir():
        raise ManifestError(
            f"market1501: root: got {str(base)!r}, which is no folder, expected the folder of the data set"
        )
    looked = []
    for layout in LAYOUTS:
        folder = base / layout
        missing = [name for name in FOLDERS.values() if not (folder / name).is_dir()]
        if not missing:
            return folder
        absent = "no such folder" if not folder.is_dir() else f"without {', '.join(missing)}"
        looked.append(f"{folder} ({absent})")
    raise ManifestError(
        f"market1501: root: got {str(base)!r}, expected the folders {', '.join(FOLDERS.values())} in one of: "
        f"{'; '.join(looked)}. {base} holds {_listing(base)}"
    )


def scan(folder: Path) -> Tree:
    """Sort every entry of the three folders into rows, junk and what is neither."""
    tree = Tree(folder)
    for split, name in FOLDERS.items():
        for entry in sorted(os.listdir(folder / name)):
            path = f"{name}/{entry}"
            if not entry.endswith(".jpg"):
                tree.others.append(path)
                continue
            match = _NAME.search(entry)
            # "_c12" must not be read as camera 1, nor "--1" or "-7" as an identity.
            if not match or entry[match.end() : match.end() + 1].isdigit() or match[2] == "0":
                tree.unreadable.append(path)
            elif match[1] == "-1":
                tree.junk.append(path)
            elif match[1].isdigit():
                tree.rows.append((path, int(match[1]), int(match[2]) - 1, split))
            else:
                tree.unreadable.append(path)
    return tree


def _listing(folder: Path) -> str:
    names = sorted(os.listdir(folder))
    if not names:
        return "nothing"
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def findings(tree: Tree) -> list[Finding]:
    """What differs from the published data set, and what lies in its folders without being used."""
    found = []
    there = counts(tree.manifest())
    for split, published in PUBLISHED.items():
        got = there.get(split, {"images": 0, "ids": 0, "cameras": 0})
        wrong = [
            f"{got[name]} {name} (published: {number})"
            for name, number in published.items()
            if got[name] != number
        ]
        if wrong:
            text = f"{split}: {', '.join(wrong)}; figures from it are not comparable with published ones"
            found.append(Finding("problem", "differs_from_published", text, len(wrong)))
    if tree.junk:
        text = f"{len(tree.junk)} junk images (identity -1) left out (published: {PUBLISHED_JUNK})"
        found.append(Finding("note", "junk", text, len(tree.junk), tuple(tree.junk[:3])))
    outside = [row[0] for row in tree.rows if row[1] > LAST_PID or row[2] >= CAMERAS]
    distractors = [row[0] for row in tree.rows if row[1] == 0 and row[3] != "gallery"]
    return [
        *found,
        *finding(
            "problem",
            "unreadable_names",
            "*.jpg files whose name holds no identity and camera",
            tree.unreadable,
        ),
        *finding("note", "not_jpg", "entries are no *.jpg files and are not used", tree.others),
        *finding(
            "problem", "outside_range", f"images have an identity over {LAST_PID} or a camera over 6", outside
        ),
        *finding(
            "problem",
            "distractor_id",
            "images of identity 0 (distractors) are not in the gallery",
            distractors,
        ),
    ]
