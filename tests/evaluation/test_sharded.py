# SPDX-License-Identifier: Apache-2.0
"""Work shared out over the ranks of a torch.distributed group: every rank ends up with what one process computes
alone, bit for bit, whether all ranks have the same inputs or each its own rows."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from shard_cases import clouds, everything
from sharded import results

from fastreid_ops.evaluation import Shard, draw, evaluate_shards

WORKER = Path(__file__).with_name("sharded.py")

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def alone():
    return results(None), everything(None)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """What each of three ranks wrote."""
    folder = tmp_path_factory.mktemp("sharded")
    targets = [folder / f"{rank}.pt" for rank in range(3)]
    running = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(rank), "3", str(folder / "rendezvous"), str(target)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, target in enumerate(targets)
    ]
    for process in running:
        _, errors = process.communicate(timeout=840)
        assert process.returncode == 0, errors
    return [torch.load(target, weights_only=True) for target in targets]


@pytest.fixture(params=[1, 2, 3])
def found(request, written):
    """What each of so many ranks got."""
    return [each[request.param] for each in written[: request.param]]


def test_equal_inputs(found, alone):
    for got, _ in found:
        assert got.keys() == alone[0].keys()
        for name, value in alone[0].items():
            assert torch.equal(got[name], value), name


@pytest.mark.parametrize("kind", ["protocols", "features", "pooled", "without the library"])
def test_own_rows(found, alone, kind):
    for _, got in found:
        assert got[kind].keys() == alone[1][kind].keys()
        for name, value in alone[1][kind].items():
            assert got[kind][name] == value, name


def test_the_test_sets_say_something(alone):
    figures = [value for value in alone[1]["protocols"].values() if isinstance(value, dict)]
    assert len(figures) > 0.9 * len(alone[1]["protocols"])
    assert any(isinstance(value, str) for value in alone[1]["protocols"].values())
    for value in alone[1]["features"].values():
        assert 0.1 < value["mAP"] < 0.9


def test_result_files(found, alone):
    for rank, (_, got) in enumerate(found):
        for name, value in alone[1]["engine"].items():
            assert got["engine"][name]["results"] == value["results"], name
            assert got["engine"][name]["files"] == (value["files"] if rank == 0 else {}), name
            calls = {each["engine"][name]["calls"] for _, each in found}
            assert len(calls) == 1, name  # a rank with fewer batches still takes part in what all do
    assert "rankings/set.json" in alone[1]["engine"]["ranking"]["files"]


def test_all_ranks_end_alike(found):
    for name, words in (
        ("nan", "extract: model: got 1 features with NaN or Inf (first: row 200), expected finite features"),
        ("torn", "the disk is gone"),
        ("inf", "evaluate_shards: gallery: got 0 NaN and 1 Inf in 1 row(s)"),
        ("interrupted", ""),
    ):
        said = [got["failures"][name] for _, got in found]
        assert all(text.startswith(words) for text in said), said
        if name in ("nan", "inf"):
            last = len(found) - 1
            assert [text.endswith(f" (on rank {last})") for text in said] == [True] * last + [False]
    if len(found) > 1:
        assert {got["failures"]["twice"] for _, got in found} == {
            "evaluate_shards: gallery: got a row on two ranks, expected each row on one"
        }


def test_no_rank_has_the_gallery(found):
    """200 gallery rows and 30 queries, read in batches of 16; 600 and 30 in some 80 tracklets."""
    ranks = len(found)
    for _, got in found:
        # Own rows twice while features are put together, and the queries of one rank on their way.
        assert 230 / ranks < got["held"]["engine"] <= 2 * (230 / ranks + 16) + 30
        assert 630 / ranks < got["held"]["tracklets"]
        assert ranks < 3 or (got["held"]["engine"] < 200 and got["held"]["tracklets"] < 600)


@pytest.fixture
def one_rank():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield dist.group.WORLD
    dist.destroy_process_group()


ROWS = torch.arange(20)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"total": 21}, ValueError, "gallery: got total 21, expected 20, the rows drawn from"),
        (
            {"place": ROWS.flip(0)},
            ValueError,
            "gallery: got other numbers of rows, expected ascending ones below 20",
        ),
        (
            {"place": ROWS + 1},
            ValueError,
            "gallery: got other numbers of rows, expected ascending ones below 20",
        ),
        ({"place": ROWS[:19]}, ValueError, r"gallery: got shape \(19\), expected size 20 in dimension 0"),
        ({"place": ROWS.int()}, TypeError, "gallery: got int32, expected int64"),
        (
            {"values": torch.zeros(20, 33, device="meta")},
            ValueError,
            "gallery: got device meta, expected rows on the",
        ),
        ({"values": torch.zeros(20, 33).long()}, TypeError, "gallery: got int64, expected float32"),
        (
            {"values": torch.zeros(20, 30)},
            ValueError,
            r"gallery: got shape \(20, 30\), expected size 33 in dimension 1",
        ),
        (
            {"values": torch.zeros(20, 33).double()},
            TypeError,
            "gallery: got float64, expected float32, the dtype of",
        ),
        ({"values": torch.full((20, 33), torch.nan)}, ValueError, "gallery: got 660 NaN and 0 Inf in 20 row"),
        (
            {"values": torch.zeros(0, 33), "place": ROWS[:0]},
            ValueError,
            "gallery: got no row with a feature in trial 0",
        ),
    ],
)
def test_refused(one_rank, change, error, words):
    (query, of_query), (gallery, of_gallery) = clouds(5, 20)
    drawn = draw("market1501", of_query, of_gallery)
    shards = Shard(query, ROWS[:5], 5), Shard(gallery, ROWS, 20)
    with pytest.raises(error, match=words):
        evaluate_shards(drawn, shards[0], shards[1]._replace(**change), group=one_rank)
    with pytest.raises(ValueError, match="metric: got 'l2', expected one of"):
        evaluate_shards(drawn, *shards, metric="l2", group=one_rank)
    with pytest.raises(TypeError, match=r"group: got NoneType, expected a torch\.distributed\.ProcessGroup"):
        evaluate_shards(drawn, *shards, group=None)
