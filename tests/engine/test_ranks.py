# SPDX-License-Identifier: Apache-2.0
"""Two processes against one: where the loss says that they are equal, and a whole run with its resumption."""

import contextlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fastreid_ops import competition, models, train
from fastreid_ops.config import Config, ConfigError, from_dict
from fastreid_ops.config.check import validate
from fastreid_ops.engine import ranks as module
from fastreid_ops.engine import resume, setup, state

HERE = Path(__file__).parent
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def _beside(name):
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


ranks_systems = _beside("ranks_systems")

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What the two ranks and the process alone wrote, and their folder."""
    spec = importlib.util.spec_from_file_location("ranks_tiny", HERE.parent / "faults" / "tiny.py")
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)
    folder = tmp_path_factory.mktemp("ranks")
    tiny.write_people(folder / "people", ids=9)
    ranks_systems.write_people(folder / "systems")
    places = os.pathsep.join([str(HERE), str(HERE.parent / "faults"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": places, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "ranks_command", *tiny.arguments(folder / "people" / "people.csv", folder / "killed")]
    killed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=840)
    assert killed.returncode, killed.stderr
    (folder / "killed.txt").write_text(killed.stderr)
    left = [path.relative_to(folder / "killed").as_posix() for path in (folder / "killed").rglob("*")]
    (folder / "killed_files.txt").write_text("\n".join(left))
    with contextlib.ExitStack() as held:
        free = [held.enter_context(socket.socket()) for _ in range(6)]
        for each in free:
            each.bind(("127.0.0.1", 0))
        ports = ",".join(str(each.getsockname()[1]) for each in free)
    names = ("0", "1", "alone")
    running = [
        subprocess.Popen(
            [sys.executable, str(HERE / "ranks_worker.py"), name, ports, str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        for name in names
    ]
    outputs = [process.communicate(timeout=840)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], "\n\n".join(outputs)
    return folder, *(torch.load(folder / f"{name}.pt", weights_only=True) for name in names)


@pytest.mark.parametrize("way", ["plain", "accumulated", "fixed base"])
def test_two_ranks_train_as_one(found, way):
    _, first, second, alone = found
    for name, value in alone[way]["weights"].items():
        assert torch.equal(first[way]["weights"][name], second[way]["weights"][name]), name
        torch.testing.assert_close(first[way]["weights"][name], value, rtol=1e-6, atol=1e-6)
    assert len(first[way]["records"]) == len(alone[way]["records"]) > 4
    for mine, his in zip(first[way]["records"], alone[way]["records"], strict=True):
        assert mine["loss"] == pytest.approx(his["loss"], rel=1e-5)
        assert mine["norm"] == pytest.approx(his["norm"], rel=1e-5)


@pytest.mark.parametrize("system", ranks_systems.SYSTEMS)
def test_two_ranks_train_each_system(found, system):
    """As one process where the losses are means and statistics stand still; otherwise as one that goes through the
    ranks' parts of each batch one after the other. Batch norm's running statistics are the first rank's.
    """
    _, first, second, alone = (each[system] if isinstance(each, dict) else each for each in found)
    assert len(first["records"]) == len(alone["records"]) >= 3
    for mine, his in zip(first["records"], alone["records"], strict=True):
        assert mine == pytest.approx(his, rel=1e-4, abs=1e-7)
    assert first["weights"].keys() == alone["weights"].keys()
    for name, value in alone["weights"].items():
        assert torch.equal(first["weights"][name], second["weights"][name]), name
        if system in ranks_systems.AS_ONE or not name.endswith(STATISTICS):
            torch.testing.assert_close(first["weights"][name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_a_run_of_two(found):
    """The first rank alone writes; the untrained network has the bits that one process gives it."""
    folder, first, second, _ = found
    assert first["runs"] == second["runs"] == [0, 143, 0, 0, 0]
    whole, alone = folder / "whole", folder / "alone"
    assert {path.name for path in whole.iterdir()} == {path.name for path in alone.iterdir()}
    assert (whole / "baselines.json").read_text() == (alone / "baselines.json").read_text()
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"] == list(
        range(1, lines[-1]["step"] + 1)
    )
    assert json.loads((whole / "environment.json").read_text())["ranks"] == 2


def test_resumed_to_the_bit(found):
    """A signal to one rank stops both at the same step; what is resumed ends as the undisturbed run."""
    folder, *_ = found
    assert "torchrun --nproc-per-node 2" in (folder / "cut" / "log.txt").read_text()
    for name in ("weights.safetensors", "results/test.json"):
        whole = (folder / "whole" / name).read_bytes()
        assert (folder / "cut" / name).read_bytes() == whole, name
        assert (folder / "killed" / name).read_bytes() == whole, name


def test_a_rank_is_killed(found):
    """torchrun, one of whose processes vanished: the other says who, what is written is whole. The run is gone on with
    by the fixture; how it ends is above.
    """
    folder, *_ = found
    words = "rank 1 of 2 ended, as rank 0 found, expected all ranks until the end of the run"
    assert words in (folder / "killed.txt").read_text()
    assert words in (folder / "killed" / "log.txt").read_text()
    files = (folder / "killed_files.txt").read_text().splitlines()
    assert "checkpoints/step-00000004.pt" in files
    assert "weights.safetensors" not in files
    assert not [name for name in files if name.endswith(".tmp")]


def test_one_signal_stops_all(found):
    _, first, second, _ = found
    assert first["stopped"] == second["stopped"] == (3, 15)


def test_who_is_waited_for(found):
    _, first, _, _ = found
    assert "ranks: epoch 3, batch 7: rank 0 of 2 waited" in first["meeting"]
    assert "Ranks 1 failed" in first["meeting"]
    assert "rank 1 of 2 gave no answer within 0.5 s, as rank 0 found" in first["silent"]


def test_places_in_a_batch():
    """The parts of all ranks are the batch, each with whole stretches of every part."""
    ranks = [module.Ranks() for _ in range(2)]
    for rank, each in enumerate(ranks):
        each.rank, each.world = rank, 2
    assert [each.slots(8) for each in ranks] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert [each.slots(8, 2) for each in ranks] == [[0, 1, 4, 5], [2, 3, 6, 7]]
    with pytest.raises(ValueError, match="got 6 images in 2 parts, expected a multiple of 4 for 2 ranks"):
        ranks[0].slots(6, 2)


def test_parts_of_the_batches_of_each_kind(tmp_path, monkeypatch):
    """Together the whole batch; people and sequences whole, both modalities of each and the visible half first, as
    much of each domain.
    """
    monkeypatch.setattr(models, "MODELS", dict(models.MODELS))
    ranks_systems.add_networks()
    people = ranks_systems.write_people(tmp_path)
    for name in ("paired", "margin head and triplet", "sequences", "domains"):
        config = ranks_systems.configuration(ranks_systems.SYSTEMS[name], people)
        rows = setup.training_rows(config, setup.training_manifest(config))
        alone, *parts = ranks_systems.loaders_of(config, rows, [module.Ranks(), *ranks_systems.sharers()])
        for batch, *shares in zip(*(each.iterate(0, 0) for each in (alone, *parts)), strict=True):
            assert sorted(p for share in shares for p in share.paths) == sorted(batch.paths)
            groups = [set(share.pids.tolist()) for share in shares]
            for share in shares:
                half = len(share.pids) // 2
                assert half == len(batch.pids) // 4
                if name == "paired":
                    assert share.modality.tolist() == [0] * half + [1] * half
                    assert torch.equal(share.pids[:half], share.pids[half:])
                if name == "sequences":
                    assert (share.tracklet.view(-1, 2).diff() == 0).all()
                if name == "domains":
                    assert share.camids.tolist().count(0) == share.camids.tolist().count(1) == half
            if name in ("paired", "margin head and triplet"):
                assert not groups[0] & groups[1]
                assert all(len(group) == 2 for group in groups)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"batch_size": 9, "images_per_id": 3}, "got 9, expected a multiple of the 2 ranks"),
        ({"batch_size": 12, "images_per_id": 4}, "got 6, expected a multiple of data.images_per_id = 4"),
        ({"batch_size": 8, "images_per_id": 4}, "got 1 people x 4 images"),
    ],
)
def test_batches_that_two_cannot_share(data, words):
    ranks = module.Ranks()
    ranks.world = 2
    with pytest.raises(ConfigError, match=words):
        module.sharing(from_dict({"data": data}), None, ranks)


def test_refused_before_any_work(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("WORLD_SIZE", "3")
    folder = tmp_path / "run"
    assert train.main(["--data.batch_size", "64", "--run.folder", str(folder)]) == 2
    assert (
        "data.batch_size: got 64, expected a multiple of the 3 ranks that share it" in capsys.readouterr().err
    )
    assert not folder.exists()
    assert competition.main(["--folder", str(folder)]) == 2
    assert "competition: processes: got 3 of a launcher, expected one" in capsys.readouterr().err
    assert not folder.exists()


def test_another_number_of_ranks_is_refused():
    resume.check_ranks(2, 2)
    with pytest.raises(resume.ResumeError, match=r"got 1, expected the 2 of the run; .*--nproc-per-node 2"):
        resume.check_ranks(2, 1)


def test_devices(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert module.local_device("cpu") == "cpu"
    assert module.local_device("cuda") == "cuda:1"
    with pytest.raises(ValueError, match="got cuda:0 for several ranks, expected cuda, auto or cpu"):
        module.local_device("cuda:0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert module.local_device("cuda:0") == "cuda:0"


def test_synchronised_batch_norm_is_for_gpus():
    config = from_dict({"train": {"sync_batch_norm": True}, "run": {"device": "cpu"}})
    with pytest.raises(ConfigError, match=r"train\.sync_batch_norm: got True with run.device cpu"):
        validate(config)


def test_synchronised_batch_norm_is_that_of_losses_too(tmp_path, monkeypatch):
    """A clothes classifier has one."""
    config = ranks_systems.configuration(
        ranks_systems.SYSTEMS["paired"], ranks_systems.write_people(tmp_path)
    )
    config.train.sync_batch_norm = True
    with_neck = SimpleNamespace(losses=lambda context: nn.ModuleDict({"neck": nn.BatchNorm1d(4)}))
    monkeypatch.setattr(setup, "method", lambda name: with_neck)
    monkeypatch.setattr(setup.dist, "is_initialized", lambda: True)
    rows = setup.training_rows(config, setup.training_manifest(config))
    made = setup.build_state(config, rows, rows.label_map(), torch.device("cpu"), print)
    assert isinstance(made.criteria["neck"], nn.SyncBatchNorm)
    kinds = [type(module) for module in made.model.modules() if "BatchNorm" in type(module).__name__]
    assert kinds
    assert set(kinds) == {nn.SyncBatchNorm}


def test_amp_auto(monkeypatch):
    cpu = torch.device("cpu")
    assert Config().train.amp == "off"
    assert state.half_type("off", cpu) is None
    assert state.half_type("bf16", cpu) is torch.bfloat16
    for able, expected in (({"avx512_bf16": True}, torch.bfloat16), ({"avx512_bf16": False}, None)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda able=able: able)
        assert state.half_type("auto", cpu) is expected
