# SPDX-License-Identifier: Apache-2.0
"""A dry run: everything is built, few files are read, nothing is kept; these are enough for any protocol."""

import importlib.util
import tempfile
from pathlib import Path

import pytest
import torch

from fastreid_ops import train
from fastreid_ops.config import Config
from fastreid_ops.data.manifest import Manifest
from fastreid_ops.engine.assess import EvalData, unique_files
from fastreid_ops.engine.dry_run import OneBatch, few_files, shortened
from fastreid_ops.evaluation import PROTOCOLS
from fastreid_ops.evaluation.by_protocol import evaluate_draws
from fastreid_ops.evaluation.draws import draw

TINY = Path(__file__).parents[1] / "faults" / "tiny.py"


def people(folder):
    spec = importlib.util.spec_from_file_location("dry_tiny", TINY)
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)
    return tiny.write_people(folder)


def arguments(csv):
    return [
        *("--dry_run", "--data.dataset", str(csv), "--data.height", "32", "--data.width", "16"),
        *("--data.batch_size", "8", "--data.images_per_id", "2", "--data.crop_padding", "2"),
        *("--run.device", "cpu", "--eval.sets", "[{name: people}]", "--data.workers", "1"),
    ]


def test_from_the_command_line(tmp_path, tmp_path_factory, monkeypatch, capsys):
    csv = people(tmp_path / "data")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    # A short name: workers hand over tensors through sockets in there, whose names have room for 108 characters.
    temporary = tmp_path_factory.mktemp("t")
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    assert train.main(arguments(csv)) == 0
    said = capsys.readouterr().out
    assert "epoch 1/1 batch 1/1 step 1" in said
    assert "after epoch 1: people: mAP" in said
    assert "dry run: one step of one batch of 3 an epoch, evaluation on" in said
    assert not list((tmp_path / "work").iterdir())
    assert not list(temporary.glob("fastreid_ops*"))


def test_what_cannot_run_is_said_and_nothing_kept(tmp_path, monkeypatch, capsys):
    csv = people(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    groups = "[{match: 'model.nothing.*', lr: 1}]"
    assert train.main([*arguments(csv), "--optim.groups", groups]) == 1
    assert "optim.groups: 0: match: got 'model.nothing.*'" in capsys.readouterr().err
    assert train.main(["--dry_run", "--resume", str(tmp_path)]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_the_rest_of_the_run_is_left_out():
    config = Config()
    short = shortened(config)
    assert (short.train.epochs, short.eval.every, short.data.cache_images) == (1, 1, False)
    assert config.train.epochs == 24


def test_one_batch_ends_the_workers():
    class Loader:
        ended = False

        def len_epoch(self, epoch):
            return 7

        def iterate(self, epoch, start_step=0):
            try:
                yield from range(start_step, 7)
            finally:
                self.ended = True

    loader = Loader()
    one = OneBatch(loader)
    assert one.len_epoch(0) == 1
    assert list(one.iterate(0)) == [0]
    assert loader.ended


def manifest(words):
    """40 people, six cameras (infrared the last three, where modality matters), two outfits, tracklets of six frames;
    each is query and gallery."""
    rows = [
        (pid, camera, outfit, frame)
        for pid in range(40)
        for camera in range(6)
        for outfit in range(2)
        for frame in range(6)
    ]
    pid, camid, clothes, frame = map(list, zip(*rows, strict=True))
    return Manifest(
        root=Path("/"),
        path=["_".join(map(str, row)) + ".jpg" for row in rows],
        pid=pid,
        camid=camid,
        split=["query"] * len(rows),
        modality=[words[camera > 2] for camera in camid],
        clothes=clothes,
        tracklet=[row // 6 for row in range(len(rows))],
        frame=frame,
    )


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_few_files_are_enough_for(name):
    words = ("green", "normal") if name.startswith("naic") else ("visible", "infrared")
    whole = manifest(words)
    drawn = draw(PROTOCOLS[name], whole, whole)
    again = whole.take(range(len(whole)))
    data = EvalData("set", {}, "", {name: drawn}, whole, again, unique_files(whole, again), None)
    rows = torch.tensor(few_files(data))
    assert 2 <= len(rows) < len(whole) / 4
    features = torch.randn(len(rows), 4, generator=torch.Generator().manual_seed(0))
    result = evaluate_draws(drawn, features, features, query_rows=rows, gallery_rows=rows)
    assert 0 < result.mAP <= 1
