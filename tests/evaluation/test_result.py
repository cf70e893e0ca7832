# SPDX-License-Identifier: Apache-2.0
"""Result: exact round trip, a table that says its protocol, and no reading of something else."""

import json
import os

import pytest
import torch

from fastreid_ops.evaluation import Labels, Protocol, Result, evaluate


@pytest.fixture
def result():
    generator = torch.Generator().manual_seed(1)
    pids = [torch.randint(6, (count,), generator=generator) for count in (30, 90)]
    camids = [torch.randint(3, (count,), generator=generator) for count in (30, 90)]
    pids[0][3] = 77
    sides = [Labels(*pair) for pair in zip(pids, camids, strict=True)]
    distance = torch.rand(30, 90, generator=generator)
    return evaluate(distance, *sides, Protocol("mine", ap="trapezoid", max_rank=12))


def test_json_round_trip_is_exact(result, tmp_path):
    assert Result.from_dict(result.to_dict()) == result
    assert Result.from_dict(json.loads(json.dumps(result.to_dict()))) == result
    path = result.save(tmp_path / "result.json")
    again = Result.load(path)
    assert again == result
    assert [value.hex() for value in again.ap] == [value.hex() for value in result.ap]
    assert json.loads(path.read_text())["counts"] == result.counts


def test_older_files_load(result):
    """Written before a result had cmc_rank and a protocol more than five fields."""
    values = json.loads(json.dumps(result.to_dict()))
    del values["cmc_rank"]
    for field in set(values["protocol"]) - {"name", "ap", "ties", "camera_rule", "max_rank"}:
        del values["protocol"][field]
    assert Result.from_dict(values) == result


def test_only_plain_types(result):
    def walk(value):
        if isinstance(value, dict):
            assert all(type(key) is str for key in value)
            return all(walk(each) for each in value.values())
        if isinstance(value, list):
            return all(map(walk, value))
        return type(value) in (str, int, float, bool)

    assert walk(result.to_dict())


def test_save_replaces_as_a_whole(result, tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    path.write_text("old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            result.save(path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["result.json"]
    result.save(path)
    assert os.listdir(tmp_path) == ["result.json"]
    assert Result.load(path) == result


def test_rank(result):
    assert result.rank(1) == result.cmc[0]
    assert result.rank(12) == result.cmc[11]
    for k in (0, 13, -1, 1.0, True, "1"):
        with pytest.raises(ValueError, match=r"Result\.rank: k: got .*, expected an int from 1 to 12"):
            result.rank(k)


def test_table_says_everything(result):
    text = result.table()
    assert str(result) == text
    head, figures, counts, rules = text.splitlines()
    assert head.split() == ["mAP", "mINP", "Rank-1", "Rank-5", "Rank-10"]
    want = [result.mAP, result.mINP, result.rank(1), result.rank(5), result.rank(10)]
    assert figures.split() == [f"{100 * value:.2f}" for value in want]
    assert counts.startswith(
        f"{result.counts['valid']} of 30 queries counted, 90 gallery images; left out: 1 absent pid"
    )
    assert rules == result.protocol.describe()
    assert result.table(ranks=(1, 20)).splitlines()[0].split() == ["mAP", "mINP", "Rank-1"]


@pytest.mark.parametrize(
    ("pattern", "change"),
    [
        ("difference in mAP", lambda d: d.pop("mAP")),
        ("difference in extra", lambda d: d.update(extra=1)),
        ("got lengths", lambda d: d["ap"].pop()),
        ("cmc: got 11", lambda d: d["cmc"].pop()),
        ("status: got", lambda d: d["status"].__setitem__(0, 7)),
        ("Protocol: ap: got 'x'", lambda d: d["protocol"].update(ap="x")),
        ("unknown direction", lambda d: d["protocol"].update(direction="both")),
        ("trials: got 10", lambda d: d["protocol"].update(trials=10)),
    ],
)
def test_refuses_what_is_not_a_result(result, pattern, change, tmp_path):
    values = json.loads(json.dumps(result.to_dict()))
    change(values)
    path = tmp_path / "x.json"
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=pattern) as caught:
        Result.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"mAP"'])
def test_refuses_what_is_no_object(text, tmp_path):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"x\.json"):
        Result.load(path)
