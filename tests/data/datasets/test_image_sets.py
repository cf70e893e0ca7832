# SPDX-License-Identifier: Apache-2.0
"""What holds for every image data set: layouts, torchreid's own classes, and the traps that all of them share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from image_trees import CASES, build, build_msmt17, rows, same, touch

from fastreid_ops.data.datasets import DATASETS, DESCRIPTIONS, read_dataset, scan_dataset
from fastreid_ops.data.datasets._layout import Row, combined
from fastreid_ops.data.manifest import ManifestError

NAMES = sorted(CASES)


@pytest.mark.parametrize("name", NAMES)
def test_every_layout_gives_the_same_rows_and_no_label_problem(tmp_path: Path, name: str):
    case = CASES[name]
    wanted = None
    folder = build(case, tmp_path / "built")
    for place, layout in enumerate(case.layouts):
        root = tmp_path / str(place)
        (root / layout).parent.mkdir(parents=True, exist_ok=True)
        folder = folder.rename(root / layout)
        manifest = read_dataset(name, root, **case.options)
        assert manifest.root == folder
        wanted = wanted or rows(manifest)
        assert rows(manifest) == wanted
    assert set(manifest.path) <= set(case.files)
    assert [text for text in manifest.problems() if "train identities have one image" not in text] == []


@pytest.mark.parametrize("name", NAMES)
def test_the_rows_are_those_of_torchreid(tmp_path: Path, name: str, torchreid: Callable):
    case = CASES[name]
    build(case, tmp_path / case.layouts[0])
    # Before torchreid, which leaves its split file behind.
    manifest = read_dataset(name, tmp_path, **case.options)
    theirs = torchreid(case.module, case.cls, tmp_path, seed=case.options.get("seed", 0), **case.theirs)
    cameras = "one to one" if name == "university1652" else "equal"
    if name in ("sensereid", "cuhksysu"):
        # Placeholders stand there for what these sets do not have.
        same(manifest, theirs, splits=("query", "gallery") if name == "sensereid" else ("train",))
    else:
        same(manifest, theirs, cameras=cameras)
    if name in ("viper", "cuhk01", "grid", "ilids", "prid"):
        # Now the split file is there, and full of absolute names; it is what counts without a seed.
        options = {key: value for key, value in case.options.items() if key != "seed"}
        assert sorted(rows(read_dataset(name, tmp_path, **options))) == sorted(rows(manifest))
        moved = tmp_path.with_name(f"{tmp_path.name}_moved")
        tmp_path.rename(moved)
        again = read_dataset(name, moved, **options)
        moved.rename(tmp_path)
        assert sorted(rows(again)) == sorted(rows(manifest))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "cuhksysu"])
def test_everything_for_training_is_what_torchreid_combines(tmp_path: Path, name: str, torchreid: Callable):
    case = CASES[name]
    build(case, tmp_path / case.layouts[0])
    manifest = read_dataset(name, tmp_path, combineall=True, **case.options)
    assert set(manifest.split) == {"train"}
    seed = case.options.get("seed", 0)
    theirs = torchreid(case.module, case.cls, tmp_path, seed=seed, combineall=True, **case.theirs)
    if name == "sensereid":
        # There the placeholder is combined with what it holds the place of.
        theirs.train = [*theirs.query, *theirs.gallery]
    theirs.train = list({item[0]: item for item in theirs.train}.values())
    cameras = "one to one" if name == "university1652" else "equal"
    same(manifest, theirs, cameras=cameras, splits=("train",))


@pytest.mark.parametrize("name", NAMES)
def test_the_error_lists_what_was_looked_for_and_what_is_there(tmp_path: Path, name: str):
    case = CASES[name]
    needed = case.files[0].split("/")[0]
    build(case, tmp_path / "elsewhere")
    with pytest.raises(ManifestError) as caught:
        read_dataset(name, tmp_path, **case.options)
    message = str(caught.value)
    assert message.startswith(f"{name}: root: got {str(tmp_path)!r}, expected ")
    assert f"{tmp_path / case.layouts[0]} (no such folder)" in message
    assert f"{tmp_path} holds elsewhere" in message
    wrong = tmp_path / "wrong" / case.layouts[0]
    build(case, wrong)
    (wrong / needed).rename(wrong / needed.swapcase())
    with pytest.raises(ManifestError, match=f"{needed.swapcase()} is {needed} in other capitals"):
        read_dataset(name, tmp_path / "wrong", **case.options)
    with pytest.raises(ManifestError, match="which is no folder"):
        read_dataset(name, tmp_path / "nowhere", **case.options)


@pytest.mark.parametrize("name", NAMES)
def test_names_without_labels_are_refused_and_reported(tmp_path: Path, name: str):
    case = CASES[name]
    build(case, tmp_path)
    touch(tmp_path, [case.unreadable])
    with pytest.raises(ManifestError, match="expected ") as caught:
        read_dataset(name, tmp_path, **case.options)
    assert case.unreadable in str(caught.value)
    found = {item.code: item for item in scan_dataset(name, tmp_path, **case.options).findings()}
    assert found["unreadable_names"].examples == (case.unreadable,)


@pytest.mark.parametrize("name", NAMES)
def test_strangers_are_passed_over_and_reported(tmp_path: Path, name: str):
    case = CASES[name]
    build(case, tmp_path)
    before = rows(read_dataset(name, tmp_path, **case.options))
    folder, image = case.files[0].rsplit("/", 1)
    stem, extension = image.rsplit(".", 1)
    strangers = [f"{folder}/Thumbs.db", f"{folder}/._{image}", f"{folder}/{stem}.txt"]
    if name != "university1652":
        strangers.append(f"{folder}/{stem}.{extension.swapcase()}")
    touch(tmp_path, strangers)
    (tmp_path / folder / f"folder.{extension}").mkdir()
    assert rows(read_dataset(name, tmp_path, **case.options)) == before
    assert set(scan_dataset(name, tmp_path, **case.options).passed) == {
        *strangers,
        f"{folder}/folder.{extension}",
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_split_without_images_is_refused(tmp_path: Path, name: str):
    case = CASES[name]
    build(case, tmp_path)
    last = case.files[-1].split("/")
    for file in case.files:
        if file.split("/")[: min(2, len(last) - 1)] == last[: min(2, len(last) - 1)]:
            (tmp_path / file).unlink()
    with pytest.raises(ManifestError, match="got no "):
        read_dataset(name, tmp_path, **case.options)


@pytest.mark.parametrize("name", NAMES)
def test_counts_that_differ_from_the_published_ones_are_problems(tmp_path: Path, name: str):
    case = CASES[name]
    build(case, tmp_path)
    tree = scan_dataset(name, tmp_path, **case.options)
    codes = {item.code for item in tree.findings() if item.level == "problem"}
    # The trees of these two are whole.
    assert ("differs_from_published" in codes) == (name not in ("ilids", "prid"))
    assert tree.published


def test_the_published_counts_are_those_of_the_sources():
    """Read from the tables of the sources and of torchreid's class descriptions, not from the package."""
    from fastreid_ops.data.datasets import (
        cuhk01,
        cuhk02,
        cuhk03,
        cuhksysu,
        dukemtmcreid,
        grid,
        msmt17,
        prid,
        prid450s,
        sensereid,
        university1652,
        viper,
    )

    def sizes(published):
        return {split: (n.get("ids"), n.get("images")) for split, n in published.items()}

    assert sizes(dukemtmcreid.PUBLISHED) == {
        "train": (702, 16522),
        "query": (702, 2228),
        "gallery": (1110, 17661),
    }
    assert sizes(msmt17.PUBLISHED) == {
        "train": (1041, 30248),
        "query": (3060, 11659),
        "gallery": (3060, 82161),
    }
    assert msmt17.PUBLISHED_WITH_VAL["train"]["images"] == 30248 + 2373
    assert msmt17.PUBLISHED_COMBINED["train"]["ids"] == 4101
    assert sizes(viper.PUBLISHED) == {"train": (316, 632), "query": (316, 316), "gallery": (316, 316)}
    assert sizes(grid.PUBLISHED) == {"train": (125, 250), "query": (125, 125), "gallery": (126, 900)}
    assert sizes(cuhk01.PUBLISHED) == {"train": (485, 1940), "query": (486, 972), "gallery": (486, 972)}
    assert sizes(prid450s.PUBLISHED) == dict.fromkeys(("train", "query", "gallery"), (225, 450))
    assert sizes(prid.PUBLISHED) == {"train": (100, 200), "query": (100, 100), "gallery": (649, 649)}
    assert sizes(sensereid.PUBLISHED) == {"query": (522, 1040), "gallery": (1717, 3388)}
    assert cuhk02.PUBLISHED["train"]["ids"] == 971 + 306 + 107 + 193
    assert sizes(cuhksysu.PUBLISHED) == {"train": (11934, 34574)}
    assert university1652.PUBLISHED_TRAIN == {"images": 50218, "ids": 701}
    new = {"train": (767, 7365), "query": (700, 1400), "gallery": (700, 5332)}
    assert sizes(cuhk03.PUBLISHED["detected"]) == new
    assert sizes(cuhk03.PUBLISHED["labeled"]) == {**new, "train": (767, 7368), "gallery": (700, 5328)}


