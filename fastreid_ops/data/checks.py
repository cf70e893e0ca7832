# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a data set, found before a second of training is spent on it.

A *problem* makes numbers wrong or training fail; a *note* is worth knowing. Label checks touch no file.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from fastreid_ops.data.manifest import Manifest

EXAMPLES = 5


class Finding(NamedTuple):
    """One thing found: `level` "problem" or "note", a `code` for programs, a sentence, a count, a few
    examples."""

    level: str
    code: str
    text: str
    count: int
    examples: tuple[str, ...] = ()


def finding(level: str, code: str, text: str, items: Iterable[object]) -> list[Finding]:
    """A list with one finding about `items`, or an empty list when there are none."""
    found = [str(item) for item in items]
    return (
        [Finding(level, code, f"{len(found)} {text}", len(found), tuple(found[:EXAMPLES]))] if found else []
    )


def bare_id(pid: int | str) -> str:
    """An id without leading zeros: what two writings of one number have in common."""
    written = str(pid)
    return written.lstrip("0") or "0" if written.isdigit() else written


def counts(manifest: Manifest) -> dict[str, dict[str, int]]:
    """Images, identities and cameras of each split that has rows, and tracklets where the data set has them."""
    columns = {"ids": manifest.pid, "cameras": manifest.camid}
    if manifest.tracklet is not None:
        columns["tracklets"] = manifest.tracklet
    images = Counter(manifest.split)
    seen = {split: {name: set() for name in columns} for split in images}
    for name, values in columns.items():
        for split, value in zip(manifest.split, values, strict=True):
            seen[split][name].add(value)
    return {
        split: {"images": images[split], **{name: len(there) for name, there in seen[split].items()}}
        for split in ("train", "query", "gallery")
        if split in images
    }


def label_findings(manifest: Manifest, *, seen_people: bool = False) -> list[Finding]:
    """Everything the labels alone can tell. Identities both in train and in test are a problem, and a note where the
    test is meant to be of people who were seen (`seen_people`)."""
    if not len(manifest):
        return [
            Finding("problem", "empty", "no rows: there is nothing to train on and nothing to evaluate", 0)
        ]
    return [*_splits(manifest), *_repeats(manifest), *_identities(manifest, seen_people), *_cameras(manifest)]


def _splits(manifest: Manifest) -> list[Finding]:
    found = []
    there = counts(manifest)
    if "train" not in there:
        found.append(
            Finding("note", "no_train", "no train images: this set can be evaluated, not trained on", 0)
        )
    elif there["train"]["ids"] == 1:
        text = "one identity in train: there is nobody to tell it from"
        found.append(Finding("problem", "one_train_id", text, 1))
    if "query" not in there and "gallery" not in there:
        found.append(
            Finding(
                "note", "no_test", "no query and no gallery: this set can be trained on, not evaluated", 0
            )
        )
    elif "gallery" not in there:
        found.append(
            Finding(
                "problem", "no_gallery", "query images but no gallery images: nothing can be evaluated", 0
            )
        )
    elif "query" not in there:
        found.append(
            Finding("problem", "no_query", "gallery images but no query images: nothing can be evaluated", 0)
        )
    return found


def _repeats(manifest: Manifest) -> list[Finding]:
    rows = defaultdict(list)
    root = os.fspath(manifest.root)
    for row, path in enumerate(manifest.path):
        rows[os.path.normpath(os.path.join(root, path))].append(row)
    repeated, leaked, torn, both = [], [], [], []
    for path, group in rows.items():
        if len(group) == 1:
            continue
        splits = [manifest.split[row] for row in group]
        if len(set(splits)) < len(splits):
            repeated.append(path)
        if "train" in splits and len(set(splits)) > 1:
            leaked.append(path)
        if "query" in splits and "gallery" in splits:
            both.append(path)
        if len({(manifest.pid[row], manifest.camid[row]) for row in group}) > 1:
            torn.append(path)
    return [
        *finding("problem", "repeated_path", "files are listed more than once in one split", repeated),
        *finding("problem", "train_file_in_test", "files are both in train and in query or gallery", leaked),
        *finding("problem", "two_labels", "files have two different identities or cameras", torn),
        *finding(
            "note",
            "query_in_gallery",
            "files are both query and gallery: protocol market1501 removes them as same identity under the "
            "same camera, under protocol no_camera each of them finds itself first",
            both,
        ),
    ]


def _identities(manifest: Manifest, seen_people: bool) -> list[Finding]:
    train = Counter(pid for pid, split in zip(manifest.pid, manifest.split, strict=True) if split == "train")
    test = {pid for pid, split in zip(manifest.pid, manifest.split, strict=True) if split != "train"}
    alike = defaultdict(set)
    for pid in manifest.pids():
        alike[bare_id(pid).casefold()].add(pid)
    pairs = [" / ".join(sorted(map(repr, group))) for group in alike.values() if len(group) > 1]
    shared = [pid for pid in train if pid in test]
    single = [pid for pid, images in train.items() if images == 1]
    return [
        *finding(
            "note" if seen_people else "problem",
            "ids_in_train_and_test",
            "identities are in train and in query or gallery",
            shared,
        ),
        *finding("problem", "lookalike_ids", "identities differ only by leading zeros or capitals", pairs),
        *finding(
            "problem", "single_image_ids", "train identities have one image, so no positive pair", single
        ),
    ]


def _cameras(manifest: Manifest) -> list[Finding]:
    gallery_cameras = defaultdict(set)
    queries, cameras = [], set()
    for row, split in enumerate(manifest.split):
        if split == "gallery":
            gallery_cameras[manifest.pid[row]].add(manifest.camid[row])
        if split == "query":
            queries.append(row)
        if split != "train":
            cameras.add(manifest.camid[row])
    found = []
    if queries and gallery_cameras:
        absent = [row for row in queries if manifest.pid[row] not in gallery_cameras]
        blocked = [row for row in queries if gallery_cameras.get(manifest.pid[row]) == {manifest.camid[row]}]
        if len(cameras) == 1:
            text = (
                f"query and gallery are under one camera (camid {next(iter(cameras))}): protocol market1501 "
                f"would leave out all {len(queries)} queries; evaluate with protocol no_camera"
            )
            found.append(Finding("problem", "one_camera", text, len(queries)))
            blocked = []
        found += finding(
            "problem",
            "query_without_id_in_gallery",
            f"of {len(queries)} queries have no gallery image of their identity and are left out",
            (manifest.path[row] for row in absent),
        )
        found += finding(
            "problem",
            "query_under_same_camera_only",
            f"of {len(queries)} queries have gallery images of their identity under their own camera only: "
            f"protocol market1501 leaves them out, protocol no_camera keeps them",
            (manifest.path[row] for row in blocked),
        )
    seen = defaultdict(set)
    for pid, camid, split in zip(manifest.pid, manifest.camid, manifest.split, strict=True):
        if split == "train":
            seen[pid].add(camid)
    lonely = [pid for pid, under in seen.items() if len(under) == 1]
    return [
        *found,
        *finding("note", "single_camera_ids", "train identities are seen by one camera only", lonely),
    ]
