# SPDX-License-Identifier: Apache-2.0
"""Market-1501 from miniature trees with the traps of the real one."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from fastreid_ops.data.datasets import market1501, read_dataset
from fastreid_ops.data.datasets._layout import Row
from fastreid_ops.data.manifest import ManifestError

TREE = {
    "bounding_box_train": [
        "0002_c1s1_000451_03.jpg",
        "0002_c2s1_000551_01.jpg",
        "0007_c6s3_077419_03.jpg",
        "Thumbs.db",
    ],
    "query": ["0001_c1s1_001051_00.jpg", "0001_c3s1_000551_00.jpg"],
    "bounding_box_test": [
        "-1_c1s1_000401_03.jpg",
        "0000_c1s1_000151_01.jpg",
        "0001_c2s1_001051_01.jpg",
        "0001_c1s1_001051_03.JPG",
        "0001_c5s1_001051_00.png",
        "Thumbs.db",
    ],
}


def build(root: Path, tree: dict[str, list[str]] | None = None) -> Path:
    for folder, names in (tree if tree is not None else TREE).items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        # Made in an order that is not the sorted one.
        for name in reversed(names):
            Image.new("RGB", (8, 16), (len(name), 3, 5)).save(root / folder / name, "JPEG")
    nested = root / "bounding_box_test" / "more"
    nested.mkdir(exist_ok=True)
    Image.new("RGB", (8, 16)).save(nested / "0009_c1s1_000001_00.jpg")
    return root


@pytest.mark.parametrize(
    "layout", ["market1501/Market-1501-v15.09.15", "market1501", "Market-1501-v15.09.15", ""]
)
def test_every_layout_gives_the_same_rows(tmp_path: Path, layout: str):
    build(tmp_path / layout)
    manifest = read_dataset("market1501", tmp_path)
    assert manifest.root == tmp_path / layout
    assert list(zip(manifest.path, manifest.pid, manifest.camid, manifest.split, strict=True)) == [
        ("bounding_box_train/0002_c1s1_000451_03.jpg", 2, 0, "train"),
        ("bounding_box_train/0002_c2s1_000551_01.jpg", 2, 1, "train"),
        ("bounding_box_train/0007_c6s3_077419_03.jpg", 7, 5, "train"),
        ("query/0001_c1s1_001051_00.jpg", 1, 0, "query"),
        ("query/0001_c3s1_000551_00.jpg", 1, 2, "query"),
        ("bounding_box_test/0000_c1s1_000151_01.jpg", 0, 0, "gallery"),
        ("bounding_box_test/0001_c2s1_001051_01.jpg", 1, 1, "gallery"),
    ]
    assert all(manifest.file(row).is_file() for row in range(len(manifest)))


def test_the_digits_of_a_folder_are_no_identity(tmp_path: Path):
    build(tmp_path / "0099_c4" / "market1501")
    assert set(read_dataset("market1501", tmp_path / "0099_c4").pid) == {0, 1, 2, 7}


def test_the_inner_layout_wins_when_two_fit(tmp_path: Path):
    build(tmp_path)
    build(tmp_path / "market1501" / "Market-1501-v15.09.15")
    assert read_dataset("market1501", tmp_path).root == tmp_path / "market1501" / "Market-1501-v15.09.15"


def test_the_error_lists_what_was_looked_for_and_what_is_there(tmp_path: Path):
    build(tmp_path / "Market1501")
    (tmp_path / "Market-1501-v15.09.15" / "query").mkdir(parents=True)
    with pytest.raises(ManifestError) as caught:
        market1501.read(tmp_path)
    message = str(caught.value)
    assert f"{tmp_path / 'market1501' / 'Market-1501-v15.09.15'} (no such folder)" in message
    assert f"{tmp_path / 'Market-1501-v15.09.15'} (without bounding_box_train, bounding_box_test)" in message
    assert f"{tmp_path} holds Market-1501-v15.09.15, Market1501" in message
    assert f"{tmp_path / 'Market1501'} is market1501 in other capitals" in message
    with pytest.raises(ManifestError, match="which is no folder"):
        market1501.read(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ManifestError, match="holds nothing"):
        market1501.read(tmp_path / "empty")


@pytest.mark.parametrize(
    "name",
    ["photo.jpg", "0001c1.jpg", "0001_c.jpg", "0001_c12s1_000001_00.jpg", "0001_c0s1_000001_00.jpg", "--1_c1.jpg",
     "-2_c1s1.jpg", "1-2_c3s1.jpg", "_c1s1_000001_00.jpg", "0001_C1s1.jpg"],
)  # fmt: skip
def test_names_without_identity_and_camera_are_refused(tmp_path: Path, name: str):
    build(tmp_path, {**TREE, "query": [*TREE["query"], name]})
    with pytest.raises(ManifestError, match=r"expected \*.jpg files named like") as caught:
        market1501.read(tmp_path)
    assert f"query/{name}" in str(caught.value)


def test_an_empty_split_is_refused_with_what_lies_there(tmp_path: Path):
    build(tmp_path, {**TREE, "query": ["-1_c1s1_000001_00.jpg", "0001_c1s1.png"]})
    with pytest.raises(ManifestError, match=r"got no image to use for query, expected .*query/0001_c1s1.png"):
        market1501.read(tmp_path)


def test_findings_name_traps_and_published_counts(tmp_path: Path):
    build(
        tmp_path,
        {**TREE, "query": [*TREE["query"], "0000_c1s1_000001_00.jpg", "1502_c7s1_000001_00.jpg", "x.jpg"]},
    )
    found = {item.code: item for item in market1501.scan(tmp_path).findings()}
    assert found["junk"].count == 1
    assert "published: 3819" in found["junk"].text
    assert found["not_used"].count == 5
    assert found["unreadable_names"].examples == ("query/x.jpg",)
    assert found["outside_range"].examples == ("query/1502_c7s1_000001_00.jpg",)
    assert found["distractor_id"].examples == ("query/0000_c1s1_000001_00.jpg",)
    texts = [item.text for item in market1501.scan(tmp_path).findings()]
    assert any(
        "3 images (published: 12936), 2 ids (published: 751), 3 cameras (published: 6)" in text
        for text in texts
    )


def test_a_tree_with_the_published_counts_has_no_finding(tmp_path: Path):
    build(tmp_path)
    tree = market1501.scan(tmp_path)
    tree.rows, tree.passed, tree.found = [], [], []
    sizes = {
        "train": (range(751, 1502), 12936),
        "query": (range(1, 751), 3368),
        "gallery": (range(751), 15913),
    }
    for split, (pids, images) in sizes.items():
        tree.rows += [Row(f"{split}/{n}.jpg", pids[n % len(pids)], n % 6, split) for n in range(images)]
    assert tree.findings() == []
    tree.rows.pop()
    assert [item.code for item in tree.findings()] == ["differs_from_published"]


def test_all_images_for_training_and_further_distractors(tmp_path: Path):
    build(tmp_path, {**TREE, "images": ["0000_c1s1_000001_00.jpg", "-1_c2s1_000001_00.jpg"]})
    with_more = market1501.read(tmp_path, distractors=True)
    assert set(with_more.path) - set(market1501.read(tmp_path).path) == {"images/0000_c1s1_000001_00.jpg"}
    manifest = market1501.read(tmp_path, combineall=True)
    assert set(manifest.split) == {"train"}
    assert set(manifest.pid) == {1, 2, 7}
    assert len(manifest) == 6


def test_hidden_files_of_an_unpacked_archive_are_no_images(tmp_path: Path):
    build(tmp_path, {**TREE, "query": [*TREE["query"], "._0001_c1s1_001051_00.jpg"]})
    assert "query/._0001_c1s1_001051_00.jpg" in market1501.scan(tmp_path).passed
    assert len(market1501.read(tmp_path)) == 7


def test_read_dataset_refuses_unknown_names_options_and_missing_roots(tmp_path: Path):
    with pytest.raises(
        ValueError, match=r"got 'Market-1501', expected one of csv, .* \(did you mean 'market1501'\?\)"
    ):
        read_dataset("Market-1501", tmp_path)
    with pytest.raises(ValueError, match="root: got None, expected the folder that holds market1501"):
        read_dataset("market1501")
    with pytest.raises(
        ValueError, match="options: got 'combine', expected options of market1501: distractors, combineall"
    ):
        read_dataset("market1501", tmp_path, combine=True)
    with pytest.raises(ValueError, match="expected the name of a CSV file"):
        read_dataset("csv")