def test_every_data_set_has_a_description():
    assert DATASETS.keys() - DESCRIPTIONS.keys() == {"csv"}


def test_msmt17_has_both_versions_and_all_lists(tmp_path: Path, torchreid: Callable):
    build_msmt17(tmp_path / "msmt17" / "MSMT17_V2", "mask_train_v2", "mask_test_v2")
    same(read_dataset("msmt17", tmp_path), torchreid("msmt17", "MSMT17", tmp_path))
    build_msmt17(tmp_path / "msmt17" / "MSMT17_V1")
    same(read_dataset("msmt17", tmp_path), torchreid("msmt17", "MSMT17", tmp_path))
    assert read_dataset("msmt17", tmp_path, version="V2").path[0].startswith("mask_train_v2/")
    theirs = torchreid("msmt17", "MSMT17", tmp_path, combineall=True)
    same(read_dataset("msmt17", tmp_path, combineall=True), theirs, splits=("train",))


def test_combining_leaves_junk_of_the_test_set_out_and_takes_each_file_once():
    whole = [
        Row("a", 0, 0, "train"),
        Row("b", 0, 1, "gallery"),
        Row("c", 3, 1, "query"),
        Row("c", 3, 1, "gallery"),
    ]
    assert combined(whole, lambda pid: pid == 0) == [Row("a", 0, 0, "train"), Row("c", 3, 1, "train")]
    assert combined(whole) == [whole[0], Row("b", 0, 1, "train"), Row("c", 3, 1, "train")]
