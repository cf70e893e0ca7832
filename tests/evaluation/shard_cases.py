# SPDX-License-Identifier: Apache-2.0
"""What test_sharded compares of features that are spread over ranks: for a group, this rank's part of the work; for
None, the same by one process with all features."""

import re
import tempfile
import weakref
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from test_every_protocol import columns, example, features
from torch.utils._python_dispatch import TorchDispatchMode

from fastreid_ops.data.manifest import Manifest
from fastreid_ops.engine.assess import EvalData, assess, unique_files, write_results
from fastreid_ops.engine.interrupt import Interrupted
from fastreid_ops.engine.ranks import Ranks
from fastreid_ops.engine.run_folder import RunFolder
from fastreid_ops.engine.silent import SilentFolder
from fastreid_ops.evaluation import PROTOCOLS, Columns, Shard, draw, evaluate_shards, protocols
from fastreid_ops.evaluation import shards as of_evaluation
from fastreid_ops.evaluation.by_protocol import evaluate_draws, trials
from fastreid_ops.evaluation.shards import trial_shards
from fastreid_ops.ops import _rank_shards, feature_ranking, nearest

# Who has a row: stretches, as the engine shares out files; anybody; nobody but the last rank; the first has none.
SEEDS = (4, 10)  # of test_every_protocol's sets: somebody is found in most
DEALS = ("stretches", "anybody", "last", "not first")


def deal(values, way, group, seed):
    """This rank's rows."""
    rank, ranks = dist.get_rank(group), dist.get_world_size(group)
    count = len(values)
    owner = {
        "stretches": torch.arange(count) * ranks // max(count, 1),
        "anybody": torch.randint(ranks, (count,), generator=torch.Generator().manual_seed(seed)),
        "last": torch.full((count,), ranks - 1),
        "not first": torch.arange(count) % max(ranks - 1, 1) + (ranks > 1),
    }[way]
    place = (owner == rank).nonzero().flatten()
    return Shard(values[place], place, count)


