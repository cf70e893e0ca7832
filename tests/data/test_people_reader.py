# SPDX-License-Identifier: Apache-2.0
"""The folder that procedural people are kept in: complete or absent, verified, shared between processes.

The renderer is replaced by a quick one: its pictures are tested where it is.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from fastreid_ops.data.datasets import people, read_dataset
from fastreid_ops.data.manifest import Manifest, ManifestError

ROWS = [("train/0001_c1.jpg", 1, 0, "train"), ("query/0002_c1.jpg", 2, 0, "query")]


def quick_render(root: Path, options: object) -> Manifest:
    for name, _, _, _ in ROWS:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{name} {options}")
    path, pid, camid, split = map(list, zip(*ROWS, strict=True))
    manifest = Manifest(root=root, path=path, pid=pid, camid=camid, split=split)
    manifest.write_csv(root / "manifest.csv")
    return manifest


@pytest.fixture
def rendered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A fresh cache; the list grows by one for each rendering."""
    calls: list[Path] = []

    def render(root: Path, options: object) -> Manifest:
        calls.append(root)
        return quick_render(root, options)

    monkeypatch.setattr(people, "render_dataset", render)
    monkeypatch.setenv("FASTREID_OPS_CACHE", str(tmp_path / "cache"))
    return calls


def test_rendered_once_and_then_read(rendered: list[Path], tmp_path: Path):
    first = read_dataset("people", seed=3)
    assert first.root.parent == tmp_path / "cache"
    assert first.root.name.startswith("people-")
    assert [first.path, first.split] == [[row[0] for row in ROWS], ["train", "query"]]
    assert all(first.file(row).is_file() for row in range(2))
    assert people.read(seed=3) == first
    assert len(rendered) == 1
    other = people.read(seed=4)
    assert other.root != first.root
    assert len(rendered) == 2
    assert not [name for name in os.listdir(tmp_path / "cache") if name.endswith(".partial")]


def test_the_cache_is_in_the_home_folder_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("FASTREID_OPS_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert people.cache_folder() == tmp_path / ".cache" / "fastreid_ops"


@pytest.mark.parametrize(
    "damage", ["changed", "missing", "no_seal", "bad_seal", "no_manifest", "seal_is_list", "old"]
)
def test_a_damaged_cache_is_rendered_anew(rendered: list[Path], damage: str):
    root = people.read().root
    seal = root / people.SEAL
    if damage == "changed":
        (root / ROWS[0][0]).write_text("x")
    elif damage == "missing":
        (root / ROWS[1][0]).unlink()
    elif damage == "no_seal":
        seal.unlink()
    elif damage == "bad_seal":
        seal.write_text(seal.read_text()[:40])
    elif damage == "no_manifest":
        (root / people.MANIFEST).unlink()
    elif damage == "seal_is_list":
        seal.write_text("[]")
    elif damage == "old":
        seal.write_text(json.dumps({**json.loads(seal.read_text()), "renderer": "an older one"}))
    manifest = people.read()
    assert len(rendered) == 2
    assert (manifest.root / ROWS[0][0]).read_text().startswith(ROWS[0][0])
    people.read()
    assert len(rendered) == 2


def test_a_folder_of_ones_own_is_never_overwritten(rendered: list[Path], tmp_path: Path):
    folder = tmp_path / "mine"
    assert people.read(folder, seed=1).root == folder
    assert people.read(folder, seed=1).root == folder
    assert len(rendered) == 1
    with pytest.raises(
        ManifestError, match="which was rendered with other options; expected a new or empty folder"
    ):
        people.read(folder, seed=2)
    (folder / ROWS[0][0]).write_text("x")
    with pytest.raises(ManifestError, match=r"where train/0001_c1\.jpg has changed since"):
        people.read(folder, seed=1)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_text("x")
    with pytest.raises(ManifestError, match=r"where complete\.json is missing"):
        people.read(tmp_path / "photos")
    assert os.listdir(tmp_path / "photos") == ["holiday.jpg"]
    (tmp_path / "empty").mkdir()
    assert people.read(tmp_path / "empty").root == tmp_path / "empty"


def test_a_failed_rendering_leaves_nothing(
    rendered: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(root: Path, options: object) -> Manifest:
        quick_render(root, options)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(people, "render_dataset", fail)
        with pytest.raises(OSError, match="No space left"):
            people.read()
    assert [name for name in os.listdir(tmp_path / "cache") if not name.endswith(".lock")] == []
    people.read()
    assert len(rendered) == 1


def test_unknown_options_are_refused_with_the_nearest(rendered: list[Path]):
    with pytest.raises(
        ValueError, match=r"options: got 'trainids', expected one of .* \(did you mean 'train_ids'\?\)"
    ):
        people.read(trainids=3)
    assert not rendered


def _slow_reader(cache: str, log: str) -> None:
    os.environ["FASTREID_OPS_CACHE"] = cache

    def render(root: Path, options: object) -> Manifest:
        with open(log, "a") as file:
            file.write("rendered\n")
        time.sleep(0.5)
        return quick_render(root, options)

    people.render_dataset = render
    if len(people.read()) != len(ROWS):
        raise SystemExit(1)


@pytest.mark.timeout(60)
def test_processes_wait_for_one_another_and_render_once(tmp_path: Path):
    log = tmp_path / "log"
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_slow_reader, args=(str(tmp_path / "cache"), str(log))) for _ in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert log.read_text() == "rendered\n"