def by_protocol(group):
    """Every named protocol on random test sets full of ties, tracklets torn apart; the error where there is one."""
    found = {}
    for name, made in PROTOCOLS.items():
        for seed in SEEDS:
            query, gallery = example(name, seed)
            drawn_twice = {"trials": 2} if made.trials > 1 else {}
            (rules,) = protocols(name, **drawn_twice)
            sides = features(query), features(gallery)
            try:
                drawn = draw(rules, columns(query), columns(gallery))
                if group is None:
                    result = evaluate_draws(drawn, *sides)
                else:
                    ways = DEALS[len(found) % 4], DEALS[len(found) // 3 % 4]
                    shards = (deal(v, way, group, seed) for v, way in zip(sides, ways, strict=True))
                    result = evaluate_shards(drawn, *shards, group=group)
                found[f"{name} {seed}"] = result.to_dict()
            except ValueError as error:  # nobody to be found
                found[f"{name} {seed}"] = re.sub("(evaluate|rank)_[a-z]+: ", "", str(error))
    return found


def clouds(queries, gallery, depth=33, people=40, dtype=torch.float32):
    """Features around those of some people, two rows in ten equal to others, and their Columns."""
    generator = torch.Generator().manual_seed(7)
    centres = torch.randn(people, depth, generator=generator)
    sides = []
    for count in (queries, gallery):
        who = torch.randint(people, (count,), generator=generator)
        values = (centres[who] + 1.5 * torch.randn(count, depth, generator=generator)).to(dtype)
        values[count // 2 : count // 2 + count // 5] = values[: count // 5]
        camids = torch.randint(4, (count,), generator=generator).tolist()
        tracklets = torch.randint(6, (count,), generator=generator).tolist()
        clothes = [tracklet % 3 for tracklet in tracklets]
        names = [f"{'g' if sides else 'q'}{i}" for i in range(count)]
        sides.append(
            (values, Columns(who.tolist(), camids, clothes=clothes, tracklets=tracklets, names=names))
        )
    return sides


def by_features(group):
    """Features without an exact mean or distance, in every metric and some dtypes; blocks of three queries."""
    found = {}
    usual = _rank_shards._QUERIES, _rank_shards._BLOCK
    for number, (name, metric, dtype, changes) in enumerate(
        (
            ("market1501", "euclidean", torch.float32, {}),
            ("clothes_changing", "cosine", torch.float32, {}),
            ("market1501_trapezoid", "arccos", torch.bfloat16, {}),
            ("openreid_allshots", "sqeuclidean", torch.float64, {}),
            ("openreid_cuhk03", "cosine", torch.float32, {}),
            ("cuhk03_10", "euclidean", torch.float32, {}),
            ("mars", "euclidean", torch.float32, {}),
            ("ccvid_clothes_changing", "cosine", torch.float32, {"tracklets": "max"}),
        )
    ):
        (query, of_query), (gallery, of_gallery) = clouds(41, 700, dtype=dtype)
        (rules,) = protocols(name, **changes)
        drawn = draw(rules, of_query, of_gallery)
        if group is None:
            result = evaluate_draws(drawn, query, gallery, metric=metric)
        else:
            _rank_shards._QUERIES, _rank_shards._BLOCK = (3, 3 * 8 * len(gallery)) if number % 2 else usual
            shards = (deal(v, DEALS[number % 2], group, number) for v in (query, gallery))
            result = evaluate_shards(drawn, *shards, metric=metric, group=group)
        found[f"{name} {metric}"] = result.to_dict()
    _rank_shards._QUERIES, _rank_shards._BLOCK = usual
    return found


def pooled(group):
    """Whether own tracklets have the bits that one process gives them, where the order of frames shows in a sum."""
    found = {}
    generator = torch.Generator().manual_seed(11)
    (_, of_query), (_, of_gallery) = clouds(41, 700, people=5)
    sides = [torch.randn(count, 33, dtype=torch.float64, generator=generator) for count in (41, 700)]
    for how in ("mean", "max"):
        drawn = draw(protocols("ccvid_standard", tracklets=how)[0], of_query, of_gallery)
        want = next(trials(drawn, *sides))
        found[how] = True
        if group is not None:
            made = next(trial_shards(drawn, *(deal(v, "anybody", group, 5) for v in sides), group))
            assert made.gallery.total == len(want.gallery) < 700
            found[how] = torch.equal(made.gallery.values, want.gallery[made.gallery.place])
    return found


class Loader:
    """Images whose pixels are features, in batches; rows that cannot be read are missing from them."""

    def __init__(self, values, size, unreadable=()):
        self.values, self.size, self.unreadable = values, size, set(unreadable)

    def __len__(self):
        return -(-len(self.values) // self.size)

    def __iter__(self):
        return self.part(0, 1)

    def part(self, number, parts):
        for batch in range(len(self) * number // parts, len(self) * (number + 1) // parts):
            rows = range(batch * self.size, min((batch + 1) * self.size, len(self.values)))
            rows = [row for row in rows if row not in self.unreadable]
            if rows:
                yield Batch(self.values[rows].view(len(rows), 3, 1, -1), torch.tensor(rows))


class Batch:
    def __init__(self, images, index):
        self.images, self.index = images, index


class Flat(torch.nn.Module):
    def forward(self, images):
        return images.flatten(1)


def eval_data(protocol, size, shared=0, unreadable=(), **options):
    """A set whose first `shared` gallery files are queries too."""
    (query, of_query), (gallery, of_gallery) = clouds(30, 200, people=12)
    sides = []
    for name, made in (("query", of_query), ("gallery", of_gallery)):
        count = len(made)
        names = [
            f"q{i}.png" if name == "gallery" and i < shared else f"{made.names[i]}.png" for i in range(count)
        ]
        extra = {"clothes": [str(c) for c in made.clothes], "tracklet": [str(t) for t in made.tracklets]}
        pids = [str(pid) for pid in made.pids]
        sides.append(Manifest(Path("/nowhere"), names, pids, list(made.camids), [name] * count, **extra))
    files = unique_files(*sides)
    values = torch.cat([query, gallery[shared:]])
    rules = protocols(protocol, **options)
    draws = {f"set-{made.name}": draw(made, *sides) for made in rules}
    labels = dict.fromkeys(draws, "Set")
    return EvalData("set", labels, "", draws, *sides, files, Loader(values, size, unreadable))


def by_engine(group):
    """`assess` and its result files: fewer batches than ranks, files on both sides, unreadable ones, ranking files,
    tracklets over the border of two ranks, several trials."""
    ranks, found = ranks_of(group), {}
    cases = {
        "plain": eval_data("market1501", 16),
        "two batches": eval_data("ltcc", 150, shared=11),
        "unreadable": eval_data("market1501", 7, unreadable=[3, 29, 30, *range(180, 211)]),
        "tracklets": eval_data("mars", 7, unreadable=range(100, 130)),
        "trials": eval_data("random_gallery", 16, trials=3),
        "ranking": eval_data("naic_undivided", 16),
    }
    for name, data in cases.items():
        calls = []
        results = assess(
            Flat(), data, torch.device("cpu"), metric="euclidean", ranks=ranks, check=partial(calls.append, 1)
        )
        with tempfile.TemporaryDirectory() as place:
            folder = RunFolder(Path(place)) if ranks.first else SilentFolder(Path(place))
            write_results(folder, results, 6)
            files = {
                str(path.relative_to(place)): path.read_text() for path in sorted(Path(place).rglob("*.json"))
            }
        found[name] = {
            "results": {key: each.result.to_dict() for key, each in results.items()},
            "files": files,
        }
        if group is not None:
            found[name]["calls"] = len(calls)
    return found


def ranks_of(group):
    made = Ranks()
    if group is not None:
        made.rank, made.world, made.group = dist.get_rank(group), dist.get_world_size(group), group
    return made


def failures(group):
    """What each rank says where one of them cannot go on."""
    said = {}
    data = eval_data("market1501", 16)
    data.loader.values[200] = float("nan")

    class Torn(Loader):
        def part(self, number, parts):
            for batch, made in enumerate(super().part(number, parts)):
                if batch == 1 and 31 in made.index:
                    raise OSError("the disk is gone")
                yield made

    torn = eval_data("market1501", 16)
    torn.loader = Torn(torn.loader.values, 16)
    for name, made in (("nan", data), ("torn", torn)):
        try:
            assess(Flat(), made, torch.device("cpu"), metric="euclidean", ranks=ranks_of(group))
        except (ValueError, OSError) as error:
            said[name] = str(error)
    (query, of_query), (gallery, of_gallery) = clouds(9, 50)
    gallery[49, 3] = float("inf")
    twice = deal(gallery[:49], "stretches", group, 0)
    twice = Shard(gallery[:20], torch.arange(20), 50) if dist.get_rank(group) else twice._replace(total=50)
    drawn = draw("market1501", of_query, of_gallery)
    for name, made in (("inf", deal(gallery, "stretches", group, 0)), ("twice", twice)):
        try:
            evaluate_shards(drawn, deal(query, "last", group, 0), made, group=group)
        except ValueError as error:
            said[name] = str(error)

    def stop():
        raise Interrupted(2)

    try:  # at the same call on every rank
        assess(
            Flat(),
            eval_data("market1501", 16),
            torch.device("cpu"),
            metric="euclidean",
            ranks=ranks_of(group),
            check=stop,
        )
    except Interrupted:
        said["interrupted"] = ""
    return said


class Held(TorchDispatchMode):
    """The most feature rows of this length that tensors hold at one time."""

    def __init__(self, depth):
        super().__init__()
        self.depth, self.most, self._alive = depth, 0, []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        made = function(*arguments, **(keywords or {}))
        for each in made if isinstance(made, tuple | list) else (made,):
            if isinstance(each, torch.Tensor) and each.dim() and each.shape[-1] == self.depth:
                self._alive.append(weakref.ref(each))
        alive = [ref() for ref in self._alive]
        sizes = {each.data_ptr(): each.untyped_storage().nbytes() // 4 for each in alive if each is not None}
        self.most = max(self.most, sum(sizes.values()) // self.depth)
        self._alive = [ref for ref, each in zip(self._alive, alive, strict=True) if each is not None]
        return made


def held(group):
    """The most rows on this rank: of the engine's evaluation; of one with tracklets of a dozen frames."""
    depth, found = 33, {}
    data = eval_data("market1501", 16)
    with Held(depth) as mode:
        assess(Flat(), data, torch.device("cpu"), metric="euclidean", ranks=ranks_of(group))
    found["engine"] = mode.most
    (query, of_query), (gallery, of_gallery) = clouds(30, 600, people=2)
    shards = [deal(v, "stretches", group, 0) for v in (query, gallery)]
    drawn = draw("mars", of_query, of_gallery)
    frames, of_evaluation._FRAMES = of_evaluation._FRAMES, 64
    with Held(depth) as mode:
        evaluate_shards(drawn, *shards, group=group)
    of_evaluation._FRAMES = frames
    found["tracklets"] = mode.most + sum(len(shard.place) for shard in shards)
    return found


def without_library(group):
    """The same bits from plain torch."""
    modules = _rank_shards, feature_ranking, nearest
    before = [_rank_shards._LIBRARY, feature_ranking._LIBRARY, nearest._STATUS]
    off = before[0]._replace(native=False)
    found = {}
    try:
        _rank_shards._LIBRARY = feature_ranking._LIBRARY = nearest._STATUS = off
        for name in ("sysu_mm01", "cuhk03_10", "openreid_allshots"):
            query, gallery = example(name, 4)
            (rules,) = protocols(name, **({"trials": 2} if PROTOCOLS[name].trials > 1 else {}))
            drawn = draw(rules, columns(query), columns(gallery))
            sides = features(query), features(gallery)
            if group is None:
                result = evaluate_draws(drawn, *sides)
            else:
                result = evaluate_shards(drawn, *(deal(v, "anybody", group, 3) for v in sides), group=group)
            found[name] = result.to_dict()
    finally:
        modules[0]._LIBRARY, modules[1]._LIBRARY, modules[2]._STATUS = before
    return found


def everything(group):
    """By name; what only a group has in it is left out for None."""
    found = {
        "protocols": by_protocol(group),
        "features": by_features(group),
        "pooled": pooled(group),
        "engine": by_engine(group),
        "without the library": without_library(group),
    }
    if group is not None:
        found |= {"failures": failures(group), "held": held(group)}
    return found
